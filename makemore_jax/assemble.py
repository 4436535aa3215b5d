"""The one module that knows all parts: kinds of data, models, and what makes training fast.

The core does not import extensions, and extensions do not know each other. Programs come here.
"""

from pathlib import Path

from flax import linen as nn

from makemore_jax import models
from makemore_jax.cli import missing_file
from makemore_jax.config import DataConfig, ModelConfig
from makemore_jax.data import Dataset, lines
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.text import dataset as text
from makemore_jax.windows import dataset as windows
from makemore_jax.windows.window_mlp import WindowMLP

DATA_KINDS = {"lines": lines.load, "windows": windows.load, "text": text.load}
EXTENSION_MODELS = {"window_mlp": WindowMLP}


def load_data(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Read and split the file `config.path`. UserError if the file or a field is unusable.

    `folder` is the working directory of a run, where a large text may have a file of tokens.
    """
    if config.kind not in DATA_KINDS:
        known = ", ".join(DATA_KINDS)
        hint = did_you_mean(config.kind, DATA_KINDS)
        raise UserError(f'data.kind: "{config.kind}" is not one of {known}{hint}')
    with missing_file.suggesting_fixes():
        return DATA_KINDS[config.kind](config, seed, folder)


def create_model(
    config: ModelConfig, vocab_size: int, block_size: int, platform: str | None = None
) -> nn.Module:
    """Return `models.create` of any model, those of extensions included."""
    families = models.MODELS | EXTENSION_MODELS
    return models.create(config, vocab_size, block_size, platform, families)

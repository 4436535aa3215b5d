"""Kinds of data, models, sampling, checkpoints and logging, those of extensions included."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flax import linen as nn
from jax import Array

from makemore_jax import models, workdir
from makemore_jax.cli import missing_file, progress
from makemore_jax.config import Config, DataConfig, ModelConfig, flatten
from makemore_jax.data import Dataset, lines
from makemore_jax.data.files import file_sha256
from makemore_jax.decoding import DEFAULT_DECODING, Decoding, LanguageModel, Sample
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.integrity import resume
from makemore_jax.integrity.lock import lock
from makemore_jax.metrics import Metrics, RunFiles, last_seconds
from makemore_jax.parallel import sampling
from makemore_jax.text import dataset as text
from makemore_jax.text import streaming
from makemore_jax.windows import dataset as windows
from makemore_jax.windows.window_mlp import WindowMLP

if TYPE_CHECKING:  # orbax is slow to import
    from makemore_jax.checkpoint import Checkpoints

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


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = DEFAULT_DECODING,
    first: int = 0,
) -> list[Sample]:
    """Sample lines or texts number `first` to `first + num - 1` of a key, on all devices.

    See `sampling.sample` for lines and `streaming.sample` for texts.
    """
    sample_kind = sampling.sample if lm.vocab.has_end else streaming.sample
    return sample_kind(lm, key, num, prompt, decoding, first)


def open_checkpoints(folder: str | Path, read_only: bool = False) -> "Checkpoints":
    """Return the checkpoints of a working directory, with checksums and retries."""
    from makemore_jax.integrity.checkpoints import VerifiedCheckpoints

    return VerifiedCheckpoints(folder, read_only)


def load_language_model(
    folder: str | Path, run: workdir.Run, checkpoint: str = "best", max_len: int | None = None
) -> LanguageModel:
    """Return the model of a run with the parameters of its `best` or `latest` checkpoint.

    `max_len` replaces the maximum length of its samples.
    """
    lm = restore_language_model(open_checkpoints(folder, read_only=True), run, checkpoint)
    return lm._replace(max_len=max_len or lm.max_len)


def restore_language_model(
    checkpoints: "Checkpoints", run: workdir.Run, checkpoint: str = "best"
) -> LanguageModel:
    """Return the model of a run with the parameters of one of its opened checkpoints."""
    block_size = run.config.data.block_size
    model = create_model(run.config.model, run.vocab.size, block_size)
    template = models.variable_shapes(model, block_size)
    variables = checkpoints.restore_variables(checkpoint, template)
    return LanguageModel(model, variables, run.vocab, run.max_len, block_size)


def find_data(run: workdir.Run, folder: Path | None = None) -> Dataset | None:
    """Return the data of a run. None if the file is missing or has changed.

    `folder` is the working directory, as in `load_data`.
    """
    config = replace(run.config.data, path=run.data_file)
    try:
        # A run from a stranger may name any file of this machine, such as /dev/zero: hash it before
        # reading it into memory.
        if not Path(run.data_file).is_file() or file_sha256(run.data_file) != run.data_sha256:
            return None
        return load_data(config, run.config.seed, folder)
    except (OSError, UserError):
        return None


@contextlib.contextmanager
def open_workdir(folder: Path, config: Config, dataset: Dataset) -> Iterator[None]:
    """Lock a working directory, and write the config and the vocabulary of the run.

    UserError if it has another run or other files, if it is locked, or if it can't be written.
    """
    resume.check(folder, config, dataset)
    with lock(folder):
        workdir.prepare(folder, config, dataset)
        yield


def open_metrics(folder: Path | None, start: int, config: Config) -> Metrics:
    """Return the logging of a training that starts at step `start`: files, TensorBoard, progress.

    Without a `folder` nothing is written or printed: only the primary process has one.
    """
    display = progress.TrainingProgress(start, config.train.steps, is_silent=folder is None)
    if folder is None:
        return Metrics(start, [], display)
    from makemore_jax.events import Events  # tensorboard, which is slow to import

    seconds = last_seconds(folder, start)
    files, events = RunFiles(folder, start), Events(folder, start)
    if start == 0:
        events.write_config(flatten(config))
    return Metrics(start, [files, events], display, seconds)

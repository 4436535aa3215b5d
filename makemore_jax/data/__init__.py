"""From a text file to integers on a device.

Every kind of data gives a `Dataset` whose splits know two things: `size`, how many examples there
are, and `take(indices)`, the examples at these indices as (inputs, targets). Both are pure, so a
batch is drawn inside the compiled step from a key, with replacement, and no iterator has a state.
There are as many targets as the model gives logits: (B, T) for lines, (B, 1) for windows.
"""

import jax
from jax import Array

from makemore_jax.config import DataConfig
from makemore_jax.data import lines, windows
from makemore_jax.errors import UserError, did_you_mean

KINDS = {"lines": lines.load, "windows": windows.load}
Split = lines.Lines | windows.Windows


def load(config: DataConfig, seed: int) -> lines.Dataset:
    """Read `config.path`. UserError if the file or a field of the config is of no use."""
    if config.kind not in KINDS:
        known = ", ".join(KINDS)
        hint = did_you_mean(config.kind, KINDS)
        raise UserError(f'data.kind: "{config.kind}" is not one of {known}{hint}')
    return KINDS[config.kind](config, seed)


def draw(split: Split, key: Array, batch_size: int) -> tuple[Array, Array]:
    """A random batch: inputs (B, T) and targets (B, T or 1), drawn with replacement."""
    return split.take(draw_indices(split, key, batch_size))


def draw_indices(split: Split, key: Array, batch_size: int) -> Array:
    """Which examples a random batch has, drawn with replacement. (B,)"""
    return jax.random.randint(key, (batch_size,), 0, split.size)

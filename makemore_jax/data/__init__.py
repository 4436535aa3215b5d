"""From a text file to integers on a device.

Every kind of data gives a dataset whose splits know two things: `size`, how many examples there
are, and `take(indices)`, the examples at these indices as (inputs, targets). Both are pure, so a
batch is drawn inside the compiled step from a key, with replacement, and no iterator has a state.
There are as many targets as the model gives logits: (B, T) for lines and texts, (B, 1) for windows.

A text that is too large for the device's memory lies in a file. What the coming steps will draw is
known before they run, as it is a function of the key: it is read ahead of them.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax.config import DataConfig
from makemore_jax.data import lines, text, windows
from makemore_jax.errors import UserError, did_you_mean

KINDS = {"lines": lines.load, "windows": windows.load, "text": text.load}
Split = lines.Lines | windows.Windows | text.Text
Dataset = lines.Dataset | text.TextDataset


def load(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Read `config.path`. UserError if the file or a field of the config is of no use.

    `folder` is that of a run, where a large text may have a file of tokens.
    """
    if config.kind not in KINDS:
        known = ", ".join(KINDS)
        hint = did_you_mean(config.kind, KINDS)
        raise UserError(f'data.kind: "{config.kind}" is not one of {known}{hint}')
    return KINDS[config.kind](config, seed, folder)


def each_once(split: Split) -> Split:
    """The split as it is evaluated: no character is a target twice."""
    return split.each_once() if isinstance(split, text.Text) else split


def at_hand(split: Split, indices: np.ndarray) -> Split:
    """The same split, of which at least what stands at `indices` is on the device."""
    return split.read(indices) if isinstance(split, text.TextFile) else split


def ahead(split: Split, key: Array, step: int, num_steps: int, batch_size: int) -> Split:
    """The same split, with at hand what `num_steps` steps from `step` on will draw with `key`."""
    if not isinstance(split, text.TextFile):
        return split
    return split.read(_draw_steps(split, key, step + np.arange(num_steps), batch_size))


@partial(jax.jit, static_argnums=3)
def _draw_steps(split: Split, key: Array, steps: Array, batch_size: int) -> Array:
    def indices(step: Array) -> Array:
        return draw_indices(split, jax.random.fold_in(key, step), batch_size)

    return jax.vmap(indices)(steps)


def draw(split: Split, key: Array, batch_size: int) -> tuple[Array, Array]:
    """A random batch: inputs (B, T) and targets (B, T or 1), drawn with replacement."""
    return split.take(draw_indices(split, key, batch_size))


def take_below(split: Split, indices: Array, size: Array | int) -> tuple[Array, Array]:
    """The examples at `indices` (B,), with no targets where an index is not below `size`.

    So the last batch of a split has the shape of the others.
    """
    inputs, targets = split.take(jnp.minimum(indices, size - 1))
    return inputs, jnp.where((indices < size)[:, None], targets, -1)


def draw_indices(split: Split, key: Array, batch_size: int) -> Array:
    """Which examples a random batch has, drawn with replacement. (B,)"""
    return jax.random.randint(key, (batch_size,), 0, split.size)

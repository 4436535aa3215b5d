"""From a text file to integers on a device.

A split is a set of examples as a tree of arrays that goes into compiled functions. Batches are
drawn inside the compiled step, with replacement, from a key, so there is no iterator and no state.
`lines.py` is makemore's data. Other kinds are objects with the same methods; `assemble.py` lists
them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.data.text_file import Vocab


class Batch(NamedTuple):
    """Examples as arrays."""

    inputs: Array  # (B, T) int32
    targets: Array  # (B, T), or (B, 1) for windows; -1 where there is no target
    options: dict[str, Array] = {}  # noqa: RUF012 (keyword arguments of the model)


class Split(Protocol):
    """The examples of train, dev or test."""

    block_size: int  # T

    @property
    def size(self) -> int:
        """The number of examples."""

    def take(self, indices: Array) -> Batch:
        """Return the examples at `indices` (B,). Pure."""

    def load(self, indices: Callable[[], np.ndarray]) -> "Split":
        """Return the split with at least the examples at `indices()` on the device."""

    def for_evaluation(self) -> "Split":
        """Return the split in which every target occurs once."""

    def batch_size(self) -> int:
        """Return the number of examples to evaluate at once."""


class Dataset(Protocol):
    """A data file: its vocabulary and its splits."""

    vocab: Vocab
    block_size: int
    max_len: int  # tokens of the longest sample, its end included
    splits: dict[str, Split]  # train, dev, test
    sha256: str  # of the file
    num_samples: int  # to draw during training, unless the config gives a number

    def describe_splits(self) -> str:
        """Return the sizes of the splits in words."""

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return samples as lines to print."""

    def prepare(self) -> None:
        """Write the files that the splits read, if any. UserError if that fails."""


@struct.dataclass
class FixedBatch:
    """A split that draws the same batch in every step: for comparisons."""

    batch: Batch

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.batch.inputs)

    def take(self, indices: Array) -> Batch:
        """Return the batch; `indices` are ignored."""
        return self.batch


def draw_indices(split: Split, key: Array, batch_size: int) -> Array:
    """Return the indices of a random batch, drawn with replacement. (B,)"""
    return jax.random.randint(key, (batch_size,), 0, split.size)


@partial(jax.jit, static_argnums=3)
def draw_steps(split: Split, key: Array, steps: Array, batch_size: int) -> Array:
    """Return the indices that some `steps` (S,) of a training draw with its data key. (S, B)"""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, steps)
    return jax.vmap(lambda key: draw_indices(split, key, batch_size))(keys)


def draw(split: Split, key: Array, batch_size: int) -> Batch:
    """Return a random batch, drawn with replacement."""
    return split.take(draw_indices(split, key, batch_size))


def take_below(split: Split, indices: Array, size: Array | int) -> Batch:
    """Return the examples at `indices` (B,), without targets for indices of `size` or more.

    So the last batch of a split has the shape of the others.
    """
    batch = split.take(jnp.minimum(indices, size - 1))
    return batch._replace(targets=jnp.where((indices < size)[:, None], batch.targets, -1))

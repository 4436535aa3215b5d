"""Text files as integer arrays on a device.

A split is a tree of arrays with a method that returns the examples at given indices. Batches are
drawn with replacement inside the compiled step, from a key, so there is no iterator and no state.
`lines.py` is makemore's data. Other kinds of data implement the same interface; `assemble`
lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax.data.vocabulary import Vocab

# Per evaluated batch, and per microbatch on CPU: more do not fit in the cache of a core.
MAX_TOKENS_PER_BATCH = 4_096


class Batch(NamedTuple):
    """Examples as arrays."""

    inputs: Array  # (B, T) int32
    targets: Array  # (B, T), or (B, 1) for windows; -1: no target
    options: dict[str, Array] = {}  # keyword arguments of the model  # noqa: RUF012


class Split(Protocol):
    """The examples of train, dev or test. The defaults suit data that is on the device."""

    block_size: int  # T
    size: int  # number of examples

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Return the examples at `indices` (B,), or only their first `width` tokens. Pure."""

    def load(self, indices: Callable[[], np.ndarray]) -> "Split":
        """Return a split with at least the examples at `indices()` on the device.

        A split that is already on the device returns itself and does not call `indices`.
        """
        return self

    def for_evaluation(self) -> "Split":
        """Return the split in which every target occurs once."""
        return self

    def eval_batch_size(self) -> int:
        """Return the number of examples to evaluate at once."""
        return max(1, MAX_TOKENS_PER_BATCH // self.block_size)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data file: its vocabulary and its splits."""

    vocab: Vocab
    block_size: int
    max_len: int  # tokens of the longest sample, including its end
    splits: dict[str, Split]  # train, dev, test
    sha256: str  # of the file
    unit: str  # what an example is, in the plural
    num_samples: int = 10  # to draw during training, unless the config gives a number

    def describe_splits(self) -> str:
        """Return the sizes of the splits, as "20,242 train, 1,124 dev, 1,124 test lines"."""
        sizes = [f"{split.size:,} {name}" for name, split in self.splits.items()]
        return f"{', '.join(sizes)} {self.unit}"

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return samples as lines to print. `is_cut`: which samples reached the maximum length."""
        return texts

    def prepare(self) -> None:
        """Write the files that the splits read, if any. Raise UserError if that fails."""


def draw_indices(split: Split, key: Array, batch_size: int) -> Array:
    """Return the indices of a random batch, drawn with replacement. (B,)"""
    return jax.random.randint(key, (batch_size,), 0, split.size)


def draw(split: Split, key: Array, batch_size: int) -> Batch:
    """Return a random batch, drawn with replacement."""
    return split.take(draw_indices(split, key, batch_size))


def take_below(split: Split, indices: Array, size: Array | int) -> Batch:
    """Return the examples at `indices` (B,). Those at `size` or above get targets of -1.

    This way the last batch of a split has the same shape as the others.
    """
    batch = split.take(jnp.minimum(indices, size - 1))
    return batch._replace(targets=jnp.where((indices < size)[:, None], batch.targets, -1))

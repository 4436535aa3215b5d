"""How a batch of lines lies in arrays, so that little is computed on padding.

More than half of a batch of names is padding. It has no target, so that whatever is computed there
changes neither loss nor gradient, and need not be computed. A compiled program has fixed shapes:
it gets one branch for each layout, and at every step takes the first that the batch drawn fits in.
"""

import inspect
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.data import MAX_TOKENS_PER_BATCH, Batch, Split
from makemore_jax.data.lines import Lines


class Layout(Protocol):
    """One way for a batch to lie in arrays."""

    def fits(self, lengths: Array) -> Array:
        """Whether lines with so many tokens (..., B) have room, all together. () bool"""

    def take(self, split: Split, indices: Array) -> Batch:
        """The examples at `indices` (B,)."""


class Rows(NamedTuple):
    """A line in each row, rows cut off at `width`: for models that read lines step by step."""

    width: int

    def fits(self, lengths: Array) -> Array:
        return lengths.max() <= self.width

    def take(self, split: Split, indices: Array) -> Batch:
        return split.take(indices, self.width)


class Packed(NamedTuple):
    """Line behind line through all rows, of which only the last have padding, at their end."""

    num_rows: int
    width: int  # no line may be longer

    def fits(self, lengths: Array) -> Array:
        return lengths.sum(axis=-1).max() <= self.num_rows * self.width

    def take(self, split: Lines, indices: Array) -> Batch:
        return take_packed(split, indices, self.num_rows, self.width)


def take_packed(lines: Lines, indices: Array, num_rows: int, width: int) -> Batch:
    """Concatenate the lines at `indices` (B,) and wrap them into `num_rows` rows.

    Return inputs, targets and the index of each token in its line, (num_rows, width) each.
    """
    lengths = lines.lengths(indices)
    ends = jnp.cumsum(lengths)
    place = jnp.arange(num_rows * width)
    line = (place[:, None] >= ends).sum(axis=1)  # the index in `indices`; B after the last line
    is_inside = line < len(indices)
    line = jnp.minimum(line, len(indices) - 1)
    position = jnp.where(is_inside, place - (ends - lengths)[line], 0)
    at = lines.starts[indices][line] + position
    inputs = jnp.where(is_inside, lines.stream[at].astype(jnp.int32), 0)
    targets = jnp.where(is_inside, lines.stream[at + 1].astype(jnp.int32), -1)
    return Batch(*(a.reshape(num_rows, width) for a in (inputs, targets, position)))


def count_chunks(
    num_lines: int, block_size: int, accumulate: int = 1, platform: str | None = None
) -> int:
    """Return the number of microbatches in a device's part of a batch.

    It is `accumulate`. On CPU it is larger for many lines that divide into microbatches that fit in
    cache. `platform` is by default the one that jax uses.
    """
    most = max(1, MAX_TOKENS_PER_BATCH // block_size)
    sizes = [n for n in range(most, most // 4, -1) if num_lines % n == 0]
    is_cpu = (platform or jax.default_backend()) == "cpu"
    if not is_cpu or not sizes or num_lines <= most:
        return accumulate
    return max(accumulate, num_lines // sizes[0])


def choose(
    split: Split, batch_size: int, model: nn.Module, num_devices: int = 1, accumulate: int = 1
) -> list[Layout]:
    """The layouts for the chunks of a split's batches, the cheapest first; all fit in the last.

    Packed, the batch has as many rows as make it cheapest, what does not fit being computed in
    whole rows; else half of all batches have the first width and nine tenths the second. Found by
    drawing from these very lines. On an accelerator there is one layout, the whole block: its time
    is not in the products, and it would wait for the host at each branch. Windows and crops of a
    text are all of it.
    """
    whole = Rows(split.block_size)
    if jax.default_backend() != "cpu" or not isinstance(split, Lines):
        return [whole]
    lengths = np.diff(np.asarray(split.starts))
    num_parts = num_devices * count_chunks(batch_size // num_devices, split.block_size, accumulate)
    num_draws = min(2_000, max(100, 2_000_000 // batch_size))
    shape = (num_draws, num_parts, batch_size // num_parts)
    drawn = np.random.default_rng(0).choice(lengths, shape)
    if "positions" not in inspect.signature(type(model).__call__).parameters:
        widths = np.quantile(drawn.max(axis=(1, 2)), (0.5, 0.9), method="higher")
        return [Rows(int(width)) for width in np.unique(widths) if width < whole.width] + [whole]
    width = -(-split.block_size // 8) * 8  # eights fill the processor's vectors
    whole_cost = batch_size // num_parts * whole.width
    needed = -(-drawn.sum(axis=2).max(axis=1) // width)  # rows, for each batch drawn

    def cost(num_rows: int) -> float:
        """Tokens computed for a chunk, on average."""
        return np.where(needed <= num_rows, num_rows * width, whole_cost).mean()

    num_rows = min(range(1, int(needed.max()) + 1), key=cost)
    return [Packed(num_rows, width), whole] if cost(num_rows) < 0.8 * whole_cost else [whole]


def first_that_fits(layouts: list[Layout], lengths: Array) -> Array:
    """The index of the layout for batches of lines with so many tokens (..., B). () int32"""
    return sum((~layout.fits(lengths)).astype(jnp.int32) for layout in layouts[:-1])

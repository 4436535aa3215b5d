"""Layouts of a batch of lines that save most of the computation on padding.

More than half of a batch of names is padding, which changes neither loss nor gradient. A compiled
program has fixed shapes, so it has one branch for each layout. Each step uses the first layout that
fits its batch.
"""

import inspect
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array

from makemore_jax.data import MAX_TOKENS_PER_BATCH, Batch, Split
from makemore_jax.data.lines import Lines
from makemore_jax.training.step import GradientFn, Sums


class Layout(Protocol):
    """One way to arrange a batch in arrays."""

    def fits(self, lengths: Array) -> Array:
        """Return whether batches of lines with these lengths (..., B) all fit. () bool"""

    def take(self, split: Split, indices: Array) -> Batch:
        """Return the examples at `indices` (B,)."""


class Rows(NamedTuple):
    """One line per row, `width` tokens in each row. For models that read lines step by step."""

    width: int

    def fits(self, lengths: Array) -> Array:
        return lengths.max() <= self.width

    def take(self, split: Split, indices: Array) -> Batch:
        return split.take(indices, self.width)


class Packed(NamedTuple):
    """Lines concatenated through all rows, with padding only at the end."""

    num_rows: int
    width: int  # at least the length of the longest line

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
    slots = jnp.arange(num_rows * width)
    line = (slots[:, None] >= ends).sum(axis=1)  # index into `indices`; B after the last line
    is_inside = line < len(indices)
    line = jnp.minimum(line, len(indices) - 1)
    position = jnp.where(is_inside, slots - (ends - lengths)[line], 0)
    stream_index = lines.starts[indices][line] + position
    inputs = jnp.where(is_inside, lines.stream[stream_index].astype(jnp.int32), 0)
    targets = jnp.where(is_inside, lines.stream[stream_index + 1].astype(jnp.int32), -1)
    inputs, targets, position = (a.reshape(num_rows, width) for a in (inputs, targets, position))
    return Batch(inputs, targets, {"positions": position})


@struct.dataclass
class Arranged:
    """A split whose `take` returns batches in a layout."""

    split: Any
    layout: Layout = struct.field(pytree_node=False)

    def take(self, indices: Array) -> Batch:
        """Return the examples at `indices` (B,)."""
        return self.layout.take(self.split, indices)


def with_layouts(gradient_fn: GradientFn, layouts: list[Layout], num_parts: int) -> GradientFn:
    """Pass each batch to `gradient_fn` in the first of `layouts` that fits it.

    The layout must fit each of the `num_parts` parts of the batch (devices times microbatches).
    """

    def arranged(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        def branch(layout: Layout) -> Sums:
            return gradient_fn(variables, Arranged(split, layout), indices, key)

        if len(layouts) == 1:
            return branch(layouts[0])
        # Lengths are computed on every device; a collective would cost more.
        index = layout_index(layouts, split.lengths(indices).reshape(num_parts, -1))
        branches = [lambda layout=layout: branch(layout) for layout in layouts]
        return jax.lax.switch(index, branches)

    return arranged


def num_microbatches(num_lines: int, block_size: int, accumulate: int = 1) -> int:
    """Return the number of microbatches for the part of a batch on one device.

    It is `accumulate`. On CPU it may be larger, so that microbatches fit in the cache.
    """
    max_size = max(1, MAX_TOKENS_PER_BATCH // block_size)
    sizes = [n for n in range(max_size, max_size // 4, -1) if num_lines % n == 0]
    if jax.default_backend() != "cpu" or not sizes or num_lines <= max_size:
        return accumulate
    return max(accumulate, num_lines // sizes[0])


def choose(split: Split, batch_size: int, model: nn.Module, num_parts: int = 1) -> list[Layout]:
    """Return the layouts for the parts of a split's batches, cheapest first.

    The last layout has whole rows, which fit every batch. It is the only one for windows and crops
    of a text, which have no padding. It is also the only one on accelerators, where less padding
    saves little time, and the choice of a branch synchronizes with the host.

    The other layouts are estimated from random batches of the split. If the model accepts packed
    lines, there is one: the number of rows that computes the fewest tokens on average. Other models
    read lines step by step: their widths are the 50th and 90th percentile of a batch's longest
    line.
    """
    whole = Rows(split.block_size)
    if jax.default_backend() != "cpu" or not isinstance(split, Lines):
        return [whole]
    lengths = np.diff(np.asarray(split.starts))
    num_draws = min(2_000, max(100, 2_000_000 // batch_size))
    shape = (num_draws, num_parts, batch_size // num_parts)
    drawn = np.random.default_rng(0).choice(lengths, shape)
    if "positions" not in inspect.signature(type(model).__call__).parameters:
        widths = np.quantile(drawn.max(axis=(1, 2)), (0.5, 0.9), method="higher")
        return [Rows(int(width)) for width in np.unique(widths) if width < whole.width] + [whole]
    width = -(-split.block_size // 8) * 8  # multiples of 8 fill the vectors of a CPU
    whole_cost = batch_size // num_parts * whole.width
    rows_needed = -(-drawn.sum(axis=2).max(axis=1) // width)  # by each random batch

    def cost(num_rows: int) -> float:
        """Return the mean number of tokens that are computed for a part of a batch."""
        return np.where(rows_needed <= num_rows, num_rows * width, whole_cost).mean()

    num_rows = min(range(1, int(rows_needed.max()) + 1), key=cost)
    return [Packed(num_rows, width), whole] if cost(num_rows) < 0.8 * whole_cost else [whole]


def layout_index(layouts: list[Layout], lengths: Array) -> Array:
    """Return the index of the first layout that fits lines of these lengths (..., B). ()"""
    return sum((~layout.fits(lengths)).astype(jnp.int32) for layout in layouts[:-1])

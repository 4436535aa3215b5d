"""The crops of a text: all slices of `block_size` + 1 characters, as a split.

A text is stored as the smallest unsigned integer type, on the device (`Text`). A large text is in a
token file in the working directory instead (`TextFile`), and the crops that the next steps need are
read from it (`Crops`). All three return the same crop for the same index, so results do not depend
on how a text is stored.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.data import Batch, Split
from makemore_jax.errors import UserError


@struct.dataclass
class Text(Split):
    """The crops of one split on the device. They start at every `stride`-th character."""

    tokens: Array  # (num_chars,), smallest unsigned integer
    num_chars: int = struct.field(pytree_node=False)
    block_size: int = struct.field(pytree_node=False)  # T
    stride: int = struct.field(pytree_node=False, default=1)

    @property
    def size(self) -> int:
        """The number of crops. Without overlap the last one may be shorter."""
        if self.stride == 1:
            return self.num_chars - self.block_size
        return -(-(self.num_chars - 1) // self.stride)

    def for_evaluation(self) -> "Text":
        """Return adjacent crops, so every character except the first is a target once."""
        return self.replace(stride=self.block_size)

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Return the crops at `indices` (B,): inputs (B, T) and targets (B, T), shifted by one.

        After the end of the text, inputs are 0 and targets -1. T is `width`, by default the
        block_size.
        """
        offsets = jnp.arange((width or self.block_size) + 1)
        positions = indices[:, None] * self.stride + offsets  # (B, T + 1)
        tokens = self._tokens_at(indices, positions)
        tokens = jnp.where(positions < self.num_chars, tokens, -1)
        return Batch(jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:])

    def _tokens_at(self, indices: Array, positions: Array) -> Array:
        """Return the tokens at the `positions` (B, n) of the text."""
        return self.tokens[jnp.minimum(positions, self.num_chars - 1)].astype(jnp.int32)


@struct.dataclass
class Crops(Text):
    """The crops of a token file at `indices`, on the device. `tokens` is (M, T + 1)."""

    indices: Array = None  # (M,) int32, ascending

    def _tokens_at(self, indices: Array, positions: Array) -> Array:
        rows = jnp.searchsorted(self.indices, indices)
        return self.tokens[rows, : positions.shape[1]].astype(jnp.int32)


@struct.dataclass
class TextFile(Text):
    """The crops of one split of a token file. Nothing is on the device: `tokens` is None."""

    file: str = struct.field(pytree_node=False, default="")
    dtype: str = struct.field(pytree_node=False, default="uint8")
    first: int = struct.field(pytree_node=False, default=0)  # index of the split's first token

    def load(self, indices: Callable[[], np.ndarray]) -> Crops:
        """Return the crops at `indices()` (any shape), read from the file."""
        indices = np.sort(np.asarray(indices()).ravel())
        # Read instead of mapping the file into memory: the operating system maps more pages than
        # are accessed and counts them as memory of the process (1.7 GiB after 800 steps on a file
        # of 2 GiB).
        crops = np.zeros((len(indices), self.block_size + 1), self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            for crop, index in zip(crops, indices.tolist(), strict=True):
                begin = index * self.stride
                file.seek((self.first + begin) * crops.itemsize)
                part = crop[: self.num_chars - begin]
                if file.readinto(part) != part.nbytes:
                    raise UserError(f"{self.file} is damaged: it became shorter; delete it")
        sizes = (self.num_chars, self.block_size, self.stride)
        return Crops(jnp.asarray(crops), *sizes, jnp.asarray(indices, jnp.int32))

"""The crops of a text: all slices of `block_size` characters, as a split.

A text is stored as the smallest unsigned integer type, on the device (`Text`) or, if it is large,
in a token file in the working directory (`TextFile`). The crops that the next steps need are then
read from the file (`Crops`). All three return the same crop for the same index, so they give the
same numbers.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.data import Batch, Split


@struct.dataclass
class Text(Split):
    """The crops of one split on the device. They start at every `stride`-th character."""

    tokens: Array  # (num_chars,), smallest unsigned integer
    num_chars: int = struct.field(pytree_node=False)
    block_size: int = struct.field(pytree_node=False)  # T
    stride: int = struct.field(pytree_node=False, default=1)

    @property
    def size(self) -> int:
        """The number of crops. The last one is whole if they overlap, else it may be shorter."""
        if self.stride == 1:
            return self.num_chars - self.block_size
        return -(-(self.num_chars - 1) // self.stride)

    def for_evaluation(self) -> "Text":
        """Return adjacent crops, so every character except the first is a target once."""
        return self.replace(stride=self.block_size)

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Crops at `indices` (B,) -> inputs (B, T); targets (B, T), the inputs shifted by one.

        After the end of the text, inputs are 0 and targets -1. T is `width`, by default the
        block_size.
        """
        place = indices[:, None] * self.stride + jnp.arange((width or self.block_size) + 1)
        tokens = jnp.where(place < self.num_chars, self._tokens_at(indices, place), -1)  # (B, T+1)
        return Batch(jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:])

    def _tokens_at(self, indices: Array, place: Array) -> Array:
        """Return the tokens at the positions `place` (B, n) of the text."""
        return self.tokens[jnp.minimum(place, self.num_chars - 1)].astype(jnp.int32)


@struct.dataclass
class Crops(Text):
    """The crops of a token file at some indices, on the device. `tokens` are (M, T + 1)."""

    indices: Array = None  # (M,) int32, ascending

    def _tokens_at(self, indices: Array, place: Array) -> Array:
        rows = jnp.searchsorted(self.indices, indices)
        return self.tokens[rows, : place.shape[1]].astype(jnp.int32)


@struct.dataclass
class TextFile(Text):
    """The crops of one split of a token file. Nothing is on the device: `tokens` are None."""

    file: str = struct.field(pytree_node=False, default="")
    dtype: str = struct.field(pytree_node=False, default="uint8")
    first: int = struct.field(pytree_node=False, default=0)  # index of the split's first token

    def load(self, indices: Callable[[], np.ndarray]) -> Crops:
        """Return the crops at `indices()` (any shape), read from the file."""
        indices = np.sort(np.asarray(indices()).ravel())
        # Reads instead of a memory map: the kernel maps more pages than are accessed and counts
        # them as memory of the process (1.7 GiB after 800 steps on a file of 2 GiB).
        crops = np.zeros((len(indices), self.block_size + 1), self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            for crop, index in zip(crops, indices.tolist(), strict=True):
                begin = index * self.stride
                file.seek((self.first + begin) * crops.itemsize)
                file.readinto(crop[: self.num_chars - begin])
        sizes = (self.num_chars, self.block_size, self.stride)
        return Crops(jnp.asarray(crops), *sizes, jnp.asarray(indices, jnp.int32))

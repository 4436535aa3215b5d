"""Windows, as the lectures have them: every character of every line, and those just before it.

Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3, section 2.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.config import DataConfig
from makemore_jax.data import Batch, lines
from makemore_jax.errors import UserError


@struct.dataclass
class Windows:
    """The windows of one split, cut out of its stream of lines whenever they are asked for."""

    stream: Array  # (N + 1,), as that of Lines: 0 before each line, and a last one
    block_size: int = struct.field(pytree_node=False)  # T

    @property
    def size(self) -> int:
        """N, the number of characters, the end of each line among them."""
        return self.stream.shape[-1] - 1

    def batch_size(self) -> int:
        """How many windows are evaluated at once."""
        return max(1, lines.TOKENS_AT_ONCE // self.block_size)

    def load(self, indices: Callable[[], np.ndarray]) -> "Windows":
        """Return the split itself: all windows are on the device."""
        return self

    def for_evaluation(self) -> "Windows":
        """Return the split itself: every target occurs once."""
        return self

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Windows at `indices` (B,) -> inputs (B, T), 0 before the line begins; targets (B, 1).

        T is `width`, or the block_size; the nearest character is the last.
        """
        ago = jnp.arange(1, (width or self.block_size) + 1)
        before = self.stream[jnp.maximum(indices[:, None] + 1 - ago, 0)].astype(jnp.int32)
        inside = jnp.cumprod(before != 0, axis=1)  # up to the 0 before the line
        return Batch(
            (before * inside)[:, ::-1], self.stream[indices + 1].astype(jnp.int32)[:, None]
        )


def load(config: DataConfig, seed: int, folder: Path | None = None) -> lines.Dataset:
    """Read and split a file of lines, and see it as windows. UserError names what is wrong."""
    if config.block_size is None:
        raise UserError(
            "data.block_size: windows need one, the number of characters before each; "
            "the lectures have 3 and 8"
        )
    dataset = lines.load(replace(config, block_size=None), seed)
    splits = {k: Windows(v.stream, config.block_size) for k, v in dataset.splits.items()}
    return replace(dataset, block_size=config.block_size, splits=splits)

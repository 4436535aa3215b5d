"""`windows`: the lectures' data. Predict every character of a line from those before it.

Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3, section 2.
"""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
from flax import struct
from jax import Array

from makemore_jax import known_lines
from makemore_jax.config import DataConfig
from makemore_jax.data import Batch, Split
from makemore_jax.errors import UserError
from makemore_jax.known_lines import KnownLines


@struct.dataclass
class Windows(Split):
    """The windows of one split, computed from its stream of lines on demand."""

    stream: Array  # (N + 1,), as in Lines: a 0 before each line and after the last
    block_size: int = struct.field(pytree_node=False)  # T

    @property
    def size(self) -> int:
        """N, the number of characters, including the end of each line."""
        return self.stream.shape[-1] - 1

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Return the windows at `indices` (B,): inputs (B, T) and targets (B, 1).

        The last input is the character before the target. Inputs are 0 before the start of the
        line. T is `width`, by default the block_size.
        """
        distance = jnp.arange(1, (width or self.block_size) + 1)
        before = self.stream[jnp.maximum(indices[:, None] + 1 - distance, 0)].astype(jnp.int32)
        # From the newest character backwards: 1 inside the line, 0 before its start.
        is_inside = jnp.cumprod(before != 0, axis=1)
        inputs = (before * is_inside)[:, ::-1]
        return Batch(inputs, self.stream[indices + 1].astype(jnp.int32)[:, None])


def load(config: DataConfig, seed: int, folder: Path | None = None) -> KnownLines:
    """Read and split a file of lines as windows. Raise UserError if it can't be used."""
    if config.block_size is None:
        raise UserError(
            "data.block_size is not set; windows need the number of characters before each "
            "target; the lectures use 3 and 8"
        )
    dataset = known_lines.load(replace(config, block_size=None), seed)
    splits = {k: Windows(v.stream, config.block_size) for k, v in dataset.splits.items()}
    return replace(dataset, block_size=config.block_size, splits=splits, unit="windows")

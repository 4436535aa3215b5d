"""`lines`: makemore's data, a text file with one example per line.

A split is one stream of tokens on the device, with a 0 before each line: 0 emma 0 olivia 0 ... 0.
The inputs of a line are the slice of the stream from its 0 to its last character. Its targets are
the same slice shifted by one. They end with the next 0, which ends this line and starts the next.
Memory grows with the text, not with the length of the longest line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.config import DataConfig
from makemore_jax.data import Batch, Dataset, Split, files
from makemore_jax.data.splits import SPLITS
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError, look_up


@struct.dataclass
class Lines(Split):
    """The lines of one split."""

    stream: Array  # (characters + N + 1,), smallest unsigned integer
    starts: Array  # (N + 1,) int32: index of the 0 before each line, and of the final 0
    block_size: int = struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """N, the number of lines."""
        return self.starts.shape[0] - 1

    def lengths(self, indices: Array) -> Array:
        """Return the number of input tokens of the lines at `indices` (B,). (B,)"""
        return self.starts[indices + 1] - self.starts[indices]

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Return the lines at `indices` (B,): inputs (B, T), padded with 0; targets, with -1.

        T is `width`, by default the block_size.
        """
        position = jnp.arange(width or self.block_size)
        start, end = self.starts[indices, None], self.starts[indices + 1, None]
        is_inside = start + position < end  # (B, T)
        inputs = jnp.where(is_inside, self.stream[start + position].astype(jnp.int32), 0)
        targets = jnp.where(is_inside, self.stream[start + position + 1].astype(jnp.int32), -1)
        return Batch(inputs, targets)


@dataclass(frozen=True, kw_only=True)
class LinesDataset(Dataset):
    """A file of lines."""

    words: dict[str, list[str]]  # the lines of train, dev, test


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, stripped, without empty ones."""
    return [line for line in map(str.strip, text.splitlines()) if line]


def encode(words: list[str], vocab: Vocab, block_size: int) -> Lines:
    """Return words as one split. Each is shorter than `block_size`, of known characters."""
    tokens = [0]
    for word in words:
        tokens += [*vocab.encode(word), 0]
    stream = np.array(tokens, np.min_scalar_type(vocab.size - 1))
    starts = np.flatnonzero(stream == 0).astype(np.int32)
    return Lines(jnp.asarray(stream), jnp.asarray(starts), block_size)


def shorten(words: list[str], block_size: int, config: DataConfig) -> list[str]:
    """Drop or cut the lines that do not fit in `block_size`, or refuse them with a UserError."""
    if config.long_lines == "cut":
        words = [cut for word in words if (cut := word[: block_size - 1].strip())]
    elif config.long_lines == "drop":
        words = [word for word in words if len(word) < block_size]
    elif len(longest := max(words, key=len)) >= block_size:
        raise UserError(
            f"data.block_size: {block_size} is too short for the line {longest[:40]!r} of "
            f"{config.path}, which has {len(longest)} characters; give {len(longest) + 1} or more, "
            "or set data.long_lines to drop or cut"
        )
    return words


def load(
    config: DataConfig, seed: int, folder: Path | None = None, splits: dict[str, Callable] = SPLITS
) -> LinesDataset:
    """Read a file of lines and split it by one of `splits`. Raise UserError if it can't be used.

    `folder` is not used: no split of lines reads a file.
    """
    text, sha256 = files.read(config.path, config.encoding)
    words = split_lines(text)
    if not (num_read := len(words)):
        raise UserError(f"data.path: {config.path} is empty; it needs one example per line")
    block_size = config.block_size or len(max(words, key=len)) + 1
    words = shorten(words, block_size, config)
    vocab = Vocab(tuple(sorted(set("".join(words)))))
    if config.dedup:
        words = list(dict.fromkeys(words))
    indices = look_up("data.split", config.split, splits)(len(words), seed)
    if empty := [name for name, chosen in indices.items() if not len(chosen)]:
        count = "1 line" if len(words) == 1 else f"{len(words)} lines"
        options = " after data.long_lines or data.dedup" if len(words) < num_read else ""
        raise UserError(
            f"data.path: {config.path} has {count}{options}, too few: "
            f"the {config.split} split leaves none for {empty[0]}"
        )
    by_split = {name: [words[i] for i in chosen] for name, chosen in indices.items()}
    return LinesDataset(
        vocab=vocab,
        block_size=block_size,
        max_len=block_size,
        splits={name: encode(chosen, vocab, block_size) for name, chosen in by_split.items()},
        sha256=sha256,
        unit="lines",
        words=by_split,
    )

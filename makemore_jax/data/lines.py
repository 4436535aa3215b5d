"""`lines`: makemore's data, a text file with one example per line.

All lines of a split lie in one stream on the device, a 0 before each: 0 emma 0 olivia 0 ... 0.
The inputs of a line are the slice of the stream that begins at its 0, its targets the slice one
further on, which ends with the 0 of the next line: the line's own end. So memory grows with the
text, not with the longest line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from makemore_jax.config import DataConfig
from makemore_jax.data import Batch, text_file
from makemore_jax.data.splits import SPLITS
from makemore_jax.data.text_file import Vocab
from makemore_jax.errors import UserError

TOKENS_AT_ONCE = 4_096  # more have no room in a core's cache, and take longer for each token


@struct.dataclass
class Lines:
    """The lines of one split, as a tree of arrays that goes into compiled functions."""

    stream: Array  # (characters + lines + 1,), smallest unsigned integer
    starts: Array  # (N + 1,) int32: where the 0 before each line lies; the last: the final 0
    block_size: int = struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """N, the number of lines."""
        return self.starts.shape[0] - 1

    def batch_size(self) -> int:
        """How many lines are evaluated or scored at once."""
        return max(1, TOKENS_AT_ONCE // self.block_size)

    def lengths(self, indices: Array) -> Array:
        """How many tokens the lines at `indices` (B,) have, the 0 at their beginning included."""
        return self.starts[indices + 1] - self.starts[indices]

    def load(self, indices: Callable[[], np.ndarray]) -> "Lines":
        """Return the split itself: all lines are on the device."""
        return self

    def for_evaluation(self) -> "Lines":
        """Return the split itself: every target occurs once."""
        return self

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Lines at `indices` (B,) -> inputs (B, T), padded with 0; targets (B, T), with -1.

        T is `width`, or the block_size.
        """
        position = jnp.arange(width or self.block_size)
        start, following = self.starts[indices, None], self.starts[indices + 1, None]
        inside = start + position < following  # (B, T)
        inputs = jnp.where(inside, self.stream[start + position].astype(jnp.int32), 0)
        targets = jnp.where(inside, self.stream[start + position + 1].astype(jnp.int32), -1)
        return Batch(inputs, targets)

    def take_packed(self, indices: Array, num_rows: int, width: int) -> Batch:
        """Lines at `indices` (B,), one behind the other through all rows.

        -> inputs, targets, and how far into its line each token is; (num_rows, width) each.
        """
        lengths = self.lengths(indices)
        end = jnp.cumsum(lengths)
        place = jnp.arange(num_rows * width)
        line = (place[:, None] >= end).sum(axis=1)  # which of the B, or B behind the last
        inside = line < len(indices)
        line = jnp.minimum(line, len(indices) - 1)
        position = jnp.where(inside, place - (end - lengths)[line], 0)
        at = self.starts[indices][line] + position
        inputs = jnp.where(inside, self.stream[at].astype(jnp.int32), 0)
        targets = jnp.where(inside, self.stream[at + 1].astype(jnp.int32), -1)
        shape = num_rows, width
        positions = {"positions": position.reshape(shape)}
        return Batch(inputs.reshape(shape), targets.reshape(shape), positions)


@dataclass(frozen=True)
class Dataset:
    """A file of lines: on the host its words by split, on the device the same as integers."""

    vocab: Vocab
    block_size: int
    max_len: int  # tokens of the longest line that may be drawn, its end included
    words: dict[str, list[str]]  # by split: train, dev, test
    splits: dict[str, Lines]  # likewise
    sha256: str  # of the file
    num_samples: int = 10  # to draw during training, unless the config gives a number

    def found_in(self, texts: list[str], is_cut: list[bool] | None = None) -> list[str]:
        """Return for each text the first of train, test, dev that has it, else 'new'.

        'cut' for the beginning of a longer line, which says nothing about the whole line.
        """
        where = {}
        for name in ("dev", "test", "train"):
            where |= dict.fromkeys(set(texts).intersection(self.words[name]), name)
        is_cut = is_cut or [False] * len(texts)
        pairs = zip(texts, is_cut, strict=True)
        return ["cut" if cut else where.get(text, "new") for text, cut in pairs]

    def by_place(self, texts: list[str], is_cut: list[bool] | None = None) -> dict[str, list[str]]:
        """Group texts by 'in train', 'in dev', 'in test', 'new' and 'cut'; see `found_in`."""
        places: dict[str, list[str]] = {
            p: [] for p in ("in train", "in dev", "in test", "new", "cut")
        }
        for text, where in zip(texts, self.found_in(texts, is_cut), strict=True):
            places[where if where in places else f"in {where}"].append(text)
        return places

    def describe_splits(self) -> str:
        """The sizes of the splits, such as "20,242 train, 1,124 dev, 1,124 test lines"."""
        unit = "lines" if isinstance(self.splits["train"], Lines) else "windows"
        return (
            ", ".join(f"{split.size:,} {name}" for name, split in self.splits.items()) + f" {unit}"
        )

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return samples as printed: one per line, grouped by place, "" for an empty one."""
        groups = self.by_place(texts, is_cut).items()
        return [
            line
            for place, group in groups
            if group
            for line in (f"{place}:", *(f"  {text}" if text else '  ""' for text in group))
        ]

    def prepare(self) -> None:
        """All is on the device already."""


def split_lines(text: str) -> list[str]:
    """The lines of a text, stripped, empty ones dropped."""
    return [line for line in map(str.strip, text.splitlines()) if line]


def encode(words: list[str], vocab: Vocab, block_size: int) -> Lines:
    """Words, all of known characters and below `block_size` long, as one split."""
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int32)
    dtype = np.min_scalar_type(vocab.size - 1)
    stream = np.zeros(starts[-1] + 1, dtype=dtype)
    is_char = np.ones(len(stream), dtype=bool)
    is_char[starts] = False
    stream[is_char] = vocab.encode("".join(words))
    return Lines(jnp.asarray(stream), jnp.asarray(starts), block_size)


def load(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Read and split a file of lines. UserError names what is wrong with it."""
    text, sha256 = text_file.read(config.path, config.encoding)
    words = split_lines(text)
    if not words:
        raise UserError(f"data.path: {config.path} is empty; it needs one example per line")
    vocab = Vocab(tuple(sorted(set("".join(words)))))
    longest = max(words, key=len)
    block_size = config.block_size or len(longest) + 1
    if len(longest) >= block_size:
        raise UserError(
            f"data.block_size: {block_size} is too short for the line {longest[:40]!r} of "
            f"{config.path}, which has {len(longest)} characters; give {len(longest) + 1} or more"
        )
    if config.dedup:
        words = list(dict.fromkeys(words))
    indices = SPLITS[config.split](len(words), seed)
    for name, chosen in indices.items():
        if not len(chosen):
            count = "1 line" if len(words) == 1 else f"{len(words)} lines"
            raise UserError(
                f"data.path: {config.path} has {count}, too few: "
                f"the {config.split} split leaves none for {name}"
            )
    by_split = {name: [words[i] for i in chosen] for name, chosen in indices.items()}
    splits = {name: encode(chosen, vocab, block_size) for name, chosen in by_split.items()}
    return Dataset(vocab, block_size, block_size, by_split, splits, sha256)

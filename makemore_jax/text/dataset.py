"""`text`: one long text, whose examples are all of its crops of `block_size` characters.

A text is held as the smallest unsigned integers, on the device (`Text`) or, where it is larger
than is wise, in a file beside the run (`TextFile`), of which the crops that are about to be used
are read (`Crops`). All three are the same function of an index, so which of them it is changes no
number of a run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from tqdm import tqdm

from makemore_jax.config import DataConfig
from makemore_jax.data import Batch
from makemore_jax.data.lines import TOKENS_AT_ONCE
from makemore_jax.data.text_file import Vocab, find, opening, wrong_encoding
from makemore_jax.errors import UserError
from makemore_jax.workdir import write_json

MAPPED_FROM = 2**28  # bytes; a larger text is read from a file of tokens
CHARS_AT_ONCE = 2**16  # that are read and encoded: more have no room in a core's cache
SHOWN_FROM = 2**22  # characters; encoding more takes so long that one wants to see how far it is
MOST_CHARS = 2**31 - 2**20  # an index is an int32, and a context behind it must be one too
SAMPLE_LEN = 500  # characters of a sample, unless it is asked for more
RULE = "-" * 20  # printed between samples


@struct.dataclass
class Text:
    """The crops of one split, which begin at every `stride`-th of its characters."""

    tokens: Array  # (num_chars,), smallest unsigned integer
    num_chars: int = struct.field(pytree_node=False)
    block_size: int = struct.field(pytree_node=False)  # T
    stride: int = struct.field(pytree_node=False, default=1)

    @property
    def size(self) -> int:
        """How many crops there are: whole ones, where they overlap, else as many as hold all."""
        if self.stride == 1:
            return self.num_chars - self.block_size
        return -(-(self.num_chars - 1) // self.stride)

    def for_evaluation(self) -> "Text":
        """The same with every character but the first once as a target: crops side by side."""
        return self.replace(stride=self.block_size)

    def load(self, indices: Callable[[], np.ndarray]) -> "Text":
        """Return the split itself: the whole text is on the device."""
        return self

    def batch_size(self) -> int:
        """How many crops are evaluated at once."""
        return max(1, TOKENS_AT_ONCE // self.block_size)

    def take(self, indices: Array, width: int | None = None) -> Batch:
        """Crops at `indices` (B,) -> inputs (B, T); targets (B, T), the characters one further on.

        Behind the end of the text inputs are 0 and targets -1. T is `width`, or the block_size.
        """
        place = indices[:, None] * self.stride + jnp.arange((width or self.block_size) + 1)
        tokens = jnp.where(place < self.num_chars, self._at(indices, place), -1)  # (B, T + 1)
        return Batch(jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:])

    def _at(self, indices: Array, place: Array) -> Array:
        """The tokens at `place` (B, n), wherever that is in the text."""
        return self.tokens[jnp.minimum(place, self.num_chars - 1)].astype(jnp.int32)


@struct.dataclass
class Crops(Text):
    """Those crops of a file that stand at `indices`, and no others, on the device."""

    # `tokens` here are (M, T + 1), of crop after crop
    indices: Array = None  # (M,) int32, rising

    def _at(self, indices: Array, place: Array) -> Array:
        which = jnp.searchsorted(self.indices, indices)
        return self.tokens[which, : place.shape[1]].astype(jnp.int32)


@struct.dataclass
class TextFile(Text):
    """The crops of one split of a text that lies in a file of tokens; on the device is nothing."""

    # `tokens` here are None
    file: str = struct.field(pytree_node=False, default="")
    dtype: str = struct.field(pytree_node=False, default="uint8")
    first: int = struct.field(pytree_node=False, default=0)  # where the split begins in the file

    def load(self, indices: Callable[[], np.ndarray]) -> Crops:
        """Return the crops at `indices()` (any shape), read from the file."""
        indices = np.sort(np.asarray(indices()).ravel())
        # Read, not mapped: of a mapped file the kernel hands over far more than is looked at, and
        # counts it as memory of the process: 1.7 GiB after 800 steps on a file of two.
        crops = np.zeros((len(indices), self.block_size + 1), self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            for crop, index in zip(crops, indices.tolist(), strict=True):
                begin = index * self.stride
                file.seek((self.first + begin) * crops.itemsize)
                file.readinto(crop[: self.num_chars - begin])
        sizes = (self.num_chars, self.block_size, self.stride)
        return Crops(jnp.asarray(crops), *sizes, jnp.asarray(indices, jnp.int32))


@dataclass(frozen=True)
class TextDataset:
    """A text, cut in two: what comes last is both dev and test."""

    vocab: Vocab
    block_size: int
    splits: dict[str, Text]  # train, dev, test
    sha256: str  # of the file
    source: DataConfig
    max_len: int = SAMPLE_LEN
    num_samples: int = 1  # to draw during training, unless the config gives a number

    def describe_splits(self) -> str:
        """The sizes of the splits; those of dev and test are the same characters."""
        sizes = [f"{split.num_chars:,} {name}" for name, split in self.splits.items()]
        return ", ".join(sizes) + " characters"

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return samples as printed: the lines of each text, with a rule between two texts."""
        del is_cut  # a text has no end that could be cut off
        return f"\n{RULE}\n".join(texts).split("\n")

    def prepare(self) -> None:
        """Make the file of tokens, if there is to be one and it is not there already.

        UserError if what is there is of another text or damaged, or if nothing can be written.
        """
        train = self.splits["train"]
        if not isinstance(train, TextFile):
            return
        file = Path(train.file)
        num_chars = train.num_chars + self.splits["dev"].num_chars
        about = {"sha256": self.sha256, "chars": num_chars, "dtype": train.dtype}
        note = file.with_suffix(".json")
        if file.exists() and note.exists():
            try:
                is_same = json.loads(note.read_text("utf-8")) == about
            except ValueError:
                raise UserError(f"{note} is damaged; delete it") from None
            if not is_same:
                raise UserError(f"{file} holds another text than {self.source.path}; delete it")
            there, wanted = file.stat().st_size, num_chars * np.dtype(train.dtype).itemsize
            if there != wanted:
                raise UserError(f"{file} is damaged: {there} bytes, not {wanted}; delete it")
            return
        try:
            partial = file.with_suffix(".partial")
            with partial.open("wb") as out:
                for tokens in _encoded(self.source, self.vocab, num_chars):
                    out.write(tokens.tobytes())
            partial.replace(file)
            write_json(note, about)
        except OSError as error:
            raise UserError(f"{file} can't be written: {error.strerror}") from None


def load(config: DataConfig, seed: int, folder: Path | None = None) -> TextDataset:
    """Read a text, in parts. UserError names what is wrong with it.

    With a `folder`, one that is large stays in a file there, which `prepare` makes.
    """
    del seed  # the text is cut by position
    config = replace(config, path=find(config.path))
    vocab, num_chars, sha256 = _look_through(config)
    num_train = int(num_chars * config.train_fraction)
    for name, num in (("train", num_train), ("dev", num_chars - num_train)):
        if num <= config.block_size:
            raise UserError(
                f"data.path: {config.path} has {num_chars} characters, too few: data.train_fraction"
                f"={config.train_fraction} leaves {num} of them for {name}, and a crop takes "
                f"data.block_size + 1 = {config.block_size + 1}"
            )
    dtype = np.min_scalar_type(vocab.size - 1)
    is_large = Path(config.path).stat().st_size >= MAPPED_FROM
    if folder and (config.memory_map == "always" or (config.memory_map == "auto" and is_large)):
        where = {"file": str(folder / "text.tokens"), "dtype": dtype.name}
        train = TextFile(None, num_train, config.block_size, **where)
        dev = TextFile(None, num_chars - num_train, config.block_size, **where, first=num_train)
    else:
        tokens = np.concatenate(list(_encoded(config, vocab, num_chars)))
        train = Text(jnp.asarray(tokens[:num_train]), num_train, config.block_size)
        dev = Text(jnp.asarray(tokens[num_train:]), num_chars - num_train, config.block_size)
    splits = {"train": train, "dev": dev, "test": dev}
    return TextDataset(vocab, config.block_size, splits, sha256, config)


def encode(text: str, vocab: Vocab, block_size: int) -> Text:
    """A text of known characters."""
    tokens = np.array(vocab.encode(text), np.min_scalar_type(vocab.size - 1))
    return Text(jnp.asarray(tokens), len(tokens), block_size)


def _look_through(config: DataConfig) -> tuple[Vocab, int, str]:
    """The vocabulary of a text, its number of characters and the sha256 of its file."""
    with opening(config.path), open(config.path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    seen, num_chars = np.zeros(0x110000, bool), 0
    known = b""  # the ASCII characters seen so far, of which most texts are
    for part in _parts(config):
        num_chars += len(part)
        if rest := part.encode("utf-8", "surrogatepass").translate(None, known):
            seen[_codes(rest.decode("utf-8", "surrogatepass"))] = True
            known = np.flatnonzero(seen[:128]).astype(np.uint8).tobytes()
    if num_chars > MOST_CHARS:
        raise UserError(
            f"data.path: {config.path} has {num_chars:,} characters; at most {MOST_CHARS:,} can be "
            "read from one file"
        )
    return Vocab(tuple(map(chr, np.flatnonzero(seen))), has_end=False), num_chars, sha256


def _encoded(config: DataConfig, vocab: Vocab, num_chars: int) -> Iterator[np.ndarray]:
    """The tokens of a text, part by part. Large ones show how far they are."""
    table = np.zeros(0x110000, np.min_scalar_type(vocab.size - 1))
    table[[ord(c) for c in vocab.chars]] = np.arange(vocab.size)
    hidden = None if num_chars > SHOWN_FROM else True  # None: where there is no terminal
    with tqdm(
        total=num_chars, unit=" characters", unit_scale=True, leave=False, disable=hidden
    ) as bar:
        for part in _parts(config):
            yield table.take(_codes(part))
            bar.update(len(part))


def _codes(text: str) -> np.ndarray:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _parts(config: DataConfig) -> Iterator[str]:
    """A text, part by part; without a byte order mark, ends of lines as \\n."""
    is_first = True
    try:
        with opening(config.path), open(config.path, encoding=config.encoding) as file:
            while part := _read_part(file, config):
                part = part.removeprefix("\ufeff") if is_first else part
                is_first = False
                yield part
    except (LookupError, UnicodeError):
        raise UserError(f'data.encoding: "{config.encoding}" can\'t be read by Python') from None


def _read_part(file: TextIO, config: DataConfig) -> str:
    try:
        return file.read(CHARS_AT_ONCE)
    except UnicodeDecodeError as error:  # about the bytes that were read last
        byte = file.buffer.tell() - len(error.object) + error.start
        raise wrong_encoding(config.path, config.encoding, byte) from None

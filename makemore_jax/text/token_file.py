"""Read a text of any size in parts; write its tokens to a file."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from makemore_jax.cli import file_errors
from makemore_jax.config import DataConfig
from makemore_jax.data.files import text_sha256
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.workdir import write_json

CHARS_PER_READ = 2**16  # larger parts would not fit in the cache of a CPU core
BYTES_PER_HASH = 2**20
PROGRESS_MIN_CHARS = 2**22  # encoding a text with more characters shows a progress bar
MAX_CHARS = 2**31 - 2**20  # the int32 index of a crop plus its length must not overflow


def scan(config: DataConfig) -> tuple[Vocab, int, str]:
    """Return the vocabulary of a text, its number of characters and the sha256 of its file."""
    with _reporting(config):
        sha256 = hash_text(config.path)
    occurs, num_chars = np.zeros(0x110000, bool), 0
    known = b""  # ASCII characters seen so far; removing them first saves most of the work
    for part in _read_parts(config):
        num_chars += len(part)
        if rest := part.encode("utf-8", "surrogatepass").translate(None, known):
            occurs[_code_points(rest.decode("utf-8", "surrogatepass"))] = True
            known = np.flatnonzero(occurs[:128]).astype(np.uint8).tobytes()
    chars = tuple(map(chr, np.flatnonzero(occurs)))
    if num_chars > MAX_CHARS:
        raise UserError(
            f"data.path: {config.path} has {num_chars:,} characters; at most {MAX_CHARS:,} can be "
            "read from one file"
        )
    return Vocab(chars, has_end=False), num_chars, sha256


def hash_text(path: str | Path) -> str:
    """Return the `text_sha256` of a file of any size. A part ends where a line does."""
    with open(path, "rb") as file:
        parts = iter(lambda: file.read(BYTES_PER_HASH) + file.readline(), b"")
        return text_sha256(parts)


def encode_parts(config: DataConfig, vocab: Vocab, num_chars: int) -> Iterator[np.ndarray]:
    """Yield the tokens of a text, part by part. A long text shows a progress bar."""
    table = np.zeros(0x110000, np.min_scalar_type(vocab.size - 1))
    table[[ord(c) for c in vocab.chars]] = np.arange(vocab.size)
    disable = None if num_chars > PROGRESS_MIN_CHARS else True  # None: no bar without a terminal
    with tqdm(
        total=num_chars, unit=" characters", unit_scale=True, leave=False, disable=disable
    ) as bar:
        for part in _read_parts(config):
            yield table.take(_code_points(part))
            bar.update(len(part))


def write(file: Path, config: DataConfig, vocab: Vocab, num_chars: int, sha256: str) -> None:
    """Write the tokens of a text to `file`, and metadata to a JSON file, unless they exist.

    Raise UserError if an existing file is damaged or of another text, or if `file` can't be
    written. The metadata of older versions has no hash of the tokens.
    """
    dtype = np.min_scalar_type(vocab.size - 1)
    metadata = {"sha256": sha256, "chars": num_chars, "dtype": dtype.name}
    metadata_file = file.with_suffix(".json")
    if file.exists() and metadata_file.exists():
        try:
            saved = json.loads(metadata_file.read_text("utf-8"))
            tokens_sha256 = saved.pop("tokens_sha256", None)
        except (ValueError, AttributeError, TypeError):
            raise UserError(f"{metadata_file} is damaged; delete it") from None
        if saved != metadata:
            raise UserError(f"{file} has the tokens of another text than {config.path}; delete it")
        size, expected = file.stat().st_size, num_chars * dtype.itemsize
        if size != expected:
            raise UserError(f"{file} is damaged: {size} bytes, not {expected}; delete it")
        if tokens_sha256 not in (None, hash_file(file)):
            raise UserError(f"{file} is damaged: its sha256 has changed; delete it")
        return
    try:
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            for tokens in encode_parts(config, vocab, num_chars):
                out.write(tokens.tobytes())
        partial.replace(file)
        write_json(metadata_file, metadata | {"tokens_sha256": hash_file(file)})
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from None


def hash_file(file: Path) -> str:
    """Return the sha256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _code_points(text: str) -> np.ndarray:
    """Return the Unicode code points of a text, as uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _read_parts(config: DataConfig) -> Iterator[str]:
    """Yield a text, part by part, without a byte order mark and with \\n as the end of lines."""
    is_first = True
    with _reporting(config), open(config.path, encoding=config.encoding) as file:
        while part := _read_part(file, config):
            part = part.removeprefix("\ufeff") if is_first else part
            is_first = False
            yield part


def _reporting(config: DataConfig) -> contextlib.AbstractContextManager[None]:
    return file_errors.reporting(config.path, config.encoding)


def _read_part(file: TextIO, config: DataConfig) -> str:
    try:
        return file.read(CHARS_PER_READ)
    except UnicodeDecodeError as error:  # with positions relative to the last bytes read
        byte = file.buffer.tell() - len(error.object) + error.start
        problem = f"at byte {byte}"
        raise file_errors.wrong_encoding(config.path, config.encoding, problem) from None

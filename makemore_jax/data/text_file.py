"""A text file on disk -> its text, its hash and its vocabulary."""

import contextlib
import difflib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from makemore_jax.errors import UserError

DATA_FOLDER = "data"
DATA_VARIABLE = "MAKEMORE_DATA"  # names a second folder, for files that data/ does not have


def find(path: str) -> str:
    """Return `path`, or for a missing data/NAME the file NAME in the folder MAKEMORE_DATA."""
    file, folder = Path(path), os.environ.get(DATA_VARIABLE)
    if folder and file.parent == Path(DATA_FOLDER) and not file.exists():
        second = Path(folder) / file.name
        return str(second) if second.is_file() else path
    return path


def read(path: str, encoding: str, flag: str = "data.path") -> tuple[str, str]:
    """Return the text of the file that `find` finds, and the sha256 of its bytes.

    UserError, about `flag`, if it can't be read.
    """
    path = find(path)
    with opening(path, flag):
        raw = Path(path).read_bytes()
    return decode(raw, path, encoding, flag), hashlib.sha256(raw).hexdigest()


@contextlib.contextmanager
def opening(path: str, flag: str = "data.path") -> Iterator[None]:
    """What goes wrong when a file is opened or read inside of it becomes a UserError."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{flag}: {path} is a folder, not a text file")
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{flag}: {path} does not exist{_nearest(file)}") from None
    except OSError as error:
        raise UserError(f"{flag}: {path} can't be read: {error.strerror}") from None


def decode(raw: bytes, path: str, encoding: str, flag: str = "data.path") -> str:
    """Bytes as text, without a byte order mark. UserError, about `flag`, if they are no text."""
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding, error.start, flag) from None
    except (LookupError, UnicodeError):
        raise UserError(f'data.encoding: "{encoding}" can\'t be read by Python') from None


def wrong_encoding(path: str, encoding: str, byte: int, flag: str = "data.path") -> UserError:
    """What to raise about a file that can't be decoded from this byte on."""
    way_out = "; name its encoding, as in --config.data.encoding=latin-1"
    return UserError(
        f"{flag}: {path} is not {encoding} at byte {byte}"
        f"{way_out if flag == 'data.path' else ', as the data of the run is'}"
    )


def _nearest(file: Path) -> str:
    """What to do about a file that does not exist, to follow the message."""
    from makemore_jax.download import SOURCES

    folder = os.environ.get(DATA_VARIABLE)
    searched = ""
    if folder and file.parent == Path(DATA_FOLDER):
        searched = f", and {DATA_VARIABLE} ({folder}) does not have it"
    for name, source in SOURCES.items():
        if file.name == source.file:
            command = f"python -m makemore_jax.download {name}"
            return f"{searched}; {command} fetches it to {DATA_FOLDER}/"
    try:
        names = os.listdir(file.parent)
    except OSError:
        return searched
    nearest = difflib.get_close_matches(file.name, names, n=1)
    return searched + (f"; did you mean {file.with_name(nearest[0])}?" if nearest else "")


@dataclass(frozen=True)
class Vocab:
    """Characters <-> tokens. Token 0 starts and ends a line, and character i is token i + 1.

    A text has no such token: there character i is token i.
    """

    chars: tuple[str, ...]
    has_end: bool = True

    @property
    def size(self) -> int:
        """Number of tokens, the 0 that ends a line included."""
        return len(self.chars) + self.has_end

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.chars, start=int(self.has_end))}

    def unknown(self, text: str) -> list[str]:
        """The characters of `text` that have no token, each once."""
        return [c for c in dict.fromkeys(text) if c not in self._tokens]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text all of whose characters are known."""
        return [self._tokens[c] for c in text]

    def decode_rows(self, tokens: np.ndarray) -> list[str]:
        """The text of each row of tokens (N, T), up to its first 0, which nothing but 0 follows.

        Of a text all tokens are characters.
        """
        if not self.has_end:
            return ["".join(row) for row in np.array(self.chars)[tokens]]
        # NumPy's strings end before their last NULs, so that a row is its text as it stands.
        rows = np.array(["\0", *self.chars])[tokens]
        return np.ascontiguousarray(rows).view(f"U{tokens.shape[1]}")[:, 0].tolist()

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens of a line, up to the first 0."""
        tokens = list(tokens)
        end = tokens.index(0) if 0 in tokens else len(tokens)
        return "".join(self.chars[i - 1] for i in tokens[:end])

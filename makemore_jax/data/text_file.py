"""A text file on disk -> its text, its hash and its vocabulary."""

import difflib
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from makemore_jax.errors import UserError


def read(path: str, encoding: str, flag: str = "data.path") -> tuple[str, str]:
    """The text of a file (- is stdin) and the sha256 of its bytes, without a byte order mark.

    UserError, about what `flag` says, if it can't be read.
    """
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{flag}: {path} is a folder, not a text file")
    try:
        raw = sys.stdin.buffer.read() if path == "-" else file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{flag}: {path} does not exist{_nearest(file)}") from None
    except OSError as error:
        raise UserError(f"{flag}: {path} can't be read: {error.strerror}") from None
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{flag}: {path} is not {encoding} at byte {error.start}; "
            "name its encoding, as in --config.data.encoding=latin-1"
        ) from None
    except LookupError:
        raise UserError(f'data.encoding: "{encoding}" is no encoding that Python knows') from None
    return text.removeprefix("\ufeff"), hashlib.sha256(raw).hexdigest()


def _nearest(file: Path) -> str:
    try:
        names = os.listdir(file.parent)
    except OSError:
        return ""
    nearest = difflib.get_close_matches(file.name, names, n=1)
    return f"; did you mean {file.with_name(nearest[0])}?" if nearest else ""


@dataclass(frozen=True)
class Vocab:
    """Characters <-> tokens. Token 0 starts and ends a line; character i is token i + 1."""

    chars: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of tokens, the 0 included."""
        return len(self.chars) + 1

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.chars, start=1)}

    def unknown(self, text: str) -> list[str]:
        """The characters of `text` that have no token, each once."""
        return [c for c in dict.fromkeys(text) if c not in self._tokens]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text all of whose characters are known."""
        return [self._tokens[c] for c in text]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, up to the first 0."""
        tokens = list(tokens)
        end = tokens.index(0) if 0 in tokens else len(tokens)
        return "".join(self.chars[i - 1] for i in tokens[:end])

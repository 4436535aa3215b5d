"""Find, read and decode a text file."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

DATA_FOLDER = "data"
DATA_VARIABLE = "MAKEMORE_DATA"  # names a second folder for files that are missing in data/


def find(path: str) -> str:
    """Return `path`, or for a missing data/NAME the file NAME in the folder MAKEMORE_DATA."""
    file, folder = Path(path), os.environ.get(DATA_VARIABLE)
    if folder and file.parent == Path(DATA_FOLDER) and not file.exists():
        second = Path(folder) / file.name
        return str(second) if second.is_file() else path
    return path


def text_sha256(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of a text, which is the same for LF and CRLF: git may convert line ends.

    No part ends between the two bytes of a CRLF.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def read(path: str, encoding: str) -> tuple[str, str]:
    """Return the text of the file at `find(path)`, without a byte order mark, and its sha256."""
    raw = Path(find(path)).read_bytes()
    return raw.decode(encoding).removeprefix("\ufeff"), text_sha256([raw])

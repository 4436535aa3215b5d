"""Read and decode a text file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def text_sha256(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of a text, which is the same for LF and CRLF: git may convert line ends.

    The parts must not split a CRLF.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def read(path: str, encoding: str) -> tuple[str, str]:
    """Return the text of a file, without a byte order mark, and its sha256."""
    raw = Path(path).read_bytes()
    return raw.decode(encoding).removeprefix("\ufeff"), text_sha256([raw])

"""Find, read and decode a text file."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from makemore_jax.errors import MissingFile, UserError, WrongEncoding

DATA_FOLDER = "data"
DATA_VARIABLE = "MAKEMORE_DATA"  # names a second folder for files that are missing in data/


def find(path: str) -> str:
    """Return `path`, or for a missing data/NAME the file NAME in the folder MAKEMORE_DATA."""
    file, folder = Path(path), os.environ.get(DATA_VARIABLE)
    if folder and file.parent == Path(DATA_FOLDER) and not file.exists():
        second = Path(folder) / file.name
        return str(second) if second.is_file() else path
    return path


def read(path: str, encoding: str, flag: str = "data.path") -> tuple[str, str]:
    """Return the text of the file at `find(path)` and its sha256.

    The sha256 is that of the bytes with \\n as the end of lines, as git may change these.
    UserError, about `flag`, if the file can't be read.
    """
    path = find(path)
    with reporting_io_errors(path, flag):
        raw = Path(path).read_bytes()
    sha256 = hashlib.sha256(raw.replace(b"\r\n", b"\n")).hexdigest()
    return decode(raw, path, encoding, flag), sha256


@contextlib.contextmanager
def reporting_io_errors(path: str, flag: str = "data.path") -> Iterator[None]:
    """Turn the OSErrors of opening and reading `path` into UserErrors about `flag`."""
    if Path(path).is_dir():
        raise UserError(f"{flag}: {path} is a folder, not a text file")
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(flag, path) from None
    except OSError as error:
        raise UserError(f"{flag}: {path} can't be read: {error.strerror}") from None


def decode(raw: bytes, path: str, encoding: str, flag: str = "data.path") -> str:
    """Return bytes as text, without a byte order mark. UserError if they can't be decoded."""
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise WrongEncoding(flag, path, encoding, f"at byte {error.start}") from None
    except (LookupError, ValueError):
        raise UserError(f'data.encoding: "{encoding}" can\'t be read by Python') from None
    check_characters(set(text), path, encoding, flag)
    return text


def check_characters(chars: Iterable[str], path: str, encoding: str, flag: str) -> None:
    """WrongEncoding if `chars` has a NUL or a surrogate, which no text has.

    NumPy drops a NUL at the end of a string, and UTF-8 has no surrogates.
    """
    if wrong := [c for c in chars if c == "\0" or "\ud800" <= c <= "\udfff"]:
        raise WrongEncoding(flag, path, encoding, f"text: it has {min(wrong)!r}")

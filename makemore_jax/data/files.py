"""Find, read and decode a text file."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from makemore_jax.errors import MissingFile, UserError

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
    """Return the text of the file at `find(path)` and the sha256 of its bytes.

    UserError, about `flag`, if the file can't be read.
    """
    path = find(path)
    with reporting_io_errors(path, flag):
        raw = Path(path).read_bytes()
    return decode(raw, path, encoding, flag), hashlib.sha256(raw).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding, error.start, flag) from None
    except (LookupError, UnicodeError):
        raise UserError(f'data.encoding: "{encoding}" can\'t be read by Python') from None


def wrong_encoding(path: str, encoding: str, byte: int, flag: str = "data.path") -> UserError:
    """Return the error for a file that can't be decoded at position `byte`."""
    advice = ", as the data of the run is"
    if flag == "data.path":
        advice = "; name its encoding, as in --config.data.encoding=latin-1"
    return UserError(f"{flag}: {path} is not {encoding} at byte {byte}{advice}")

"""One-line errors for a text file that is missing, can't be read or is in another encoding.

They name what to do: which command downloads the file, a file with a similar name, or the encoding
that the file seems to have.
"""

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from makemore_jax.cli import encodings
from makemore_jax.data_folder import DATA_FOLDER, DATA_VARIABLE
from makemore_jax.errors import UserError


@contextlib.contextmanager
def reporting(path: str, encoding: str, flag: str = "data.path") -> Iterator[None]:
    """Turn the errors of opening, reading and decoding a file into a UserError about `flag`."""
    if os.path.isdir(Path(path)):  # no error for a long path; "" is the current folder
        raise UserError(f"{flag}: {path} is a folder, not a text file")
    if not encodings.is_known(encoding):
        raise _unknown(encoding)
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{flag}: {path} does not exist{_advice(Path(path))}") from None
    except OSError as error:
        raise UserError(f"{flag}: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding, f"at byte {error.start}", flag) from None
    except UnicodeError as error:
        if "BOM" in str(error):
            raise UserError(
                f"{flag}: {path} has no byte order mark; data.encoding={encoding}-le or "
                f"{encoding}-be needs none"
            ) from None
        raise _unknown(encoding) from None


def check_characters(chars: Iterable[str], path: str, encoding: str, flag: str) -> None:
    """Raise UserError if `chars` has a NUL or a surrogate: a text has neither.

    NumPy drops a NUL at the end of a string, and UTF-8 has no surrogates.
    """
    if wrong := [c for c in chars if c == "\0" or "\ud800" <= c <= "\udfff"]:
        advice = encodings.advice(path, flag, encoding, is_decoded=True)
        raise UserError(f"{flag}: {path} is not {encoding} text: it has {min(wrong)!r}{advice}")


def wrong_encoding(path: str, encoding: str, problem: str, flag: str = "data.path") -> UserError:
    """Return the error for a file that is not text in this encoding."""
    advice = encodings.advice(path, flag, encoding)
    return UserError(f"{flag}: {path} is not {encoding} {problem}{advice}")


def _unknown(encoding: str) -> UserError:
    return UserError(f'data.encoding: "{encoding}" can\'t be read by Python')


def _advice(file: Path) -> str:
    """Return the part of the message that follows 'FILE does not exist'."""
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

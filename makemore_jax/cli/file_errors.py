"""What to do about a file that is missing or in another encoding.

The core only reports the problem. This adds which command downloads the file, a similar name, or
the encoding that the file seems to have.
"""

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from makemore_jax.cli import encodings
from makemore_jax.errors import MissingFile, UserError, WrongEncoding


@contextlib.contextmanager
def suggesting_fixes() -> Iterator[None]:
    """Add advice to the message of a MissingFile or a WrongEncoding."""
    try:
        yield
    except MissingFile as error:
        raise UserError(f"{error}{_advice(Path(error.path))}") from None
    except WrongEncoding as error:
        raise UserError(
            f"{error}{encodings.advice(error.path, error.flag, error.encoding)}"
        ) from None


def _advice(file: Path) -> str:
    """Return the part of the message that follows 'FILE does not exist'."""
    from makemore_jax.data.files import DATA_FOLDER, DATA_VARIABLE
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

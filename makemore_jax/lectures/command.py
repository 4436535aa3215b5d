"""Shared by the lectures' commands: errors in one line, files that they read and write."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from makemore_jax.cli import command_line, encodings, file_errors, startup
from makemore_jax.data import files
from makemore_jax.data.lines import split_lines
from makemore_jax.data_folder import find
from makemore_jax.errors import UserError


def run(name: str, main: Callable[[], None]) -> None:
    """Call `main` with compiled programs cached; see `command_line.call`."""
    startup.use_compilation_cache()
    command_line.call(name, main)


def need_matplotlib(picture: str) -> None:
    """Prepare matplotlib to draw `picture` without a display.

    Raise UserError if it is not installed.

    Commands call this before they compute anything.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{picture} needs matplotlib: pip install matplotlib")
    importlib.import_module("makemore_jax.plots.style")  # sets the backend, except in a notebook


@contextmanager
def writing(folder: Path, name: str = "") -> Iterator[Path]:
    """Create `folder` and yield the path of the file `name` in it. OSErrors become UserErrors."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise UserError(f"--out: {path} can't be written: {error.strerror}") from None


@contextmanager
def reading_data() -> Iterator[None]:
    """Report errors about the config field data.path as errors about the flag --data."""
    try:
        yield
    except UserError as error:
        # A config can name the encoding of the file; these commands read UTF-8 only.
        message, encoding_hint, _ = str(error).partition("; name its encoding")
        hint = "; convert it" if encoding_hint else ""
        raise UserError(message.replace("data.path:", "--data:", 1) + hint) from None


def read_words(path: str) -> list[str]:
    """Return the lines of a file. Raise UserError if it can't be read or has none."""
    with reading_data(), file_errors.reporting(file := find(path), "utf-8"):
        encodings.check(file, "utf-8")
        text, _ = files.read(file, "utf-8")
        file_errors.check_characters(set(text), path, "utf-8", "data.path")
    words = split_lines(text)
    if not words:
        raise UserError(f"--data: {path} is empty; it needs one word per line")
    return words

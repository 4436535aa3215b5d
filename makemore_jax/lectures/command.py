"""Shared by the lectures' commands: arguments, and one-line error messages."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from makemore_jax.cli import (
    command_line,
    file_errors,
    missing_device,
    out_of_memory,
    output,
    paths,
    startup,
)
from makemore_jax.data import files
from makemore_jax.data.lines import split_lines
from makemore_jax.data_folder import find
from makemore_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """The arguments of python -m makemore_jax.lectures.NAME. The help is the module's docstring."""

    def __init__(self, name: str, doc: str):
        super().__init__(
            prog=f"python -m makemore_jax.lectures.{name}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.name = name

    def parse_args(self, *arguments: Any) -> argparse.Namespace:
        """Parse the arguments, and expand ~ in paths."""
        parsed = super().parse_args(*arguments)
        for name in {"data", "out"} & vars(parsed).keys():
            try:
                setattr(parsed, name, paths.local(getattr(parsed, name), f"--{name}"))
            except UserError as error:
                self.error(str(error))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.name}: {message}\n")  # argparse would print its usage, too


def run(name: str, main: Callable[[], None]) -> None:
    """Call `main`. Exit with one line for a UserError, and with 130 for a closed pipe or Ctrl-C."""
    output.open_missing()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # characters that the terminal can't show
    output.report_errors()
    startup.use_compilation_cache()
    try:
        with missing_device.reporting(), out_of_memory.reporting():
            main()
        sys.stdout.flush()  # raises BrokenPipeError here if the reader is gone
    except UserError as error:
        output.print_error(name, error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(130)
    except OSError as error:
        if error.errno is None:  # not from the operating system
            raise
        output.print_error(name, command_line.describe(error))
        sys.exit(1)


def need_matplotlib(picture: str) -> None:
    """Prepare matplotlib to draw `picture` without a display.

    Raise UserError if it is not installed.

    Commands call this before they compute anything.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{picture} needs matplotlib: pip install matplotlib")
    import matplotlib

    matplotlib.use("Agg")  # pictures.py must not do this: a notebook has its own backend


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
        text, _ = files.read(file, "utf-8")
        file_errors.check_characters(set(text), path, "utf-8", "data.path")
    words = split_lines(text)
    if not words:
        raise UserError(f"--data: {path} is empty; it needs one word per line")
    return words

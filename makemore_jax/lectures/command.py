"""What the lectures' commands share: their arguments, and mistakes told in one line."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from makemore_jax.cli import startup
from makemore_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """The arguments of python -m makemore_jax.lectures.NAME, whose docstring is the help."""

    def __init__(self, name: str, doc: str):
        super().__init__(
            prog=f"python -m makemore_jax.lectures.{name}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.name = name

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.name}: {message}\n")  # one line, where argparse adds its usage


def run(name: str, main: Callable[[], None]) -> None:
    """Call `main`. A UserError ends as one line and its exit code, a closed pipe or ^C as 130."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a character the terminal lacks must not end this
            stream.reconfigure(errors="backslashreplace")
    startup.use_compilation_cache()
    try:
        main()
        print(end="", flush=True)  # what nobody reads is to fail here
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's end flushes again
        sys.exit(130)


def need_matplotlib(picture: str) -> None:
    """Prepare matplotlib to draw `picture` without a display. UserError if it is not installed.

    Commands call this before they compute anything.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{picture} needs matplotlib: pip install matplotlib")
    import matplotlib

    matplotlib.use("Agg")  # not in pictures.py: a notebook keeps its own backend


@contextmanager
def writing(folder: Path, name: str = "") -> Iterator[Path]:
    """For what writes into `folder`, which is made: the file `name` in it, or the folder itself.

    What can't be written is a UserError about --out.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise UserError(f"--out: {path} can't be written: {error.strerror}") from None


@contextmanager
def reading_data() -> Iterator[None]:
    """For what reads a config's data.path: its mistakes, told of --data, which is UTF-8."""
    try:
        yield
    except UserError as error:
        told, told_config, _ = str(error).partition("; name its encoding")
        way_out = "; convert it" if told_config else ""
        raise UserError(told.replace("data.path:", "--data:", 1) + way_out) from None

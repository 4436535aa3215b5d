"""Standard output and error that are closed, full, or lost with their terminal.

Terminals execute control characters. In a model from someone else they could change the screen or
worse, so they are shown as escapes.
"""

import math
import os
import sys
from collections.abc import Callable
from typing import Any

from makemore_jax.cli import interrupts
from makemore_jax.cli.resources import program_name
from makemore_jax.errors import UserError

# The C0 and C1 control characters and DEL, except newline and tab.
CONTROL_CODES = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
ESCAPES = {code: f"\\x{code:02x}" for code in CONTROL_CODES}


def escape(text: str) -> str:
    """Return a text with escapes, such as \\x1b, for the characters that control a terminal."""
    return text.translate(ESCAPES)


def without_infinity(tree: Any) -> Any:
    """Return the tree with None for nan and infinity, which JSON does not have."""
    if isinstance(tree, dict):
        return {name: without_infinity(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_infinity(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def print_error(program: str, message: object) -> None:
    """Print one line to stderr. A message may quote files from other people."""
    print(escape(f"{program}: {message}").replace("\n", "\\n"), file=sys.stderr)


def open_missing() -> None:
    """Open os.devnull for each standard stream that the process was started without.

    Otherwise the next file gets its file descriptor: XLA would log into a checkpoint.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))


def report_errors() -> None:
    """From this call on, report in one line that stdout can't be written."""
    sys.stdout = _Stream(sys.stdout, is_needed=True, escapes=True)


def outlive_terminal() -> None:
    """From this call on, ignore that stdout or stderr can't be written.

    Training needs neither. Programs whose output is their result do not call this. An interactive
    session, such as a notebook, keeps its streams.
    """
    if not interrupts.is_interactive():
        sys.stdout, sys.stderr = _Stream(sys.stdout, escapes=True), _Stream(sys.stderr)


class OutputLost(UserError):
    """The result of a program can't be written. Programs exit with code 1."""

    exit_code = 1


class _Stream:
    """A text stream that drops its output after the first error.

    If it is a terminal, and `escapes` is true, control characters are written as escapes.
    """

    def __init__(self, stream: Any, is_needed: bool = False, escapes: bool = False):
        self._stream = stream._stream if isinstance(stream, _Stream) else stream
        self._escapes = escapes and self._stream.isatty()
        self._is_needed = is_needed  # whether the program ends if the stream can't be written

    def write(self, text: str) -> int:
        self._try(self._stream.write, escape(text) if self._escapes else text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., Any], *args: str) -> None:
        try:
            function(*args)
        except OSError as error:  # the terminal or the reader of the pipe is gone, the disk is full
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # also for C++, and for what is buffered here
            os.close(null)
            if self._is_needed and isinstance(error, BrokenPipeError):
                raise
            message = f"{self._stream.name} can't be written: {error.strerror}"
            if self._is_needed:
                raise OutputLost(message) from None
            print_error(program_name(), f"{message}; training goes on")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

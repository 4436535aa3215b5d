"""Handle Ctrl-C outside of the training loop. The loop has its own handlers.

Importing a C extension may swallow a KeyboardInterrupt or turn it into an ImportError, so a program
that imports jax can't rely on it. This module imports nothing heavy: programs call
`exit_immediately` before their other imports. A sweep, which must keep its results, uses `delay`
and `check` afterwards.
"""

import contextlib
import os
import signal
import sys
import threading

EXIT_CODE = 128 + signal.SIGINT


def exit_immediately() -> None:
    """End the process with exit code 130 on Ctrl-C, from this call on.

    The training loop replaces this handler with its own. Nothing changes in an interactive session
    (Ctrl-C must stop a cell, not the session), outside of the main thread (it alone can set signal
    handlers), and in a process that already ignores or handles SIGINT.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread and not is_interactive():
        _replace(signal.default_int_handler, _exit)


def is_interactive() -> bool:
    """Whether this is a Python or IPython prompt or a notebook."""
    return hasattr(sys, "ps1")  # also set by IPython


def delay() -> None:
    """Record a Ctrl-C for `check`, from this call on. A second one ends the process at once.

    An exception raised while jax calls back into Python may be lost. A program that has work to
    finish after a Ctrl-C therefore calls `check` between two computations.
    """
    if threading.current_thread() is threading.main_thread():
        _replace(_exit, _record)
        _replace(signal.default_int_handler, _record)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed since `delay`."""
    if _received:
        raise KeyboardInterrupt


_received: list[int] = []


def _record(number: int, frame: object) -> None:
    _received.append(number)
    signal.signal(signal.SIGINT, _exit)


def _replace(old: object, new: object) -> None:
    if signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)


def _exit(number: int, frame: object) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(EXIT_CODE)

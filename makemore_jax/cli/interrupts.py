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
from collections.abc import Callable, Iterator

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


@contextlib.contextmanager
def recorded() -> Iterator[Callable[[], None]]:
    """Record Ctrl-C within the block; restore the previous handler at its end.

    Yield a function that raises KeyboardInterrupt if there was a Ctrl-C. Outside the main thread,
    which can't set signal handlers, nothing is recorded.
    """
    received: list[int] = []

    def check_received() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check_received
        return
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield check_received
    finally:
        signal.signal(signal.SIGINT, before)


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


class StopSignals:
    """A context that records SIGTERM and SIGINT, so that training can end between two steps.

    A second signal raises KeyboardInterrupt. Python allows signal handlers in the main thread only;
    in another thread, nothing is recorded.
    """

    received: int = 0  # number of the signal, 0 for none

    def __enter__(self) -> "StopSignals":
        is_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main_thread else ()
        self._before = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number

"""Handle the signals that ask a program to stop.

- `exit_immediately`: Ctrl-C ends the process at once, also while it imports and computes.
- `StopSignals`: a signal is recorded, so that a program with work to finish stops when it can.

Importing a C extension may swallow a KeyboardInterrupt or turn it into an ImportError, and jax may
lose an exception that is raised while it calls back into Python. A program that uses jax can't rely
on either, so no handler here raises an exception, except in an interactive session. This module
imports nothing heavy: programs call `exit_immediately` before their other imports.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

EXIT_CODE = 128 + signal.SIGINT
STOP_SIGNALS = [
    getattr(signal, name)
    for name in (
        *("SIGTERM", "SIGINT", "SIGHUP"),  # of kill and shutdowns, Ctrl-C, a terminal that closes
        *("SIGUSR1", "SIGUSR2", "SIGXCPU"),  # of batch systems, before the time of a job is over
    )
    if hasattr(signal, name)
]
REPEAT_DELAY = 0.5  # seconds; within them, a second SIGINT is a copy of the first


def exit_immediately() -> None:
    """End the process with exit code 130 on Ctrl-C, from this call on.

    `StopSignals` replaces this handler. Nothing changes in an interactive session (Ctrl-C must stop
    a cell, not the session), outside of the main thread (it alone can set signal handlers), and in
    a process that already ignores or handles SIGINT.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default and _is_main_thread() and not is_interactive():
        signal.signal(signal.SIGINT, _exit)


def is_interactive() -> bool:
    """Whether this is a Python or IPython prompt or a notebook."""
    return hasattr(sys, "ps1")  # also set by IPython


class StopSignals:
    """A context that records the first of some signals, so that a program can stop between steps.

    A second Ctrl-C ends the process at once; other signals that follow are ignored. Outside of the
    main thread, which alone can set signal handlers, nothing is recorded.

    Python runs a handler only between two of its own instructions: a signal during a compilation is
    recorded after it. `end_at_once` is for a program that has nothing to lose in the meantime.
    """

    def __init__(self, numbers: Iterable[int] = STOP_SIGNALS):
        self.received = 0  # number of the signal, 0 for none
        self._numbers, self._time = numbers, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in self._numbers if _is_main_thread() else ():
            # A program under nohup ignores SIGHUP. Background jobs of a shell script ignore SIGINT,
            # but `kill -INT` should still stop a training.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end_at_once(self) -> None:
        """Let signals end the process, as if this context did not exist, until `record` is called.

        Not in an interactive session, and not in the first process of a container, where the system
        ignores a signal without a handler.
        """
        if not is_interactive() and os.getpid() != 1:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    def record(self) -> None:
        """Record signals again."""
        for number in self._before:
            signal.signal(number, self._record)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal was received."""
        if self.received:
            raise KeyboardInterrupt

    def _record(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._time = number, now
        # A terminal that closes sends SIGHUP several times. `timeout` and `uv run` may pass on a
        # SIGINT that the process has received from the terminal already.
        elif number == signal.SIGINT and now - self._time > REPEAT_DELAY:
            if is_interactive():
                raise KeyboardInterrupt
            _exit(number, frame)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _exit(number: int, frame: object) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(EXIT_CODE)

"""Errors that are reported to the user in one line: the thing, the value, the fix."""

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix. The programs print it as one line and exit with 2."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class Diverged(UserError):
    """The loss is no longer a number. Nothing was wrong with the command line, so exit with 1."""

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """A signal has ended a training between two steps, and its state is saved."""

    def __init__(self, number: int, step: int):
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"{name}: saved at step {step}; run the same command to resume")

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints instead of a traceback."""
        return [str(self)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known word nearest to `word`, or nothing when none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""

"""Errors that are reported to the user in one line: the thing, the value, the fix."""

import difflib
import json
import signal
from collections.abc import Collection, Iterable, Mapping
from typing import Any


class UserError(Exception):
    """An error that the user can fix. Programs print it as one line and exit with code 2."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class Diverged(UserError):
    """A value is not finite. The command line was valid, so programs exit with code 1."""

    exit_code = 1

    def __init__(self, step: int, problem: str, details: str = ""):
        self.step, self.problem = step, problem
        super().__init__(
            f"{problem} at step {step}: lower optimizer.learning_rate or set optimizer.grad_clip, "
            f"and start again with another --workdir{details}"
        )


class Stopped(KeyboardInterrupt):
    """A signal ended the training between two steps. The state is saved."""

    def __init__(self, number: int, step: int):
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"{name}: saved at step {step}; run the same command to resume")

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints instead of a traceback."""
        return [str(self)]


def look_up(field: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return `table[name]`. Raise UserError about the config's `field` if there is no such name."""
    if name not in table:
        raise UserError(f"{field}: {not_one_of(name, table)}")
    return table[name]


def not_one_of(name: str, known: Collection[str]) -> str:
    """Return what is wrong with an unknown name, with the known ones and the nearest of them."""
    return f"{json.dumps(name)} is not one of {', '.join(known)}{did_you_mean(name, known)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the known word nearest to `word`, '' if none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""

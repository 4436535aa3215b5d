"""Mistakes that a user can make, each told in one line: the thing, the value, the way out."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The scripts print it as one line and exit with 2."""

    exit_code = 2


class Diverged(UserError):
    """The loss is no longer a number. Nothing was wrong with the command line, so exit with 1."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known word nearest to `word`, or nothing when none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""

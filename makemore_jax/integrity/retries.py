"""Repeated reads of a checkpoint while a running training replaces it."""

import time
from collections.abc import Callable
from typing import Any

from makemore_jax.errors import UserError

NUM_ATTEMPTS = 20
PAUSE = 0.1  # seconds between two attempts


def retry(
    read: Callable[[], Any],
    find_step: Callable[[], int | None],
    is_complete: Callable[[int], bool],
) -> Any:
    """Return `read()`. Repeat it while it raises UserError and the checkpoint is being replaced.

    `find_step` returns the step that `read` restores, or None if no checkpoint exists.
    `is_complete` returns whether the files of a step are complete. Both may raise any exception
    while the folder changes.
    """
    for _ in range(NUM_ATTEMPTS - 1):
        try:
            step = find_step()
        except Exception:
            time.sleep(PAUSE)
            continue
        try:
            return read()
        except UserError:
            if step is None or _is_settled(step, find_step, is_complete):
                raise
    return read()


def _is_settled(
    step: int, find_step: Callable[[], int | None], is_complete: Callable[[int], bool]
) -> bool:
    """Return whether no running training is replacing `step`: it is still there after a pause."""
    time.sleep(PAUSE)
    try:
        return find_step() == step and is_complete(step)
    except Exception:  # the folder changes while it is read
        return False

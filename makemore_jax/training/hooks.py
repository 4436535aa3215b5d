"""What happens between training steps, besides evaluation and checkpoints."""

from collections.abc import Callable
from typing import NamedTuple

from makemore_jax.training.state import TrainState


class Hook(NamedTuple):
    """A function that the loop calls with the state. Training continues with its result."""

    call: Callable[[TrainState], TrainState]
    intervals: tuple[int, ...] = ()  # due after every multiple of one of these numbers of steps
    steps: tuple[int, ...] = ()  # due after these steps
    is_due_at_end: bool = False  # due after the last step; in hooks_before, also at an early stop

    def is_due(self, step: int, is_last: bool) -> bool:
        """Return whether the hook is due after this step."""
        is_due = step in self.steps or any(step % n == 0 for n in self.intervals)
        return is_due or (is_last and self.is_due_at_end)


def next_due(step: int, intervals: list[int], steps: list[int]) -> int:
    """Return the next step at which an action is due."""
    multiples = [(step // n + 1) * n for n in intervals]
    return min([*multiples, *(s for s in steps if s > step)])

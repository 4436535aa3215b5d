"""The differences of the results of JAX and PyTorch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


def worst(values: Iterable[float]) -> float:
    """Return the largest value, or nan if there is one. Python's max can skip nan."""
    return float(np.max(list(values)))


def worst_relative(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any tensor, relative to the largest entry of the tensor."""
    assert ours.keys() == theirs.keys()
    tiny = np.finfo(np.float64).tiny
    return worst(
        np.max(np.abs(ours[k] - theirs[k])) / max(np.max(np.abs(theirs[k])), tiny) for k in theirs
    )


class Difference(NamedTuple):
    """The measured differences of a pair. None: there is no such value.

    `output` is the largest absolute difference. `gradient` is relative to the largest entry of each
    tensor; the worst tensor counts.
    """

    output: float | None = None
    gradient: float | None = None

    def exceeds(self, bounds: tuple[float | None, float | None]) -> bool:
        """Return whether a value that has a bound is missing, not a number or larger."""
        values = zip(self, bounds, strict=True)
        return any(
            bound is not None and (value is None or not value <= bound) for value, bound in values
        )

"""The difference of two sets of tensors."""

import numpy as np


def worst_relative(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any tensor, relative to the largest entry of the tensor."""
    assert ours.keys() == theirs.keys()
    tiny = np.finfo(np.float64).tiny
    return max(
        float(np.max(np.abs(ours[k] - theirs[k])) / max(np.max(np.abs(theirs[k])), tiny))
        for k in theirs
    )

"""The splits of makemore.py and of the lectures, for the same lines in train, dev and test."""

import random

import numpy as np

from makemore_jax.data import splits


def torch_randperm(n: int, seed: int) -> np.ndarray:
    """Return torch.randperm(n) after torch.manual_seed(seed), for n below 2**32 / 20.

    PyTorch draws from MT19937 with the legacy seeding of NumPy's RandomState. It swaps entry i with
    an entry at or after it, which one raw 32-bit output chooses.
    """
    raw = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    jumps = (raw % np.arange(n, 1, -1)).tolist()
    order = list(range(n))
    for i, jump in enumerate(jumps):
        order[i], order[i + jump] = order[i + jump], order[i]
    return np.array(order, dtype=np.int64)


def makemore(n: int, seed: int) -> dict[str, np.ndarray]:
    """Split as makemore.py: the last 1,000 lines, at most a tenth, are both dev and test."""
    order = torch_randperm(n, seed)
    part = min(1000, n // 10)
    train, test = np.split(order, [n - part])
    return {"train": train, "dev": test, "test": test}


def lecture(n: int, seed: int) -> dict[str, np.ndarray]:
    """Split as the lectures: 80/10/10 after Python's shuffle with seed 42; `seed` is not used."""
    order = list(range(n))
    random.Random(42).shuffle(order)
    train, dev, test = np.split(np.array(order, dtype=np.int64), [int(0.8 * n), int(0.9 * n)])
    return {"train": train, "dev": dev, "test": test}


SPLITS = splits.SPLITS | {"makemore": makemore, "lecture": lecture}

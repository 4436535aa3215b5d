"""Assign examples to train, dev and test, as a function of their number and a seed."""

import numpy as np


def holdout(n: int, seed: int) -> dict[str, np.ndarray]:
    """90% train, 5% dev, 5% test. The best model is chosen on dev; test is evaluated once."""
    order = np.random.RandomState(seed).permutation(n)
    part = max(1, n // 20)
    train, dev, test = np.split(order, [max(n - 2 * part, 0), n - part])
    return {"train": train, "dev": dev, "test": test}


SPLITS = {"holdout": holdout}  # `original_splits` adds those of makemore.py and the lectures

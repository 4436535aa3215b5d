"""Read the examples of the next training steps from a token file before the steps run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from makemore_jax.data import Split, draw_indices


@partial(jax.jit, static_argnums=3)
def draw_steps(split: Split, key: Array, steps: Array, batch_size: int) -> Array:
    """Return the indices that training draws at `steps` (S,) with its data key. (S, B)"""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, steps)
    return jax.vmap(lambda key: draw_indices(split, key, batch_size))(keys)


def make_load(
    split: Split, train_key: Array, batch_size: int, put: Callable[[Any], Any]
) -> Callable[[int, int], Split]:
    """Return the function (step, number of steps) -> split with the examples of these steps.

    `put` moves arrays to the devices of the run.
    """
    data_key, _ = jax.random.split(train_key)

    def load(step: int, num_steps: int) -> Split:
        steps = step + np.arange(num_steps)
        part = split.load(lambda: draw_steps(split, data_key, steps, batch_size))
        return part if part is split else put(part)

    return load

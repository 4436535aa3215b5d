"""Read the examples of the next training steps from a token file before the steps run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from makemore_jax.data import Split, draw_indices
from makemore_jax.training.step import step_keys


@partial(jax.jit, static_argnums=3)
def draw_steps(split: Split, keys: Array, steps: Array, batch_size: int) -> Array:
    """Return the indices that training draws at `steps` (S,) with the keys of the run (2,). (S, B)

    See `training.step.make_train_step`.
    """
    data_keys, _ = jax.vmap(step_keys, (None, 0))(keys, steps)
    return jax.vmap(lambda key: draw_indices(split, key, batch_size))(data_keys)


def make_load(
    split: Split, train_key: Array, batch_size: int, put: Callable[[Any], Any]
) -> Callable[[int, int], Split]:
    """Return the function (step, number of steps) -> split with the examples of these steps.

    `put` moves arrays to the devices of the run.
    """
    keys = jax.random.split(train_key)

    def load(step: int, num_steps: int) -> Split:
        steps = step + np.arange(num_steps)
        part = split.load(lambda: draw_steps(split, keys, steps, batch_size))
        return part if part is split else put(part)

    return load

"""Short calls of the compiled steps, so that a slow training also stops soon after a signal.

The loop looks for signals between two calls of `train.log_every` steps. For a large model on a CPU
such a call takes minutes; batch systems kill a process half a minute after their signal.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from makemore_jax.training.state import TrainState, num_params

CALL_SECONDS = 2.0  # of a short call, estimated
CPU_FLOPS_PER_SECOND = 1e11  # two cores of a server took 12.7 s for a step of 1.1e12


def step_flops(params: Any, num_tokens: int) -> float:
    """Return the arithmetic of a step on `num_tokens` (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * num_params(params) * num_tokens


def in_short_calls(
    train_steps: Callable[..., tuple[TrainState, Any]], num_tokens: int, stop: Callable[[], int]
) -> Callable[..., tuple[TrainState, Any]]:
    """Divide long calls of `train_steps` into short ones, and end early after a signal.

    `num_tokens` is the number of tokens per step. After a signal, the result has the metrics of
    fewer steps. Without one, it is bit-identical to that of `train_steps`. The length of a call
    comes from a fixed estimate, not from measured times, so each run is divided in the same way.
    """

    def train_in_short_calls(
        state: TrainState, split: Any, key: jax.Array, num_steps: int
    ) -> tuple[TrainState, Any]:
        seconds = step_flops(state.params, num_tokens) / CPU_FLOPS_PER_SECOND
        max_steps = max(1, int(CALL_SECONDS / seconds))
        if jax.default_backend() != "cpu" or num_steps <= max_steps:
            return train_steps(state, split, key, num_steps)
        # All short calls have the same length, because each length is compiled on its own.
        length = max(n for n in range(1, max_steps + 1) if num_steps % n == 0)
        parts: list[Any] = []
        while len(parts) < num_steps // length and not (parts and stop()):
            state, metrics = train_steps(state, split, key, length)
            parts.append(jax.tree.map(np.asarray, metrics))  # waits; else all calls would be queued
        return state, jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)), *parts)

    return train_in_short_calls

"""Short calls of the compiled steps, nearly all of the same length.

The loop calls as many steps as there are until its next action. Each number of steps is compiled on
its own. So if the intervals of a config do not divide each other, calls have their greatest common
divisor as length.

The loop looks for signals between two calls. For a large model on a CPU a call of `train.log_every`
steps takes minutes; batch systems kill a process half a minute after their signal. There, calls are
still shorter, so that a slow training also stops soon after a signal.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from makemore_jax.config import Config
from makemore_jax.training.state import TrainState, num_params

CALL_SECONDS = 2.0  # of a short call, estimated
CPU_FLOPS_PER_SECOND = 1e11  # two cores of a server took 12.7 s for a step of 1.1e12


def step_flops(params: Any, num_tokens: int) -> float:
    """Return the arithmetic of a step on `num_tokens` (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * num_params(params) * num_tokens


def common_interval(config: Config) -> int:
    """Return the number of steps that divides all intervals at which the loop does something."""
    train = config.train
    intervals = [train.log_every, train.eval_every, train.checkpoint_every]
    intervals += [train.sample_every] * (train.num_samples != 0)
    return math.gcd(*intervals, train.diagnose_every or 0)


def in_short_calls(
    train_steps: Callable[..., tuple[TrainState, Any]],
    interval: int,
    num_tokens: int,
    stop: Callable[[], int],
) -> Callable[..., tuple[TrainState, Any]]:
    """Divide calls of `train_steps` into calls of one length, and end early after a signal.

    The length divides `interval`. Only steps that remain, as at the end of a training, are a call
    of another length. `num_tokens` is the number of tokens per step. After a signal, the result has
    the metrics of fewer steps. Without one, it is bit-identical to that of `train_steps`. The
    length comes from a fixed estimate, not from measured times, so each run is divided in the same
    way.
    """

    def train_in_short_calls(
        state: TrainState, split: Any, key: jax.Array, num_steps: int
    ) -> tuple[TrainState, Any]:
        max_steps = interval
        if jax.default_backend() == "cpu":
            seconds = step_flops(state.params, num_tokens) / CPU_FLOPS_PER_SECOND
            max_steps = max(1, min(interval, int(CALL_SECONDS / seconds)))
        length = max(n for n in range(1, max_steps + 1) if interval % n == 0)
        if num_steps <= length:
            return train_steps(state, split, key, num_steps)
        parts: list[Any] = []
        while num_steps and not (parts and stop()):
            state, metrics = train_steps(state, split, key, min(length, num_steps))
            parts.append(jax.tree.map(np.asarray, metrics))  # waits; else all calls would be queued
            num_steps -= min(length, num_steps)
        return state, jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)), *parts)

    return train_in_short_calls

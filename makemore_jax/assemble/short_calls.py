"""Divide the calls of the compiled steps into calls of one or two lengths.

Each number of steps is compiled separately. The loop asks for the steps until its next action, so
intervals that do not divide each other would compile many programs.

The loop looks for signals between two calls. For a large model on a CPU a call of `train.log_every`
steps takes minutes; batch systems kill a process half a minute after their signal. So on a CPU, the
calls of a slow model are shorter.
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
MIN_SHARE = 0.1  # of train.log_every; a shorter length is not used for every call
CPU_FLOPS_PER_SECOND = 1e11  # two cores of a server took 12.7 s for a step of 1.1e12


def step_flops(params: Any, num_tokens: int) -> float:
    """Return the arithmetic of a step on `num_tokens` (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * num_params(params) * num_tokens


def call_lengths(config: Config) -> tuple[int, int]:
    """Return two lengths of calls, in steps: `full` and `short`.

    A call has `full` steps where that many are left until the next action, otherwise `short` steps.
    `short` is the greatest common divisor of the intervals of `loop._next_action` and of the hooks
    in `training.py`. `full` is `short` too, unless that is below MIN_SHARE of `train.log_every`:
    then it is `train.log_every`, because each call takes time on the host.
    """
    train = config.train
    intervals = [train.log_every, train.eval_every, train.checkpoint_every]
    if train.num_samples != 0 or config.model.batch_norm == "calibrated":
        intervals.append(train.sample_every)
    if train.diagnose_every:
        intervals.append(train.diagnose_every)
    short = math.gcd(*(n for n in intervals if n < train.steps)) or train.log_every
    return (train.log_every if short < MIN_SHARE * train.log_every else short), short


def in_short_calls(
    train_steps: Callable[..., tuple[TrainState, Any]],
    lengths: tuple[int, int],
    num_tokens: int,
    stop_signal: Callable[[], int],
) -> Callable[..., tuple[TrainState, Any]]:
    """Divide calls of `train_steps` into calls of these lengths, and end early after a signal.

    `lengths` is the result of `call_lengths`. Steps that remain, as at the end of a training, are a
    call of their own. `num_tokens` is the number of tokens per step. After a signal, the result has
    the metrics of fewer steps. Without one, it is bit-identical to that of `train_steps`. A limit
    on the length comes from a fixed estimate, not from measured times, so each run is divided in
    the same way.
    """

    def train_in_short_calls(
        state: TrainState, split: Any, key: jax.Array, num_steps: int
    ) -> tuple[TrainState, Any]:
        length = lengths[0] if num_steps >= lengths[0] else lengths[1]
        if jax.default_backend() == "cpu":
            seconds = step_flops(state.params, num_tokens) / CPU_FLOPS_PER_SECOND
            max_steps = max(1, min(length, int(CALL_SECONDS / seconds)))
            length = max(n for n in range(1, max_steps + 1) if length % n == 0)
        if num_steps <= length:
            return train_steps(state, split, key, num_steps)
        parts: list[Any] = []
        while num_steps and not (parts and stop_signal()):
            state, metrics = train_steps(state, split, key, min(length, num_steps))
            parts.append(jax.tree.map(np.asarray, metrics))  # waits; else all calls would be queued
            num_steps -= min(length, num_steps)
        return state, jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)), *parts)

    return train_in_short_calls

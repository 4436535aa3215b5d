"""The training loop: compiled steps, and between them whatever is due.

Every random number comes from a key that is a function of the seed and the step, so a run that is
stopped and resumed is bit-identical to one that is not.
"""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import TrainConfig
from makemore_jax.data import Split
from makemore_jax.metrics import Metrics, finite_mean
from makemore_jax.training.hooks import Hook, next_due
from makemore_jax.training.state import TrainState


class Training(NamedTuple):
    """The parts of a training that do not change."""

    config: TrainConfig
    key: Array
    train_steps: Callable[..., tuple[TrainState, dict[str, Array]]]
    load: Callable[[int, int], Split]  # (step, number of steps) -> their training data
    learning_rate: Callable[[int], Array]  # of a step
    dev_loss: Callable[[TrainState], float]
    metrics: Metrics
    checkpoints: Checkpoints
    hooks_before: list[Hook]  # called before evaluation
    hooks_after: list[Hook]  # called after evaluation
    stop: Callable[[], int]  # returns a true value to end after this step


def train(training: Training, state: TrainState) -> TrainState:
    """Train until the last step or until `stop`, and save the state."""
    config, metrics, checkpoints = training.config, training.metrics, training.checkpoints
    best_dev_loss = checkpoints.best_dev_loss()
    step, dev_loss = int(state.step), None
    while step < config.steps and not training.stop():
        num_steps = _next_stop(step, training) - step
        data = training.load(step, num_steps)
        state, step_metrics = training.train_steps(state, data, training.key, num_steps)
        step += len(step_metrics["train_loss"])  # fewer than `num_steps` after a signal
        is_last, dev_loss, is_best = step == config.steps, None, False
        metrics.write_steps(step, step_metrics["train_loss"], training.learning_rate(step - 1))
        state = _call(training.hooks_before, state, step, is_last)
        if is_last or step % config.eval_every == 0:
            metrics.flush()
            dev_loss = finite_mean(step, training.dev_loss(state))
            is_best = dev_loss < best_dev_loss
            best_dev_loss = min(dev_loss, best_dev_loss)
            metrics.write(step, {"dev_loss": dev_loss})
            metrics.print(f"step {step}: dev loss {dev_loss:.4f}{' (best)' if is_best else ''}")
        state = _call(training.hooks_after, state, step, is_last)
        if is_last or is_best or step % config.checkpoint_every == 0:
            metrics.flush()
            checkpoints.save(state, dev_loss)
        metrics.show()
    metrics.flush()
    if step < config.steps:
        state = _call(training.hooks_before, state, step, is_last=True)
        checkpoints.save(state, dev_loss)
    return state


def _call(hooks: list[Hook], state: TrainState, step: int, is_last: bool) -> TrainState:
    for hook in hooks:
        if hook.is_due(step, is_last):
            state = hook.call(state)
    return state


def _next_stop(step: int, training: Training) -> int:
    """Return the next step at which an action is due."""
    config, hooks = training.config, training.hooks_before + training.hooks_after
    intervals = [config.log_every, config.eval_every, config.sample_every, config.checkpoint_every]
    intervals += [n for hook in hooks for n in hook.intervals]
    return next_due(step, intervals, [config.steps, *(s for hook in hooks for s in hook.steps)])

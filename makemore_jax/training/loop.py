"""The training loop: compiled steps, and between them the actions that are due.

Every random number comes from a key that is a function of the seed and the step, so a run that is
stopped and resumed is bit-identical to one that is not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax import Array

from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import Config, TrainConfig
from makemore_jax.data import Dataset, Split
from makemore_jax.metrics import Metrics, finite_mean
from makemore_jax.training.hooks import Hook, next_due
from makemore_jax.training.optimizer import make_schedule
from makemore_jax.training.programs import Programs
from makemore_jax.training.state import TrainState


class ActiveRun(NamedTuple):
    """A run that has started: what the loop and its hooks read."""

    folder: Path  # the working directory
    config: Config
    dataset: Dataset
    programs: Programs
    metrics: Metrics
    checkpoints: Checkpoints
    splits: dict[str, Split]  # on the devices
    load: Callable[[int, int], Split]  # (step, num_steps) -> the training data of these steps
    train_key: Array
    sample_key: Array


def train(
    run: ActiveRun,
    state: TrainState,
    hooks_before: list[Hook],
    hooks_after: list[Hook],
    stop_signal: Callable[[], int],
) -> TrainState:
    """Train until the last step or until `stop_signal` returns a signal number, and save the state.

    `hooks_before` run before evaluation, `hooks_after` after it. When training stops early, those
    of `hooks_before` that are due at the end run before the state is saved.
    """
    config, metrics, checkpoints = run.config.train, run.metrics, run.checkpoints
    learning_rate = make_schedule(run.config.optimizer, config.steps)
    step, dev_loss = int(state.step), None
    while step < config.steps and not stop_signal():
        num_steps = _next_action(step, config, hooks_before + hooks_after) - step
        data = run.load(step, num_steps)
        state, step_metrics = run.programs.train_steps(state, data, run.train_key, num_steps)
        step += len(step_metrics["train_loss"])  # `assemble.short_calls` may end a call early
        metrics.write_steps(step, step_metrics, learning_rate(step - 1))
        state = _call(hooks_before, state, step, step == config.steps)
        state, dev_loss = evaluate_and_save(run, state, step, hooks_after)
    metrics.flush()
    if step < config.steps:
        # Hooks that prepare the state to be saved. The resumed run calls the others at their steps.
        state = _call([h for h in hooks_before if h.is_due_at_end], state, step, is_last=True)
        checkpoints.save(state, dev_loss)
    return state


def evaluate_and_save(
    run: ActiveRun, state: TrainState, step: int, hooks: list[Hook]
) -> tuple[TrainState, float | None]:
    """Evaluate the state after `step`, call the hooks, and save the state, each if it is due.

    Return the state that training continues with, and its dev loss if it was measured.
    """
    config, metrics, checkpoints = run.config.train, run.metrics, run.checkpoints
    is_last, dev_loss, is_best = step >= config.steps, None, False
    if is_last or step % config.eval_every == 0:
        metrics.flush()
        loss = run.programs.evaluate(state.variables, run.splits["dev"], config.eval_examples)
        dev_loss = finite_mean(step, loss, "dev loss")
        is_best = dev_loss <= checkpoints.best_dev_loss()  # of equal losses, the last is the best
        metrics.write(step, {"dev_loss": dev_loss})
        metrics.print(f"step {step}: dev loss {dev_loss:.4f}{' (best)' if is_best else ''}")
    state = _call(hooks, state, step, is_last)
    if is_last or is_best or step % config.checkpoint_every == 0:
        metrics.flush()
        checkpoints.save(state, dev_loss)
    metrics.show()
    return state, dev_loss


def _call(hooks: list[Hook], state: TrainState, step: int, is_last: bool) -> TrainState:
    for hook in hooks:
        if hook.is_due(step, is_last):
            state = hook.call(state)
    return state


def _next_action(step: int, config: TrainConfig, hooks: list[Hook]) -> int:
    """Return the next step after which the loop or a hook does something."""
    intervals = [config.log_every, config.eval_every, config.checkpoint_every]
    intervals += [n for hook in hooks for n in hook.intervals]
    return next_due(step, intervals, [config.steps, *(s for hook in hooks for s in hook.steps)])

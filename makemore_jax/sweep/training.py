"""Train the runs of one group together."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from makemore_jax.assemble import create_model, load_data
from makemore_jax.cli import progress
from makemore_jax.config import Config, TrainConfig
from makemore_jax.sweep.axes import Values, with_values
from makemore_jax.sweep.members import Members, make_mesh, stack_members
from makemore_jax.sweep.programs import Programs, make_programs
from makemore_jax.sweep.results import Result, TrainedRun
from makemore_jax.training import state as state_lib
from makemore_jax.training.hooks import next_due
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState


class History(NamedTuple):
    """The states, losses and times of M runs that were trained together."""

    state: TrainState  # after the last step
    best_state: TrainState  # of each run at its best evaluation
    first_loss: np.ndarray  # (M,) train loss of the first step
    steps: list[int]  # after each compiled call
    train_losses: np.ndarray  # (calls, M), mean over the steps of a call
    seconds: list[float]  # until the end of each call, of all runs together
    eval_steps: list[int]  # of each evaluation
    dev_losses: np.ndarray  # (evaluations, M)


def state_shapes(config: Config, members: list[Values]) -> TrainState:
    """Return the shapes and dtypes of a group's states.

    Raise UserError if the group can't be trained.
    """
    config = with_values(config, members[0])
    dataset = load_data(config.data, members[0]["seed"])
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    return state_lib.shapes(model, optimizer, dataset.block_size)


def train_together(
    config: Config, members: list[Values], check_interrupt: Callable[[], None] = lambda: None
) -> list[Result]:
    """Train runs that differ only in VMAPPED_FIELDS and seed, all in one program.

    `check_interrupt` is called between two compiled calls and may raise KeyboardInterrupt.
    """
    config = with_values(config, members[0])
    seeds = sorted({values["seed"] for values in members})
    datasets = {seed: load_data(config.data, seed) for seed in seeds}
    dataset = datasets[seeds[0]]
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    mesh = make_mesh(len(members))
    stacked = stack_members(config, members, model, datasets, mesh)
    dev_split = dataset.splits["dev"].for_evaluation()
    programs = make_programs(config, model, mesh, dev_split)
    history = _train(config, programs, stacked, check_interrupt)
    return _make_results(members, history, dataset.vocab.size)


def _train(
    config: Config, programs: Programs, members: Members, check_interrupt: Callable[[], None]
) -> History:
    """Run all steps."""
    train, is_calibrated = config.train, config.model.batch_norm == "calibrated"
    steps, eval_steps = _call_ends(train), []
    state, best_state, best = members.state, None, np.inf
    train_losses, dev_losses, seconds = [], [], []
    step, began, estimate = 0, time.perf_counter(), progress.Estimate(train.steps)
    with tqdm(total=train.steps, unit=" steps", disable=None, leave=False) as bar:
        for end in steps:
            state, losses = programs.train_steps(
                end - step, state, members.values, members.train_split, members.key_data
            )
            losses = np.asarray(losses)
            check_interrupt()
            if step == 0:
                first_loss = losses[:, 0]
            train_losses.append(losses.mean(axis=1))
            seconds.append(time.perf_counter() - began)
            bar.update(end - step)
            step = end
            estimate.update(step)
            if step % train.eval_every and step < train.steps:
                continue
            if is_calibrated:
                model_state = programs.calibrate(state.variables, members.train_split)
                state = state.replace(model_state=model_state)
            dev_loss = programs.evaluate(state.variables, members.dev_split)
            is_best = (dev_loss <= best) | (best_state is None)
            previous = state if best_state is None else best_state
            best_state = programs.select(is_best, state, previous)
            best = np.fmin(best, dev_loss)
            eval_steps.append(step)
            dev_losses.append(dev_loss)
    curves = np.stack(train_losses), seconds, eval_steps, np.stack(dev_losses)
    return History(state, best_state, first_loss, steps, *curves)


def _call_ends(config: TrainConfig) -> list[int]:
    """Return the step at which each compiled call ends: a loss is logged or evaluated there."""
    ends = [0]
    while ends[-1] < config.steps:
        ends.append(next_due(ends[-1], [config.log_every, config.eval_every], [config.steps]))
    return ends[1:]


def _make_results(members: list[Values], history: History, vocab_size: int) -> list[Result]:
    """Return the result of each run. The best run has its states, for a run directory."""
    train_loss, dev_loss = history.train_losses[-1], history.dev_losses[-1]
    # The run diverged if its loss exceeds both its first loss and the loss of uniform guessing.
    is_worse = train_loss > np.maximum(history.first_loss, math.log(vocab_size))
    diverged = is_worse | ~np.isfinite(train_loss + dev_loss)
    best = np.where(diverged, np.nan, np.fmin.reduce(history.dev_losses))[: len(members)]
    results = [
        Result(
            values={name: value for name, value in values.items() if name != "seed"},
            seed=values["seed"],
            train_loss=float(train_loss[i]),
            dev_loss=float(dev_loss[i]),
            best_dev_loss=float(best[i]),
            curve=history.train_losses[:, i].tolist(),
        )
        for i, values in enumerate(members)
    ]
    if not np.isnan(best).all():
        i = int(np.nanargmin(best))
        trained = _make_trained_run(history, i, float(best[i]))
        results[i] = results[i]._replace(trained=trained)
    return results


def _make_trained_run(history: History, i: int, best_dev_loss: float) -> TrainedRun:
    """Return run number `i` with its states on the host."""
    best, last = (
        jax.device_get(jax.tree.map(lambda a: a[i], state))
        for state in (history.best_state, history.state)
    )
    lines = _metrics_lines(history, i)
    return TrainedRun(best, best_dev_loss, last, float(history.dev_losses[-1, i]), lines)


def _metrics_lines(history: History, i: int) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl of run number `i`. The time is for all runs."""
    lines = []
    dev_losses = dict(zip(history.eval_steps, history.dev_losses[:, i].tolist(), strict=True))
    train_losses = history.train_losses[:, i].tolist()
    for step, train_loss, seconds in zip(history.steps, train_losses, history.seconds, strict=True):
        lines.append({"step": step, "train_loss": train_loss, "seconds": seconds})
        if step in dev_losses:
            lines.append({"step": step, "dev_loss": dev_losses[step]})
    return [line for line in lines if all(map(math.isfinite, line.values()))]

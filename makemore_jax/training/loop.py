"""The loop around the compiled steps: the only place of training with side effects.

`train_steps` takes the state and gives the next, with the losses of the steps between; after each
such call the host looks in to log, evaluate on dev, sample and save. Every random number comes
from a key that is a function of (seed, step), so a run that was stopped and resumed is bit for
bit the run that was not.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from makemore_jax import assemble, data, models, workdir
from makemore_jax import config as config_lib
from makemore_jax.assemble import create_model, load_data
from makemore_jax.cli import resources
from makemore_jax.config import Config, TrainConfig
from makemore_jax.data import Dataset
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import Stopped
from makemore_jax.kernels.layouts import choose
from makemore_jax.metrics import check_finite
from makemore_jax.parallel import processes, sharding
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_calibrate, make_evaluate
from makemore_jax.training.optimizer import make_optimizer, make_schedule
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import make_train_steps
from makemore_jax.versions import device, versions

PROBE_MIN_FLOPS = 1e11  # of a step; two cores of a server took 12.7 s for 1.1e12


def train(config: Config, directory: str) -> dict[str, Any]:
    """Train, or go on training, the run of `config` in `directory`; return its summary.

    UserError, before anything is written, if config, data and directory do not fit together;
    Diverged when the loss is no longer a number; Stopped after SIGTERM or SIGINT, with the state
    saved. Signals are only handled in the main thread.
    """
    config_lib.validate(config)
    folder = Path(directory)
    dataset = load_data(config.data, config.seed, folder)
    config = replace(config, data=replace(config.data, block_size=dataset.block_size))
    model = create_model(sharding.model_config(config), dataset.vocab.size, dataset.block_size)
    num_params = state_lib.num_params(models.param_shapes(model, dataset.block_size))
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    mesh = sharding.make_mesh(config.mesh, batch_size, num_params, accumulate, dataset.block_size)
    with contextlib.ExitStack() as stack:
        assemble.check_workdir(
            folder, config, dataset
        )  # every process, so that each can tell why it ends
        if summary := _finished(folder, config.train.steps):
            return summary
        processes.wait("checked")
        if processes.is_first():  # which holds the folder until the summary is written
            stack.enter_context(assemble.open_workdir(folder, config, dataset))
            dataset.prepare()
        processes.wait("prepared")
        return _train(config, dataset, model, mesh, folder)


def _finished(folder: Path, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has been trained for `steps` or more, or None."""
    latest = 0
    if (folder / "checkpoints").is_dir():
        latest = assemble.open_checkpoints(folder, read_only=True).steps().get("latest", 0)
    summary = workdir.read_summary(folder, latest) if latest >= steps else None
    if summary:
        more = "set a larger --config.train.steps to continue"
        print(f"{folder}: already trained for {latest} steps; {more}")
    return summary


def _train(
    config: Config, dataset: Dataset, model: nn.Module, mesh: Mesh, folder: Path
) -> dict[str, Any]:
    init_key, train_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    schedule = make_schedule(config.optimizer, config.train.steps)
    everywhere, spread = sharding.replicated(mesh), None
    if sharding.is_spread(mesh, config.mesh):
        shapes = state_lib.shapes(model, optimizer, dataset.block_size)
        spread = sharding.spread(mesh, config.mesh, shapes)
    lies = spread and spread.kept
    state = state_lib.create(model, optimizer, init_key, dataset.block_size, lies)
    state = state if spread else sharding.put(state, everywhere)
    splits = sharding.put(dataset.splits, everywhere)
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    layouts = choose(splits["train"], batch_size, model, mesh.shape["data"], accumulate)
    train_steps = make_train_steps(model, optimizer, batch_size, layouts, mesh, accumulate, spread)
    evaluate = make_evaluate(model, mesh)
    calibrate = sharding.serialize_on_cpu(make_calibrate(model), mesh)
    data_key, _ = jax.random.split(train_key)

    def ahead(step: int, num_steps: int) -> data.Split:
        """The training data, as far as these steps need it."""
        steps = step + np.arange(num_steps)
        part = splits["train"].load(
            lambda: data.draw_steps(splits["train"], data_key, steps, batch_size)
        )
        return part if part is splits["train"] else sharding.put(part, everywhere)

    def calibrated(state: TrainState) -> TrainState:
        """Ready to be used; training itself does not need it."""
        if config.model.batch_norm != "calibrated":
            return state
        return state.replace(batch_stats=calibrate(state.variables, splits["train"]))

    checkpoints = assemble.open_checkpoints(folder)
    if checkpoints.steps():
        state = checkpoints.restore("latest", state)
    best_dev_loss = checkpoints.best_dev_loss()
    step = start = int(state.step)
    metrics = assemble.open_metrics(folder if processes.is_first() else None, start, config)
    metrics.print(
        f"{config.model.kind}, {state_lib.num_params(state.params):,} parameters, on {device()}\n"
        f"{config.data.path}: {dataset.describe_splits()}, {dataset.vocab.size} tokens, "
        f"context {dataset.block_size}\n"
        f"{folder}: {f'resuming from step {start}' if start else 'a new run'}"
    )

    diagnose = None
    if config.train.diagnose_every:
        diagnose = _make_diagnose(config, model, optimizer)
        if start == 0:
            metrics.write(0, diagnose(state, ahead(0, 1), train_key))
    num_samples = config.train.num_samples
    if num_samples is None:
        num_samples = dataset.num_samples
    dev_loss = None
    probes = _probes(start, config.train, state_lib.num_params(state.params), dataset.block_size)
    with contextlib.closing(metrics), _Signals() as signals:
        while step < config.train.steps and not signals.of_all():
            num_steps = _next_stop(step, config.train, probes) - step
            state, step_metrics = train_steps(state, ahead(step, num_steps), train_key, num_steps)
            step += num_steps
            is_last = step == config.train.steps
            metrics.write_steps(step, step_metrics["train_loss"], schedule(step - 1))
            dev_loss, is_best = None, False
            if diagnose and step % config.train.diagnose_every == 0:
                metrics.flush()
                metrics.write(step, diagnose(state, ahead(step, 1), train_key))
            if any(step % n == 0 for n in _looks(config.train)) or is_last:
                state = calibrated(state)
            if step % config.train.eval_every == 0 or is_last:
                metrics.flush()
                dev_loss = evaluate(state.variables, splits["dev"], config.train.eval_examples)
                dev_loss = check_finite(step, dev_loss)
                is_best = dev_loss < best_dev_loss
                best_dev_loss = min(dev_loss, best_dev_loss)
                metrics.write(step, {"dev_loss": dev_loss})
                metrics.print(f"step {step}: dev loss {dev_loss:.4f}{' (best)' if is_best else ''}")
            if num_samples and (step % config.train.sample_every == 0 or is_last):
                variables = state.variables
                if spread or processes.are_many():
                    variables = sharding.gather(variables, mesh)
                if processes.is_first():
                    sizes = dataset.max_len, dataset.block_size
                    lm = LanguageModel(model, variables, dataset.vocab, *sizes)
                    key = jax.random.fold_in(sample_key, step)
                    drawn = assemble.sample(lm, key, num_samples)
                    texts, is_cut = zip(*((s.text, s.is_cut) for s in drawn), strict=True)
                    metrics.write_samples(step, dataset.show(texts, is_cut))
            if is_best or step % config.train.checkpoint_every == 0 or is_last:
                metrics.flush()
                checkpoints.save(state, dev_loss)
        metrics.flush()
        if step < config.train.steps:
            state = calibrated(state)
        checkpoints.save(state, dev_loss)  # where a signal came between two checkpoints
    if step < config.train.steps:
        raise Stopped(signals.received, step)

    best = checkpoints.restore_variables("best", state.variables)
    at_most = config.train.train_eval_examples
    summary = {
        "steps": step,
        "best_step": checkpoints.steps()["best"],
        "train_loss": evaluate(best, splits["train"], at_most),
        "dev_loss": checkpoints.best_dev_loss(),
        "test_loss": evaluate(best, splits["test"], config.train.eval_examples),
        "num_params": state_lib.num_params(state.params),
        "seconds": metrics.seconds,
        "steps_per_second": metrics.steps_per_second,
        "device": device(),
        "versions": versions(),
    }
    if not processes.is_first():
        return summary
    assemble.write_summary(folder, summary)
    print(
        f"best model, of step {summary['best_step']}: test loss {summary['test_loss']:.4f}, "
        f"dev {summary['dev_loss']:.4f}, train {summary['train_loss']:.4f}\n"
        f"everything is in {folder}; {resources.command('sample')} --workdir {folder} draws from it"
    )
    return summary


def _next_stop(step: int, config: TrainConfig, probes: range = range(0)) -> int:
    """The next step after which an action is due, or which is one of the `probes`."""
    every = (*_looks(config), config.log_every, config.diagnose_every)
    stops = [(step // n + 1) * n for n in every if n]
    return min(config.steps, *stops, *(probe for probe in probes if probe > step))


def _probes(start: int, config: TrainConfig, num_params: int, block_size: int) -> range:
    """The first steps of a process if each takes a CPU about a second or more.

    They are called one by one, for an early estimate: `log_every` of them could take hours. The
    first one compiles, the second one is timed.
    """
    flops = 6 * num_params * config.batch_size * block_size  # Kaplan et al. 2020, section 2.1
    is_slow = jax.default_backend() == "cpu" and flops > PROBE_MIN_FLOPS
    return range(start + 1, start + 3) if is_slow else range(0)


def _looks(config: TrainConfig) -> tuple[int, ...]:
    """Every how many steps the model itself is used: evaluated, sampled, saved."""
    return config.eval_every, config.sample_every, config.checkpoint_every


def _make_diagnose(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, data.Split, Array], dict[str, Any]]:
    """The function (state, split, key) -> what the next step on them would show."""
    from makemore_jax import diagnostics  # hangs off the core: imported where it is asked for

    diagnose = diagnostics.make_diagnose(model, optimizer)

    def of_next_step(state: TrainState, split: data.Split, key: Array) -> dict[str, Any]:
        data_key, dropout_key = (jax.random.fold_in(k, state.step) for k in jax.random.split(key))
        return diagnose(state, data.draw(split, data_key, config.train.batch_size), dropout_key)

    return of_next_step


class _Signals:
    """Record SIGTERM and SIGINT, so that the loop can end between two steps.

    Python allows signal handlers in the main thread only; another thread records nothing.
    """

    received: int = 0

    def of_all(self) -> int:
        """The signal that any process has received, 0 for none: all end after the same step."""
        self.received = processes.largest(self.received)
        return self.received

    def __enter__(self) -> "_Signals":
        is_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main_thread else ()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt  # asked twice: do not wait for the steps to end
        self.received = number

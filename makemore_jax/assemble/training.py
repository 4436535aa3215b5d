"""Train with all extensions: the parts and hooks of a run."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from makemore_jax import workdir
from makemore_jax.assemble import components
from makemore_jax.assemble.interruptions import Interruptions
from makemore_jax.assemble.short_calls import CPU_FLOPS_PER_SECOND, step_flops
from makemore_jax.cli import command_line, paths, resources
from makemore_jax.cli.data_warnings import data_warnings, unused_settings
from makemore_jax.config import Config, DataConfig
from makemore_jax.data import Dataset, draw
from makemore_jax.errors import Diverged, UserError
from makemore_jax.integrity import resume
from makemore_jax.integrity.failures import reporting_storage_failures
from makemore_jax.metrics import Metrics
from makemore_jax.parallel import processes
from makemore_jax.text.prefetch import make_load
from makemore_jax.training import run
from makemore_jax.training import state as state_lib
from makemore_jax.training.hooks import Hook
from makemore_jax.training.loop import ActiveRun, evaluate_and_save
from makemore_jax.training.optimizer import make_optimizer, make_schedule
from makemore_jax.training.run import Parts, make_sample_hook
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import step_keys
from makemore_jax.versions import device, versions
from makemore_jax.windows.calibrate import make_calibrate

TIMED_STEP_MIN_FLOPS = CPU_FLOPS_PER_SECOND  # about a second


def load_data(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Load data as `components.load_data` does, and print warnings about it on stderr."""
    dataset = components.load_data(config, seed, folder)
    if processes.is_primary():
        for warning in data_warnings(config, dataset):
            command_line.warn(warning)
    return dataset


def find_finished(folder: Path, config: Config, dataset: Dataset) -> dict[str, Any] | None:
    """Return the summary of a run that has finished all steps of the config, or None.

    Raise UserError if the working directory has another run.
    """
    resume.check(folder, config, dataset)
    has_steps = bool(components.open_checkpoints(folder, read_only=True).steps())
    if not has_steps and (folder / "summary.json").exists():
        raise UserError(
            f"--workdir: {folder} has the results of a finished run but no checkpoints; give "
            "another --workdir, or delete the folder"
        )
    summary = resume.read_summary(folder, config.train.steps)
    # Verification is slow, and a run that continues verifies its checkpoints anyway.
    if not summary or components.open_checkpoints(folder).steps().get("latest") != summary["steps"]:
        return None
    more = "set a larger --config.train.steps to continue"
    print(f"{folder}: already trained for {summary['steps']} steps; {more}")
    return summary


@contextlib.contextmanager
def hold(folder: Path, config: Config, dataset: Dataset) -> Iterator[None]:
    """Lock and prepare a working directory. The primary process holds it until the end."""
    with contextlib.ExitStack() as stack:
        processes.barrier("checked")
        if processes.is_primary():
            new_schedule = find_new_schedule(folder, config)  # `open_workdir` replaces the config
            stack.enter_context(components.open_workdir(folder, config, dataset))
            dataset.prepare()
            if new_schedule:
                print(f"{folder}: {new_schedule}")
        processes.barrier("prepared")
        yield


def find_new_schedule(folder: Path, config: Config) -> str | None:
    """Return one line about a new learning rate schedule if a run resumes with one, else None."""
    if not (folder / "config.json").exists() or not (folder / "checkpoints").is_dir():
        return None
    step = components.open_checkpoints(folder, read_only=True).steps().get("latest")
    if not step:
        return None
    return resume.describe_new_schedule(components.read_run(folder).config, config, step)


def open_metrics(folder: Path, start: int, config: Config) -> Metrics:
    """Return the logging of a run. Processes other than the primary one write nothing."""
    return components.open_metrics(folder if processes.is_primary() else None, start, config)


def begin(run: ActiveRun, state: TrainState) -> list[Hook]:
    """Print a description of a run that starts. Return its hooks.

    The hooks are calibration, diagnostics and an early estimate of the time.
    """
    config, dataset, hooks = run.config, run.dataset, []
    start, num_params = int(state.step), state_lib.num_params(state.params)
    run.metrics.print(
        f"{config.model.kind}, {num_params:,} parameters, on {device()}\n"
        f"{config.data.path}: {dataset.describe_splits()}, {dataset.vocab.size} tokens, "
        f"context {dataset.block_size}\n"
        f"{run.folder}: {f'resuming from step {start}' if start else 'a new run'}"
    )
    run.metrics.show()
    if processes.is_primary():
        for warning in unused_settings(config):
            command_line.warn(warning)
    if config.train.diagnose_every:
        hooks.append(make_diagnose_hook(run, state))
    if config.model.batch_norm == "calibrated":
        calibrate = make_calibrate(run.programs.model)

        def calibrate_state(state: TrainState) -> TrainState:
            model_state = calibrate(state.variables, run.splits["train"])
            return state.replace(model_state=jax.block_until_ready(model_state))

        train = config.train
        uses = train.eval_every, train.sample_every, train.checkpoint_every
        hooks.append(Hook(calibrate_state, uses, is_due_at_end=True))
    flops = step_flops(state.params, config.train.batch_size * dataset.block_size)
    steps = timed_steps(start, flops)
    end_calls = Hook(lambda state: state, steps=steps)  # does nothing but end a compiled call
    return [*hooks, end_calls]


def timed_steps(start: int, flops: float) -> tuple[int, ...]:
    """Return the first two steps of a process if a step takes about a second or more on a CPU.

    They run one by one, for an early estimate of the time: `log_every` steps could take hours. The
    first step compiles, the second step is timed.
    """
    is_slow = jax.default_backend() == "cpu" and flops > TIMED_STEP_MIN_FLOPS
    return (start + 1, start + 2) if is_slow else ()


def make_diagnose_hook(run: ActiveRun, state: TrainState) -> Hook:
    """Return the hook that writes statistics of the next step. In a new run, write them now too."""
    from makemore_jax import diagnostics

    config, model = run.config, run.programs.model
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    diagnose = diagnostics.make_diagnose(model, optimizer)

    def write_diagnostics(state: TrainState) -> TrainState:
        step = int(state.step)
        data_key, dropout_key = step_keys(jax.random.split(run.train_key), step)
        batch = draw(run.load(step, 1), data_key, config.train.batch_size)
        run.metrics.flush()
        run.metrics.write(step, diagnose(state, batch, dropout_key))
        return state

    if int(state.step) == 0:
        write_diagnostics(state)
    return Hook(write_diagnostics, (config.train.diagnose_every,))


def finish(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a run with its device and versions. Write and print it.

    Only the primary process writes and prints.
    """
    summary |= {"device": device(), "versions": versions()}
    if not processes.is_primary():
        return summary
    from makemore_jax.events import append_final_values  # tensorboard, which is slow to import

    workdir.write_summary(folder, summary)
    append_final_values(folder, summary["steps"], {"test_loss": summary["test_loss"]})
    print(
        f"best model (step {summary['best_step']}): test loss {summary['test_loss']:.4f}, "
        f"dev {summary['dev_loss']:.4f}, train {summary['train_loss']:.4f}\n"
        f"everything is in {folder}; "
        f"{resources.command('sample', '--workdir', folder)} samples from it"
    )
    return summary


def make_parts() -> Parts:
    """Return the parts of one run."""
    interruptions = Interruptions()

    def begin_run(run: ActiveRun, state: TrainState) -> list[Hook]:
        hooks = begin(run, state)
        if resume.repeats_results(run.folder, run.config, step := int(state.step)):
            evaluate_and_save(run, state, step, [make_sample_hook(run, interruptions.sample)])
        return [*hooks, interruptions.make_hook(run)]

    return Parts(
        rules=components.RULES,
        load_data=load_data,
        make_programs=interruptions.make_programs,
        open_checkpoints=components.open_checkpoints,
        open_metrics=open_metrics,
        find_finished=find_finished,
        make_load=make_load,
        hold=hold,
        begin=begin_run,
        sample=interruptions.sample,
        catch_signals=interruptions.catch_signals,
        finish=finish,
    )


def train(config: Config, directory: str) -> dict[str, Any]:
    """Train with all extensions; see `training.run.train`."""
    directory = paths.local(directory)
    config = replace(config, data=replace(config.data, path=os.path.expanduser(config.data.path)))
    processes.check_same("configs or working directories", (config, directory))
    try:
        with reporting_storage_failures(Path(directory)):
            return run.train(config, directory, make_parts())
    except Diverged as error:
        rate = make_schedule(config.optimizer, config.train.steps)(error.step - 1)
        latest = components.open_checkpoints(directory, read_only=True).steps().get("latest")
        kept = f"the last checkpoint is of step {latest}" if latest else "there is no checkpoint"
        details = f"; the learning rate was {float(rate):.3g}, {kept}"
        raise Diverged(error.step, error.problem, details) from None

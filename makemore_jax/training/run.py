"""A run: from a config and a working directory to a trained model and a summary.

The defaults of `Parts` are the core alone: lines of text on one device. `assemble` replaces parts
to add other kinds of data, many devices, and what makes training fast, safe and observable.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from makemore_jax import config as config_lib
from makemore_jax import sampling, workdir
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import Config
from makemore_jax.data import Dataset, Split, lines
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import Stopped
from makemore_jax.metrics import Metrics, open_plain
from makemore_jax.training import loop
from makemore_jax.training.hooks import Hook
from makemore_jax.training.loop import ActiveRun
from makemore_jax.training.programs import Programs, make_programs
from makemore_jax.training.state import TrainState, num_params


def make_sample_hook(run: ActiveRun, sample: Callable[..., list[Any]]) -> Hook:
    """Return the hook that writes samples, if the config asks for any."""
    dataset, num = run.dataset, run.config.train.num_samples
    num = dataset.num_samples if num is None else num

    def write_samples(state: TrainState) -> TrainState:
        variables, step = run.programs.fetch(state.variables), int(state.step)
        sizes = dataset.max_len, dataset.block_size
        lm = LanguageModel(run.programs.model, variables, dataset.vocab, *sizes)
        samples = sample(lm, jax.random.fold_in(run.sample_key, step), num)
        shown = dataset.show([s.text for s in samples], [s.is_cut for s in samples])
        run.metrics.write_samples(step, shown)
        return state

    intervals = (run.config.train.sample_every,) if num else ()
    return Hook(write_samples, intervals, is_due_at_end=num > 0)


def core_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield the rules of a run without extensions: fields of extensions keep their defaults."""
    values, defaults = config_lib.flatten(config), config_lib.flatten(Config())
    for key in ("data.kind", "train.accumulate", "train.diagnose_every", "mesh.model", "mesh.fsdp"):
        rule = f"{config_lib.show(defaults[key])} without extensions"
        yield key, values[key] == defaults[key], rule
    yield "mesh.data", config.mesh.data in (-1, 1), "1 without extensions"


class Parts(NamedTuple):
    """The replaceable functions of a run. The defaults are the core."""

    rules: tuple[Callable, ...] = (*config_lib.RULES, core_rules)
    load_data: Callable[..., Dataset] = lines.load
    make_programs: Callable[[Config, Dataset], Programs] = make_programs
    open_checkpoints: Callable[..., Checkpoints] = Checkpoints
    open_metrics: Callable[[Path, int, Config], Metrics] = open_plain
    # Return the summary if the run is finished. Raise UserError if the directory has another run
    find_finished: Callable[[Path, Config, Dataset], dict[str, Any] | None] = lambda *_: None
    # Return the function (step, num_steps) -> training data; by default all of it is in memory
    make_load: Callable[..., Callable[[int, int], Split]] = lambda split, *_: lambda *_: split
    # (directory, config, dataset) -> a context in which this run owns the directory
    hold: Callable[..., Any] = lambda *args: contextlib.nullcontext(workdir.prepare(*args))
    # Describe the run that starts. Return the hooks that run before evaluation
    begin: Callable[[ActiveRun, TrainState], list[Hook]] = lambda run, state: []
    sample: Callable[..., list[Any]] = sampling.sample
    # A context that yields the function () -> number of the received signal, or 0
    catch_signals: Callable[[], Any] = lambda: contextlib.nullcontext(lambda: 0)
    # Write the summary and return it
    finish: Callable[[Path, dict[str, Any]], dict[str, Any]] = workdir.write_summary


CORE = Parts()


def train(config: Config, directory: str, parts: Parts = CORE) -> dict[str, Any]:
    """Train the run of `config` in `directory`, or resume it; return its summary.

    Raise UserError, before anything is written, if config and data do not fit together; Diverged
    if the loss is not finite; Stopped after a signal, with the state saved. The core alone does not
    check whether the directory has another run: `find_finished` of `assemble` does.
    """
    config_lib.validate(config, parts.rules)
    folder = Path(directory)
    dataset = parts.load_data(config.data, config.seed, folder)
    config = replace(config, data=replace(config.data, block_size=dataset.block_size))
    programs = parts.make_programs(config, dataset)
    if summary := parts.find_finished(folder, config, dataset):
        return summary
    with parts.hold(folder, config, dataset):
        return _train(config, dataset, programs, folder, parts)


def _train(
    config: Config, dataset: Dataset, programs: Programs, folder: Path, parts: Parts
) -> dict[str, Any]:
    init_key, train_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    state = programs.create_state(init_key)
    splits = programs.put(dataset.splits)
    checkpoints = parts.open_checkpoints(folder)
    if checkpoints.steps():
        state = checkpoints.restore("latest", state)
    metrics = parts.open_metrics(folder, int(state.step), config)
    load = parts.make_load(splits["train"], train_key, config.train.batch_size, programs.put)
    run = ActiveRun(
        folder, config, dataset, programs, metrics, checkpoints, splits, load, train_key, sample_key
    )
    with contextlib.closing(metrics):
        hooks, after = parts.begin(run, state), [make_sample_hook(run, parts.sample)]
        with parts.catch_signals() as stop_signal:
            state = loop.train(run, state, hooks, after, stop_signal)
            if number := stop_signal():
                raise Stopped(number, int(state.step))

    best = checkpoints.restore_items("best", state.variables)
    summary = {
        "steps": int(state.step),
        "best_step": checkpoints.steps()["best"],
        "train_loss": programs.evaluate(best, splits["train"], config.train.train_eval_examples),
        "dev_loss": checkpoints.best_dev_loss(),
        "test_loss": programs.evaluate(best, splits["test"], config.train.eval_examples),
        "num_params": num_params(state.params),
        "seconds": metrics.seconds,
        "steps_per_second": metrics.steps_per_second,
    }
    return parts.finish(folder, summary)

"""Train many runs together in one compiled program, and compare them.

    python -m makemore_jax.sweep --config configs/mlp.py \\
        --over optimizer.learning_rate=1e-4:1e-1:16 --seeds 4
    python -m makemore_jax.sweep --config configs/gru.py --over model.n_embd2=32,64,128

`--over FIELD=LOW:HIGH:NUM` stands for NUM values, evenly spaced on a logarithmic scale;
`--over FIELD=A,B,C` lists the values. Repeat `--over` to train all combinations. Every combination
is trained with each of `--seeds` seeds, starting from the seed of the config.

Each run computes what train.py computes for its settings. Runs that differ only in numbers of the
optimizer share one step under `vmap`, split over the devices. Runs that differ in other fields are
trained in groups, one after the other.

The sweep prints a table and writes sweep.png and sweep.json into --workdir, sweep.json after each
group. The run with the lowest dev loss is saved in best/ of that folder; sample.py can sample from
it. A run has diverged if its loss is not finite, or if its final train loss is above both the loss
of its first step and the loss of uniform guessing. After Ctrl-C, run the same command again to
resume: finished groups are kept.
"""

import importlib.util
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from makemore_jax.cli import command_line, config_flag, interrupts, output, resources, startup
from makemore_jax.cli.data_warnings import unused_settings, why_unused
from makemore_jax.cli.fields import NUM_SEEDS, check_flag
from makemore_jax.config import Config, flatten
from makemore_jax.errors import UserError
from makemore_jax.integrity.runs import reporting_errors
from makemore_jax.report.comparison import DIFFERENT_DATA
from makemore_jax.report.facts import show_value
from makemore_jax.sweep.axes import parse_axis, with_values
from makemore_jax.sweep.finished import FinishedGroups
from makemore_jax.sweep.groups import sweep
from makemore_jax.sweep.results import Result, aggregate_seeds, as_table, best_run
from makemore_jax.sweep.run_dir import write_run
from makemore_jax.versions import device, versions
from makemore_jax.workdir import write_json

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, or the name of one in configs/, such as mlp"
)
OVER = flags.DEFINE_multi_string(
    "over", [], "FIELD=LOW:HIGH:NUM or FIELD=A,B,C; repeat it for all combinations"
)
SEEDS = flags.DEFINE_integer("seeds", 1, "number of seeds for each combination")
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/sweep", "folder for sweep.json, sweep.png and the best run"
)


def main() -> None:
    config, folder = config_flag.read(CONFIG), Path(WORKDIR.value)
    axes = read_axes()
    check_used(config, axes)
    for warning in unused_settings(config):
        command_line.warn(warning)
    check_best_folder(folder / "best")
    output.outlive_terminal()
    startup.use_compilation_cache()
    startup.configure_jax()
    startup.announce_compiling()
    began = time.perf_counter()
    finished = FinishedGroups(folder)

    def write_so_far(results: list[Result]) -> None:
        write_record(config, results, time.perf_counter() - began, folder)

    with interrupts.StopSignals() as signals:
        try:
            results = sweep(config, axes, SEEDS.value, finished, signals.check, write_so_far)
        except KeyboardInterrupt:
            print(f"sweep: {finished.describe()}", file=sys.stderr)
            command_line.leave(128 + signals.received)
    print_results(config, results, time.perf_counter() - began, folder)
    change_data = [name for name in axes if name.startswith("data.") and name != "data.memory_map"]
    if change_data or "train.eval_examples" in axes:
        print(DIFFERENT_DATA)
    if result := best_run(results):
        write_best_run(config, result, folder / "best")
    finished.delete()
    if all(result.diverged for result in results):
        print("sweep: every run diverged", file=sys.stderr)
        command_line.leave(1)


def read_axes() -> dict[str, list[Any]]:
    """Return the values of each field in --over. Raise UserError if a flag is not usable."""
    if not OVER.value:
        raise UserError("--over is missing; try --over optimizer.learning_rate=1e-4:1e-1:16")
    check_flag("seeds", SEEDS.value, NUM_SEEDS)
    if importlib.util.find_spec("matplotlib") is None:  # report it now, not after the training
        raise UserError("sweep.png needs matplotlib: pip install matplotlib")
    axes = dict(map(parse_axis, OVER.value))
    if len(axes) < len(OVER.value):
        raise UserError("--over: a field is given more than once")
    return axes


def check_used(config: Config, axes: dict[str, list[Any]]) -> None:
    """Raise UserError for a field in `axes` that no combination uses."""
    choices = itertools.product(*axes.values())
    every = [flatten(config) | dict(zip(axes, chosen, strict=True)) for chosen in choices]
    for name in axes:
        if all(problems := [why_unused(name, values) for values in every]):
            raise UserError(f"--over: {problems[0]}")


def check_best_folder(folder: Path) -> None:
    """Raise UserError if the folder for the best run has other files, which would be deleted."""
    if folder.exists() and not (folder / "config.json").exists():
        raise UserError(f"--workdir: {folder} would be replaced, but it is not a run; move it away")


def write_record(config: Config, results: list[Result], seconds: float, folder: Path) -> None:
    """Write sweep.json with the results so far."""
    record = {
        "config": flatten(config),
        "seconds": seconds,
        "device": device(),
        "versions": versions(),
        "members": [result.as_json() for result in results],
    }
    with reporting_errors(folder):
        write_json(folder / "sweep.json", record)


def print_results(config: Config, results: list[Result], seconds: float, folder: Path) -> None:
    """Print the table and write sweep.png."""
    rows = aggregate_seeds(results)
    print(as_table(rows))

    from makemore_jax.plots.sweep import draw_sweep  # matplotlib, which is slow to import

    draw_sweep(rows, folder / "sweep.png")
    steps = sorted({result.values.get("train.steps", config.train.steps) for result in results})
    num_steps = " or ".join(map(str, steps))
    size = f"{len(results)} runs of {num_steps} steps in {seconds:.0f} s"
    print(f"\n{size}; all results are in {folder / 'sweep.json'} and {folder / 'sweep.png'}")


def write_best_run(config: Config, result: Result, folder: Path) -> None:
    """Write the run directory of the best run, and print its settings."""
    write_run(folder, with_values(config, result.values | {"seed": result.seed}), result.trained)
    settings = ", ".join(f"{name}={show_value(value)}" for name, value in result.values.items())
    print(
        f"{folder} is the best run, {settings}, seed {result.seed}, dev loss "
        f"{result.best_dev_loss:.4f}; {resources.command('sample', '--workdir', folder)} samples "
        "from it"
    )


if __name__ == "__main__":
    command_line.run(main, __doc__, name="sweep")

"""A working directory holds one run: training resumes it with the same data and model only."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from makemore_jax import config as config_lib
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.errors import UserError
from makemore_jax.integrity import runs, untrusted
from makemore_jax.training.optimizer import make_schedule
from makemore_jax.workdir import Run

# A resumed run must have the same values of these fields, and of all `data` and `model` fields. Its
# best checkpoint is chosen by losses over the same examples.
FIXED = ("seed", "optimizer.name", "optimizer.decay", "train.eval_examples")
# Exceptions. They change results only by rounding; `layer_loop` also changes the dropout masks.
MAY_DIFFER = ("data.memory_map", "model.layer_loop", "model.remat")

# The fields that `make_schedule` reads.
SCHEDULE_FIELDS = (
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.step_size",
    "optimizer.gamma",
    "optimizer.min_learning_rate",
    "optimizer.decay_steps",
    "train.steps",
)


def check(workdir: Path, config: Config, dataset: Dataset) -> None:
    """Raise UserError if `workdir` has another run or other files.

    Fields other than those in `FIXED`, `data` and `model` may differ.
    """
    untrusted.check_links(workdir)
    if (workdir / "config.json").exists():
        _check_same(runs.read(workdir), config, dataset, workdir)
    elif workdir.is_dir() and (other := sorted(filter(_is_foreign, workdir.iterdir()))):
        raise UserError(
            f"--workdir: {workdir} holds {other[0].name} but no run; give a new or an empty folder"
        )


def repeats_results(workdir: Path, config: Config, step: int) -> bool:
    """Return whether a run that resumes at `step` evaluates and samples its first state again.

    A signal may interrupt an evaluation or sampling; the state is then saved without a dev loss.
    """
    from makemore_jax.checkpoint import read_dev_loss  # imports orbax, which is slow

    train = config.train
    is_due = step % train.eval_every == 0 or step >= train.steps
    is_due |= train.num_samples != 0 and step % train.sample_every == 0
    dev_loss = read_dev_loss(workdir / "checkpoints" / str(step))
    return step > 0 and is_due and math.isinf(dev_loss)


def describe_new_schedule(saved: Config, new: Config, step: int) -> str | None:
    """Return one line if the learning rate from `step` on is not that of the saved config."""
    saved_rate, new_rate = (make_schedule(c.optimizer, c.train.steps) for c in (saved, new))
    last = max(saved.train.steps, new.train.steps)
    steps = jnp.linspace(step, last, 1_000).astype(jnp.int32)
    if jnp.array_equal(saved_rate(steps), new_rate(steps)):
        return None
    fields = config_lib.flatten(saved), config_lib.flatten(new)
    changes = [
        f"{name} from {config_lib.show(before)} to {config_lib.show(fields[1][name])}"
        for name, before in fields[0].items()
        if name in SCHEDULE_FIELDS and before != fields[1][name]
    ]
    return (
        f"the learning rate was {float(saved_rate(step - 1)):.3g} at step {step} and is "
        f"{float(new_rate(step)):.3g} at step {step + 1}: you changed {', '.join(changes)}"
    )


def _is_foreign(file: Path) -> bool:
    """Return whether a file is neither hidden nor left behind by a killed `prepare`."""
    return file.name != "vocab.json" and file.suffix != ".partial" and file.name[0] != "."


def _check_same(run: Run, config: Config, dataset: Dataset, workdir: Path) -> None:
    saved, new = config_lib.flatten(run.config), config_lib.flatten(config)
    saved["data.path"], new["data.path"] = run.data_sha256, dataset.sha256
    for name in new:
        is_fixed = name.startswith(("data.", "model.")) or name in FIXED
        if not is_fixed or name in MAY_DIFFER or new[name] == saved[name]:
            continue
        if name == "data.path":
            raise UserError(
                f"data.path: {config.data.path} is not the file that the run in {workdir} was "
                "begun with, or has changed since; give another --workdir"
            )
        raise UserError(
            f"{name}: {workdir} holds a run with {config_lib.show(saved[name])}, not "
            f"{config_lib.show(new[name])}; give another --workdir"
        )


def read_summary(workdir: Path, steps: int) -> dict[str, Any] | None:
    """Return summary.json if the run ended after `steps` steps or more, else None."""
    try:
        untrusted.check_json(workdir / "summary.json")
        summary = json.loads((workdir / "summary.json").read_text("utf-8"))
        return summary if summary["steps"] >= steps else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

"""The list of facts about a run: model, data, losses, speed, device, config."""

from pathlib import Path
from typing import Any

from makemore_jax import config as config_lib
from makemore_jax import workdir
from makemore_jax.cli.progress import duration
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.integrity import resume
from makemore_jax.report.history import Curves


def collect_facts(
    folder: Path,
    run: workdir.Run,
    curves: Curves | None,
    num_params: int,
    best_step: int,
    dataset: Dataset | None,
) -> dict[str, str]:
    """Return the facts below the title of a page, by name.

    `dataset` is None if the data file is missing or has changed.
    """
    config = run.config
    facts = {
        "model": f"{config.model.kind}, {num_params:,} parameters",
        "checkpoint": f"best dev loss, step {best_step:,}",
        "data": _describe_data(run, dataset),
        "vocabulary": f"{run.vocab.size} tokens, context {config.data.block_size}",
    }
    summary = resume.read_summary(folder, config.train.steps)
    if summary:
        losses = [f"{name} {summary[f'{name}_loss']:.4f}" for name in ("test", "dev", "train")]
        facts["loss"] = f"{', '.join(losses)} nats per character"
    if summary or curves:
        facts["training"] = _describe_training(config, summary, curves)
    if summary and "device" in summary:  # not in a run of the core alone
        facts["device"] = f"{summary['device']}, jax {summary['versions']['jax']}"
    changed = [f"{name}={show_value(value)}" for name, value in changed_fields(config).items()]
    facts["config"] = f"defaults except {', '.join(changed)}" if changed else "all defaults"
    return facts


def changed_fields(config: Config) -> dict[str, Any]:
    """Return the fields that differ from the defaults, by dotted name.

    The path of the data and the context length are left out, since the page shows them elsewhere.
    """
    defaults = config_lib.flatten(Config())
    return {
        name: value
        for name, value in config_lib.flatten(config).items()
        if value != defaults[name] and name not in ("data.path", "data.block_size")
    }


def show_value(value: Any) -> str:
    """Format a config field in its shortest form: 5e-04 as 0.0005."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_seconds(seconds: float) -> str:
    """Format a duration as '12.3 s', '3 min 20 s' or '2 h 5 min'."""
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


def _describe_data(run: workdir.Run, dataset: Dataset | None) -> str:
    name = Path(run.data_file).name
    if run.config.data.kind == "text":
        name += ", one text"
    if dataset is None:
        return f"{name}, missing or changed: the sections that need it are left out"
    if run.config.data.kind == "text":
        return f"{name}: {dataset.splits['train'].num_chars:,} training characters"
    sizes = [f"{len(words):,} {split}" for split, words in dataset.words.items()]
    return f"{name}: {', '.join(sizes)} lines"


def _describe_training(
    config: Config, summary: dict[str, Any] | None, curves: Curves | None
) -> str:
    if summary:
        speed = summary["steps_per_second"]
        rate = f" ({speed:,.1f} steps/s)" if speed else ""
        return f"{summary['steps']:,} steps in {show_seconds(summary['seconds'])}{rate}"
    step, seconds = curves.seconds[-1]
    return f"{step:,} of {config.train.steps:,} steps in {show_seconds(seconds)}, not finished"

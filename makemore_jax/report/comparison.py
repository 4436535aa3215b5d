"""Compare several runs in one table: config differences, losses and speed."""

from pathlib import Path
from typing import Any, NamedTuple

from makemore_jax import config as config_lib
from makemore_jax import models, workdir
from makemore_jax.assemble import create_model, read_run
from makemore_jax.config import Config
from makemore_jax.errors import UserError
from makemore_jax.integrity import resume
from makemore_jax.report import history
from makemore_jax.report.facts import show_seconds, show_value
from makemore_jax.report.history import Curves
from makemore_jax.training.state import num_params

DIFFERENT_DATA = "dev and test data differ between these runs: compare losses only roughly"


class ComparedRun(NamedTuple):
    """A run, one column of the table."""

    name: str
    config: Config
    data: tuple[Any, ...]  # equal for two runs if they have the same dev and test data
    data_file: str
    num_params: int
    curves: Curves | None
    summary: dict[str, Any] | None  # None if the run is not finished


class Row(NamedTuple):
    """A row of the table: one cell per run, and the index of the best run, if there is one."""

    name: str
    cells: list[str]
    best: int | None = None


def read_runs(folders: list[Path]) -> list[ComparedRun]:
    """Read the runs in these folders. Raise UserError if a folder has no run or appears twice."""
    paths = [folder.resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UserError(f"--workdir: {folders[i]} appears twice")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> ComparedRun:
    run = read_run(folder)
    config, block_size = run.config, run.config.data.block_size
    model = create_model(config.model, run.vocab.size, block_size)
    return ComparedRun(
        name=name,
        config=config,
        data=_data_identity(run),
        data_file=Path(run.data_file).name,
        num_params=num_params(models.variable_shapes(model, block_size)["params"]),
        curves=history.read_curves(folder, run),
        summary=resume.read_summary(folder, config.train.steps),
    )


def _data_identity(run: workdir.Run) -> tuple[Any, ...]:
    data, num_examples = run.config.data, run.config.train.eval_examples
    always = run.data_sha256, data.kind, data.encoding, num_examples
    if data.kind == "text":
        return *always, data.train_fraction
    seed = None if data.split == "lecture" else run.config.seed  # "lecture" has a fixed seed
    # Only lines that are dropped or cut depend on the block size.
    shortened = None if data.long_lines == "refuse" else (data.long_lines, data.block_size)
    return *always, data.split, data.dedup, seed, shortened


def have_same_data(runs: list[ComparedRun]) -> bool:
    """Return whether all runs have the same dev and test data, so their losses are comparable."""
    return len({run.data for run in runs}) == 1


def make_rows(runs: list[ComparedRun]) -> list[Row]:
    """Return the rows of the table."""
    rows = [Row("parameters", [f"{run.num_params:,}" for run in runs])]
    if len({run.data[0] for run in runs}) > 1:
        rows.append(Row("data", [run.data_file for run in runs]))
    rows += _config_rows(runs)
    rows.append(Row("steps", [_show_steps(run) for run in runs]))
    rows.append(Row("best step", [_format(_best_step_and_loss(run)[0], "{:,}") for run in runs]))
    losses = {name: [_loss(run, name) for run in runs] for name in ("train", "dev", "test")}
    for name, values in losses.items():
        rows.append(_loss_row(f"{name} loss", values, name != "train" and have_same_data(runs)))
    rows.append(Row("steps/s", [_format(_speed(run), "{:,.1f}") for run in runs]))
    rows.append(Row("time", [_show_time(run) for run in runs]))
    rows.append(Row("device", [(run.summary or {}).get("device", "") for run in runs]))
    return rows


def as_markdown(runs: list[ComparedRun]) -> str:
    """Return the table in Markdown, with one column per run."""
    lines = [["", *(run.name for run in runs)]]
    for row in make_rows(runs):
        cells = [f"{c} (best)" if i == row.best else c for i, c in enumerate(row.cells)]
        lines.append([row.name, *cells])
    lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _config_rows(runs: list[ComparedRun]) -> list[Row]:
    """Return the fields that differ, without the path and the steps, which have their own rows."""
    flat = [config_lib.flatten(run.config) for run in runs]
    names = [name for name in flat[0] if name not in ("data.path", "train.steps")]
    columns = ((name, [show_value(fields[name]) for fields in flat]) for name in names)
    return [Row(name, cells) for name, cells in columns if len(set(cells)) > 1]


def _loss_row(name: str, losses: list[float | None], marks_best: bool) -> Row:
    known = [loss for loss in losses if loss is not None]
    best = losses.index(min(known)) if marks_best and len(known) > 1 else None
    return Row(name, [_format(loss, "{:.4f}") for loss in losses], best)


def _best_step_and_loss(run: ComparedRun) -> tuple[int, float] | tuple[None, None]:
    """Return the step and the dev loss of the best model so far."""
    if run.summary:
        return run.summary["best_step"], run.summary["dev_loss"]
    if run.curves and run.curves.dev_loss:
        return min(run.curves.dev_loss, key=lambda point: point[1])
    return None, None


def _loss(run: ComparedRun, split: str) -> float | None:
    if split == "dev":
        return _best_step_and_loss(run)[1]
    return run.summary[f"{split}_loss"] if run.summary else None


def _show_steps(run: ComparedRun) -> str:
    steps = f"{run.config.train.steps:,}"
    if run.summary:
        return steps
    return f"{run.curves.seconds[-1][0]:,} of {steps}" if run.curves else f"0 of {steps}"


def _speed(run: ComparedRun) -> float | None:
    if run.summary:
        return run.summary["steps_per_second"]
    step, seconds = run.curves.seconds[-1] if run.curves else (0, 0)
    return step / seconds if seconds else None


def _show_time(run: ComparedRun) -> str:
    if run.summary:
        return show_seconds(run.summary["seconds"])
    return show_seconds(run.curves.seconds[-1][1]) if run.curves else ""


def _format(value: Any, template: str) -> str:
    return "" if value is None else template.format(value)

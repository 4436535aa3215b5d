"""The results of a sweep: of each run, and of each combination of values over its seeds."""

import math
import statistics
from typing import Any, NamedTuple

from makemore_jax.cli.output import without_infinity
from makemore_jax.sweep.axes import Values
from makemore_jax.training.state import TrainState


class TrainedRun(NamedTuple):
    """The states and metrics that a run directory needs."""

    best: TrainState  # at the lowest dev loss, on the host
    best_dev_loss: float
    last: TrainState  # after the last step
    last_dev_loss: float
    lines: list[dict[str, Any]]  # of metrics.jsonl


class Result(NamedTuple):
    """The result of one run."""

    values: Values
    seed: int
    train_loss: float  # mean over the steps of the last compiled call
    dev_loss: float  # after the last step
    best_dev_loss: float  # of all evaluations; nan if the run diverged
    curve: list[float]  # mean train loss of each compiled call, of at most log_every steps
    trained: TrainedRun | None = None  # only for the best run of each group

    @property
    def diverged(self) -> bool:
        """Whether the run diverged, as defined in the docstring of `__main__`."""
        return math.isnan(self.best_dev_loss)

    def as_json(self) -> dict[str, Any]:
        """Return the entry in sweep.json."""
        fields = self._asdict() | {"diverged": self.diverged}
        del fields["trained"]
        return without_infinity(fields)


class Row(NamedTuple):
    """The best dev losses of one combination over its seeds."""

    values: Values
    mean: float  # over the seeds that did not diverge; nan if all did
    low: float
    high: float
    diverged: int  # number of seeds
    seeds: int


def aggregate_seeds(results: list[Result]) -> list[Row]:
    """Return a row for each combination, in their order."""
    combinations: dict[tuple, list[Result]] = {}
    for result in results:
        combinations.setdefault(tuple(result.values.items()), []).append(result)
    rows = []
    for values, members in combinations.items():
        losses = [m.best_dev_loss for m in members if not m.diverged]
        spread = (statistics.mean(losses), min(losses), max(losses)) if losses else (math.nan,) * 3
        diverged = len(members) - len(losses)
        rows.append(Row(dict(values), *spread, diverged, seeds=len(members)))
    return rows


def as_table(rows: list[Row]) -> str:
    """Return a Markdown table that marks the lowest mean and the combinations that diverged."""
    names = list(rows[0].values)
    header = [*names, "dev loss, mean", "lowest", "highest", "diverged"]
    lines = [header, ["---"] * len(header)]
    lowest = min((row.mean for row in rows if not math.isnan(row.mean)), default=None)
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values.values()]
        if math.isnan(row.mean):
            cells += ["diverged", "", ""]
        else:
            cells += [f"{x:.4f}" for x in (row.mean, row.low, row.high)]
        cells[-3] += " (best)" if row.mean == lowest else ""
        lines.append([*cells, f"{row.diverged} of {row.seeds}" if row.diverged else ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_run(results: list[Result]) -> Result | None:
    """Return the run with the lowest dev loss; None if all diverged."""
    candidates = [result for result in results if result.trained]
    return min(candidates, key=lambda result: result.best_dev_loss, default=None)

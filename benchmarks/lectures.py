"""The lectures' networks beside the losses that the course prints: python -m benchmarks.lectures

Trains every row of the course's table with train.py on makemore's list, under the lecture's split
(python -m makemore_jax.download names). Writes docs/lectures/: results.json, the table, and a
picture of each run: its losses, and what went through its layers before the first step and after
the last. Exits with 1, naming the rows, where a loss is further than 0.02 from the course's.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import sides, whole_training
from makemore_jax.download import locate

OUT = sides.ROOT / "docs" / "lectures"
FLAT = ("model.n_layer=1", "model.fuse=None", "model.n_embd=10", "model.n_embd2=200")


class Row(NamedTuple):
    """One network of the course: what it is called here, and the losses printed there."""

    name: str
    title: str
    config: str
    overrides: tuple[str, ...]
    train: float
    dev: float


ROWS = (
    Row("mlp", "MLP, nothing scaled", "lecture_mlp", (), 2.1245, 2.1682),
    Row(
        "small_output",
        "output layer small",
        "lecture_mlp",
        ("model.init_scale=small_output",),
        2.07,
        2.13,
    ),
    Row(
        "small",
        "hidden layer not saturated",
        "lecture_mlp",
        ("model.init_scale=small",),
        2.0356,
        2.1027,
    ),
    Row("mlp_scaled", "by the rule for tanh", "lecture_mlp_scaled", (), 2.0377, 2.1070),
    Row("mlp_batchnorm", "batch norm", "lecture_mlp_batchnorm", (), 2.0668, 2.1048),
    Row(
        "calibrated",
        "the same, calibrated",
        "lecture_mlp_batchnorm",
        ("model.batch_norm=calibrated",),
        2.0668,
        2.1048,
    ),
    Row("deep_batchnorm", "six layers, 1,000 steps", "lecture_deep_batchnorm", (), 2.4003, 2.3982),
    Row("flat", "flat, context 8", "lecture_wavenet", FLAT, 1.918, 2.027),
    Row(
        "tree",
        "hierarchical",
        "lecture_wavenet",
        ("model.n_embd=10", "model.n_embd2=68"),
        1.912,
        2.022,
    ),
    Row("wavenet", "hierarchical, wide", "lecture_wavenet", (), 1.7690, 1.9937),
)
BOUND = 0.02


def command(row: Row) -> list[str]:
    """What a reader types, but for the path of the data."""
    overrides = [f"--config.{override}" for override in row.overrides]
    return ["train.py", "--config", f"configs/{row.config}.py", *overrides]


def train(row: Row, data: Path) -> dict[str, Any]:
    """Run it; its summary and all that it wrote on the way."""
    given = [f"--config.data.path={data}"]
    given += [f"--config.train.diagnose_every={1_000 if 'deep' in row.name else 100_000}"]
    seconds, lines, summary = whole_training.train([*command(row), *given])
    kept = ("num_params", "steps", "best_step", "train_loss", "dev_loss", "test_loss")
    found = {name: summary[name] for name in kept} | {"seconds": seconds}
    return {"found": found, "lines": lines}


def as_table(results: dict[str, dict[str, float]]) -> str:
    """The rows that have been measured, each with its command."""
    header = ["network", "command", "parameters", "train", "published", "dev", "published", "s"]
    rows = []
    for row in ROWS:
        if row.name in results:
            found = results[row.name]
            shown = f"`python {' '.join(command(row))}`"
            losses = [f"{found['train_loss']:.4f}", f"{row.train:.4f}"]
            losses += [f"{found['dev_loss']:.4f}", f"{row.dev:.4f}"]
            cells = [row.title, shown, f"{found['num_params']:,}", *losses]
            rows.append([*cells, f"{found['seconds']:.0f}"])
    return sides.as_table(header, rows)


def too_far(results: dict[str, dict[str, float]]) -> list[str]:
    """The rows whose losses are not the course's."""
    far = []
    for row in ROWS:
        if found := results.get(row.name):
            apart = (abs(found["train_loss"] - row.train), abs(found["dev_loss"] - row.dev))
            if not max(apart) <= BOUND:
                far.append(f"{row.title}: train and dev are {apart[0]:.4f}, {apart[1]:.4f} away")
    return far


def main() -> None:
    from makemore_jax.plots import curves  # imports matplotlib, which the table does not need

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = locate("names", sides.ROOT / "data")
    if data is None:
        sys.exit("lectures: needs makemore's list: python -m makemore_jax.download names")
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for row in ROWS:
        if row.name in args.rows:
            trained = train(row, data.absolute())
            results[row.name] = trained["found"]
            curves.losses_and_layers(trained["lines"], args.out / f"{row.name}.png")
    sides.report("results", as_table(results), {"results": results}, args.out)
    if far := too_far(results):
        sys.exit("lectures: " + "; ".join(far))


if __name__ == "__main__":
    main()

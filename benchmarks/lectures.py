"""The lectures' networks, compared with the course's losses: python -m benchmarks.lectures

Trains each network of the course with train.py on makemore's list and the lecture's split
(python -m makemore_jax.download names). Writes results.json, the table, and a figure of each run to
docs/lectures/. A figure shows the losses, and the activations before the first and after the last
step. Exits with 1 if a loss differs by more than 0.02 from the course's, and names the networks.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import sides, whole_training
from benchmarks.configs import makemore_list

OUT = sides.ROOT / "docs" / "lectures"
FLAT = ("model.n_layer=1", "model.fuse=None", "model.n_embd=10", "model.n_embd2=200")


class Row(NamedTuple):
    """A network of the course, and the losses that the course prints."""

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
TOLERANCE = 0.02


def command(row: Row) -> list[str]:
    """Return the arguments of Python that train a network, without the path of the data."""
    overrides = [f"--config.{override}" for override in row.overrides]
    return ["train.py", "--config", f"configs/{row.config}.py", *overrides]


def train(row: Row, data: Path) -> dict[str, Any]:
    """Train a network. Return its results and the lines of metrics.jsonl."""
    flags = [f"--config.data.path={data}"]
    flags += [f"--config.train.diagnose_every={1_000 if 'deep' in row.name else 100_000}"]
    seconds, lines, summary = whole_training.train([*command(row), *flags])
    fields = ("num_params", "steps", "best_step", "train_loss", "dev_loss", "test_loss")
    results = {name: summary[name] for name in fields} | {"seconds": seconds}
    return {"results": results, "lines": lines}


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return a table of the measured networks, each with its command."""
    header = ["network", "command", "parameters", "train", "published", "dev", "published", "s"]
    rows = []
    for row in ROWS:
        if row.name in results:
            measured = results[row.name]
            python_command = f"`python {' '.join(command(row))}`"
            losses = [f"{measured['train_loss']:.4f}", f"{row.train:.4f}"]
            losses += [f"{measured['dev_loss']:.4f}", f"{row.dev:.4f}"]
            cells = [row.title, python_command, f"{measured['num_params']:,}", *losses]
            rows.append([*cells, f"{measured['seconds']:.0f}"])
    return sides.as_table(header, rows)


def deviations(results: dict[str, dict[str, float]]) -> list[str]:
    """Describe the networks with losses outside the tolerance."""
    messages = []
    for row in ROWS:
        if measured := results.get(row.name):
            train = abs(measured["train_loss"] - row.train)
            dev = abs(measured["dev_loss"] - row.dev)
            if not max(train, dev) <= TOLERANCE:
                messages.append(f"{row.title}: train differs by {train:.4f}, dev by {dev:.4f}")
    return messages


def main() -> None:
    from makemore_jax.plots import curves  # imports matplotlib, which the table does not need

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = makemore_list("lectures")
    args.out.mkdir(parents=True, exist_ok=True)
    results = sides.stored("results", names, args.out)
    for row in ROWS:
        if row.name in args.rows:
            trained = train(row, data.absolute())
            results[row.name] = trained["results"]
            curves.losses_and_layers(trained["lines"], args.out / f"{row.name}.png")
    sides.report("results", as_table(results), {"results": results}, args.out)
    if messages := deviations(results):
        sys.exit("lectures: " + "; ".join(messages))


if __name__ == "__main__":
    main()

"""The losses of configs/shakespeare_cpu.py: python -m benchmarks.shakespeare

Trains the config with each learning rate and writes docs/shakespeare/results.json and the table
results.md, which docs/shakespeare.md includes. `--check` writes nothing. It trains again and fails
unless every loss equals the one in results.json to the last digit, as it does on the same machine
with the same versions.

Needs the text: python -m makemore_jax.download shakespeare
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import sides, whole_training
from benchmarks.configs import shakespeare_text
from makemore_jax.cli import startup
from makemore_jax.versions import versions
from makemore_jax.workdir import write_json

OUT = sides.ROOT / "docs" / "shakespeare"
CONFIG = "configs/shakespeare_cpu.py"
ROWS = {
    "4e-3": ("4e-3, the config's", ()),
    "1e-3": ("1e-3, nanoGPT's", ("--config.optimizer.learning_rate=1e-3",)),
}
COLUMNS = (250, 500, 1_000, 1_500, 2_000)


def command(row: str) -> list[str]:
    """Return the arguments of Python that train one row."""
    return ["train.py", "--config", CONFIG, *ROWS[row][1]]


def train(row: str, data: Path) -> dict[str, float]:
    """Train one row; return its dev losses by step."""
    training = whole_training.train([*command(row), f"--config.data.path={data}"])
    return {str(line["step"]): line["dev_loss"] for line in training.lines if "dev_loss" in line}


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return a table with the command and the dev losses of each learning rate."""
    header = ["learning rate", "command", *(f"{n:,} steps" for n in COLUMNS)]
    rows = [
        [
            *(ROWS[row][0], f"`python {' '.join(command(row))}`"),
            *(f"{losses[str(n)]:.4f}" for n in COLUMNS),
        ]
        for row, losses in results.items()
    ]
    return sides.as_table(header, rows)


def write(dev_losses: dict[str, dict[str, float]], file: Path) -> None:
    """Write all losses with the machine and versions to `file`, and the table next to it."""
    dev_losses = {row: dev_losses[row] for row in ROWS if row in dev_losses}
    machine = {"processor": startup.processor(), "cores": startup.num_cores()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, machine | {"versions": versions(), "dev_losses": dev_losses})
    file.with_suffix(".md").write_text(as_table(dev_losses) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--check", action="store_true", help="compare with results.json")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = shakespeare_text("shakespeare")
    file = args.out / "results.json"
    stored = json.loads(file.read_text("utf-8"))["dev_losses"] if file.exists() else {}
    measured = {row: train(row, data.absolute()) for row in args.rows}
    print(as_table(measured))
    if args.check:
        if differing := [row for row in measured if measured[row] != stored.get(row)]:
            sys.exit(f"shakespeare: the losses of {', '.join(differing)} differ from {file}")
        return
    write(stored | measured, file)


if __name__ == "__main__":
    main()

"""Seconds and steps to a validation loss of 1.88: python -m benchmarks.shakespeare_time

1.88 is nanoGPT's published loss of its laptop settings on Tiny Shakespeare. Trains each recipe with
an evaluation on the whole validation split every 50 steps. Then trains it again, until the first of
these steps whose loss is at most 1.88, with one evaluation: with an empty compilation cache (first
run) and with the cache of that run (later runs). Writes docs/shakespeare/time.json and the
table in docs/shakespeare.md.

Needs the text, and an idle machine: python -m makemore_jax.download shakespeare
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import sides
from benchmarks.accelerator_items import crops_loss, read_lines
from makemore_jax import assemble
from makemore_jax.download import locate

OUT = sides.ROOT / "docs" / "shakespeare"
TARGET = 1.88
EVERY = 50  # steps between evaluations
NUM_BATCHES = 200  # of random crops: nanoGPT's laptop settings have 20

CONFIG = "configs/shakespeare_cpu.py"
MODERN = ("model.kind=modern", "model.bias=True", "model.tied=False", "model.init_scheme=pytorch")


class Recipe(NamedTuple):
    """Overrides of CONFIG. Training continues with the final learning rate after `decay_steps`."""

    fields: tuple[str, ...]
    decay_steps: int
    max_steps: int


RECIPES = {
    "nanoGPT's": Recipe(("optimizer.learning_rate=1e-3",), 2_000, 6_000),
    "larger learning rate": Recipe((), 2_000, 2_000),
    "modern block, short schedule": Recipe(
        (
            *MODERN,
            *("optimizer.learning_rate=8e-3", "optimizer.min_learning_rate=0"),
            "optimizer.warmup_steps=50",
        ),
        450,
        450,
    ),
}


def command(recipe: str, stop: int | None = None) -> list[str]:
    """Return the arguments of Python that train a recipe, or its first `stop` steps."""
    fields, decay_steps, max_steps = RECIPES[recipe]
    every = stop or EVERY
    fields += (f"optimizer.decay_steps={decay_steps}", f"train.steps={stop or max_steps}")
    fields += (f"train.eval_every={every}", f"train.checkpoint_every={every}")
    flags = [f"--config.{field}" for field in (*fields, "train.num_samples=0")]
    return ["train.py", "--config", CONFIG, *flags]


def train(words: list[str], folder: Path, cache: Path) -> float:
    """Run train.py in `folder`. Return the seconds of the whole command."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.perf_counter()
    words = [sys.executable, *words, "--workdir", str(folder)]
    subprocess.run(words, cwd=sides.ROOT, env=env, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def measure(recipe: str, data: Path) -> dict[str, Any]:
    """Return the step at which a recipe reaches TARGET, its losses there, and the seconds."""
    path = f"--config.data.path={data}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        train([*command(recipe), path], folder / "all", cache)
        dev_losses = {
            line["step"]: line["dev_loss"]
            for line in read_lines(folder / "all")
            if "dev_loss" in line
        }
        reached = min((step for step, loss in dev_losses.items() if loss <= TARGET), default=None)
        result = {"dev_losses": dev_losses, "steps": reached}
        if reached is None:
            return result
        words = [*command(recipe, reached), path]
        seconds = {run: train(words, folder / run, folder / "cold") for run in ("first", "later")}
        lines = read_lines(folder / "later")
        run = assemble.read_run(folder / "later")
        speeds = [line["steps_per_second"] for line in lines if line.get("steps_per_second")]
        milliseconds = 1e3 / median(speeds)
        return result | {
            "seconds": seconds,
            "milliseconds": milliseconds,
            "dev_loss": next(line["dev_loss"] for line in lines if "dev_loss" in line),
            "crops_loss": crops_loss(folder / "later", run.config, NUM_BATCHES),
        }


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row per recipe."""
    header = ["recipe", "steps to 1.88", "s of training", "ms per step", "first run, s"]
    header += ["later runs, s", "dev loss", "dev loss, random crops"]
    rows = []
    for recipe, r in results.items():
        if r["steps"] is None:
            rows.append([recipe, f"not in {max(map(int, r['dev_losses'])):,}", *["-"] * 6])
            continue
        times = r["steps"] * r["milliseconds"] / 1e3, r["milliseconds"], *r["seconds"].values()
        losses = [f"{r['dev_loss']:.4f}", f"{r['crops_loss']:.4f}"]
        rows.append([recipe, f"{r['steps']:,}", *(f"{t:.1f}" for t in times), *losses])
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = locate("shakespeare", sides.ROOT / "data")
    if data is None:
        sys.exit("shakespeare_time: needs the text: python -m makemore_jax.download shakespeare")
    results = {recipe: measure(recipe, data.absolute()) for recipe in args.recipes}
    sides.report("time", as_table(results), {"results": results}, args.out)
    if args.out == OUT:
        sides.insert(sides.ROOT / "docs" / "shakespeare.md", "time", as_table(results))


if __name__ == "__main__":
    main()

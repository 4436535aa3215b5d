"""Recipes for a short training on Tiny Shakespeare: python -m benchmarks.shakespeare_recipes

Trains each recipe for about 15 seconds of training steps, with a schedule of this length. A trial
of 200 steps determines the number of steps. The text is the train split: its last tenth is held
out, and the validation split is not read. Prints the recipe with the lowest loss.
benchmarks.shakespeare_time measures how fast it reaches the published loss of 1.88. Writes
docs/shakespeare/recipes.json and the table in docs/shakespeare.md. With --recipes, the results of
the other recipes are kept.

Needs the text, and an idle machine: python -m makemore_jax.download shakespeare
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.configs import shakespeare_text
from benchmarks.whole_training import milliseconds, train

OUT = sides.ROOT / "docs" / "shakespeare"
CONFIG = "configs/shakespeare_cpu.py"
BUDGET = 15.0  # seconds of training steps, without compilation
EVERY = 50  # the number of steps is a multiple of this
TRAIN_FRACTION = 0.9  # nanoGPT's split, and again of its train part
SHORT = ("optimizer.warmup_steps=25", "optimizer.min_learning_rate=0")
MODERN = (
    *SHORT,
    *("model.kind=modern", "model.bias=True", "model.tied=False", "model.init_scheme=pytorch"),
)
FAST = (*MODERN, "optimizer.learning_rate=8e-3")
SMALL = (*FAST, "model.n_layer=2", "model.n_embd=96")
MUON = (*FAST, "optimizer.name=muon")
# Per recipe: the fields that differ from CONFIG, apart from the number of steps.
RECIPES = {
    "GPT-2's block": SHORT,
    "GPT-2's block, learning rate 8e-3": (*SHORT, "optimizer.learning_rate=8e-3"),
    "modern block": MODERN,
    "modern block, 8e-3": FAST,
    "modern block, 1.6e-2": (*MODERN, "optimizer.learning_rate=1.6e-2"),
    "modern block, 8e-3, batch 8": (*FAST, "train.batch_size=8"),
    "modern block, 8e-3, batch 24": (*FAST, "train.batch_size=24"),
    "modern block, 8e-3, 2 layers": (*FAST, "model.n_layer=2"),
    "modern block, 8e-3, 96 channels": (*FAST, "model.n_embd=96"),
    "modern block, 8e-3, 3 layers, 96 channels": (*FAST, "model.n_layer=3", "model.n_embd=96"),
    "modern block, 8e-3, 2 layers, 96 channels": SMALL,
    "modern block, 8e-3, 2 layers, 96 channels, batch 24": (*SMALL, "train.batch_size=24"),
    "modern block, 1.6e-2, 2 layers, 96 channels": (*SMALL, "optimizer.learning_rate=1.6e-2"),
    "modern block, 8e-3, 2 layers, 64 channels": (*FAST, "model.n_layer=2", "model.n_embd=64"),
    "modern block, 8e-3, 1 layer, 128 channels": (*FAST, "model.n_layer=1"),
    "modern block, 8e-3, Muon": MUON,
    "modern block, 8e-3, Muon, batch 24": (*MUON, "train.batch_size=24"),
}
FASTEST = "modern block, 8e-3, 2 layers, 64 channels"  # the one with the lowest loss


def command(fields: tuple[str, ...], data: Path, steps: int) -> list[str]:
    """Return the arguments of Python that train a recipe, with one evaluation at the end."""
    fields = (*fields, f"data.path={data}", f"train.steps={steps}", "train.num_samples=0")
    fields += (f"train.log_every={EVERY}", f"train.eval_every={steps}")
    return ["train.py", "--config", CONFIG, *(f"--config.{field}" for field in fields)]


def measure(fields: tuple[str, ...], data: Path, budget: float) -> dict[str, Any]:
    """Train a recipe for `budget` seconds. Return its number of steps, its speed and its loss."""
    trial = train(command(fields, data, 4 * EVERY))
    steps = EVERY * max(1, round(1e3 * budget / milliseconds(trial.lines) / EVERY))
    _, lines, summary = train(command(fields, data, steps))
    losses = {name: summary[name] for name in ("num_params", "steps", "train_loss", "dev_loss")}
    return losses | {"milliseconds": milliseconds(lines), "fields": fields}


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row per recipe, the lowest loss first."""
    header = ["recipe", "parameters", "ms per step", "steps", "train", "held out"]
    rows = [
        [
            *(recipe, f"{r['num_params']:,}", f"{r['milliseconds']:.1f}", f"{r['steps']:,}"),
            *(f"{r['train_loss']:.3f}", f"{r['dev_loss']:.3f}"),
        ]
        for recipe, r in sorted(results.items(), key=lambda item: item[1]["dev_loss"])
    ]
    return sides.as_table(header, rows)


def write_part(text: Path, folder: str) -> Path:
    """Write the train split of a text as a text of its own."""
    content = text.read_text("utf-8")
    part = Path(folder) / "text.txt"
    part.write_text(content[: int(TRAIN_FRACTION * len(content))], "utf-8")
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of training (15)")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    text = shakespeare_text("shakespeare_recipes")
    with tempfile.TemporaryDirectory() as folder:
        part = write_part(text, folder)
        results = sides.stored("recipes", RECIPES, args.out)
        for recipe in args.recipes:
            results[recipe] = measure(RECIPES[recipe], part, args.budget)
    sides.report("recipes", as_table(results), {"results": results}, args.out)
    best = min(results, key=lambda recipe: results[recipe]["dev_loss"])
    print(f"\nlowest loss: {best} (shakespeare_recipes.FASTEST is {FASTEST})")
    if args.out == OUT:
        sides.insert(sides.ROOT / "docs" / "shakespeare.md", "recipes", as_table(results))


if __name__ == "__main__":
    main()

"""Seconds and steps to a validation loss of 1.88: python -m benchmarks.shakespeare_time

1.88 is nanoGPT's published loss of its laptop settings on Tiny Shakespeare. Finds the number of
steps after which each recipe has this loss on the whole validation split, in multiples of 50. Then
trains for this number of steps, with one evaluation: with an empty compilation cache (first run)
and with the cache of that run (later runs). Writes docs/shakespeare/time.json and the table in
docs/shakespeare.md.

Needs the text, and an idle machine: python -m makemore_jax.download shakespeare
"""

import argparse
import bisect
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import shakespeare_recipes, sides
from benchmarks.accelerator_text import crops_loss
from benchmarks.configs import shakespeare_text
from benchmarks.shakespeare_recipes import CONFIG, EVERY, OUT
from benchmarks.whole_training import Training, milliseconds, train, trained
from makemore_jax import assemble

TARGET = 1.88
NUM_BATCHES = 200  # of random crops: nanoGPT's laptop settings have 20


class Recipe(NamedTuple):
    """Overrides of CONFIG, and the steps of the learning rate schedule.

    After the schedule, training continues with the final learning rate. None: the schedule is as
    long as the training, and the shortest training that reaches TARGET is searched. The search ends
    at `max_steps`.
    """

    fields: tuple[str, ...]
    decay_steps: int | None
    max_steps: int


RECIPES = {
    "nanoGPT's": Recipe(("optimizer.learning_rate=1e-3",), 2_000, 4_000),
    "with a learning rate of 4e-3": Recipe((), 2_000, 2_000),
    shakespeare_recipes.FASTEST: Recipe(
        shakespeare_recipes.RECIPES[shakespeare_recipes.FASTEST], None, 3_000
    ),
}


def command(recipe: Recipe, steps: int, eval_every: int) -> list[str]:
    """Return the arguments of Python that train `steps` steps of a recipe."""
    fields = (*recipe.fields, f"train.steps={steps}", f"train.eval_every={eval_every}")
    fields += (f"optimizer.decay_steps={recipe.decay_steps or steps}", "train.num_samples=0")
    fields += (f"train.log_every={EVERY}", f"train.checkpoint_every={steps}")
    return ["train.py", "--config", CONFIG, *(f"--config.{field}" for field in fields)]


def dev_losses(training: Training) -> dict[int, float]:
    """Return the dev losses of a training by step."""
    return {line["step"]: line["dev_loss"] for line in training.lines if "dev_loss" in line}


def steps_to_target(recipe: Recipe, path: str) -> int | None:
    """Return the first multiple of EVERY steps after which the dev loss is at most TARGET."""
    if recipe.decay_steps:
        losses = dev_losses(train([*command(recipe, recipe.max_steps, EVERY), path]))
        return min((step for step, loss in losses.items() if loss <= TARGET), default=None)

    def has_reached(steps: int) -> bool:
        return dev_losses(train([*command(recipe, steps, steps), path]))[steps] <= TARGET

    lengths = range(EVERY, recipe.max_steps + 1, EVERY)
    index = bisect.bisect_left(lengths, True, key=has_reached)
    return lengths[index] if index < len(lengths) else None


def measure(recipe: Recipe, data: Path) -> dict[str, Any]:
    """Return the steps at which a recipe reaches TARGET, its losses there, and the seconds."""
    path = f"--config.data.path={data}"
    steps = steps_to_target(recipe, path)
    if steps is None:
        return {"steps": None, "max_steps": recipe.max_steps}
    words = [*command(recipe, steps, steps), path]
    with tempfile.TemporaryDirectory() as cache:
        first = train(words, Path(cache)).seconds
        with trained(words, Path(cache)) as (folder, later):
            config = assemble.read_run(folder).config
            crops = crops_loss(Path(folder), config, NUM_BATCHES)
    return {
        "steps": steps,
        "seconds": {"first": first, "later": later.seconds},
        "milliseconds": milliseconds(later.lines),
        "dev_loss": dev_losses(later)[steps],
        "crops_loss": crops,
    }


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row per recipe."""
    header = ["recipe", "steps to 1.88", "s of training", "ms per step", "first run, s"]
    header += ["later runs, s", "dev loss", "dev loss, random crops"]
    rows = []
    for recipe, r in results.items():
        if r["steps"] is None:
            rows.append([recipe, f"not in {r['max_steps']:,}", *["-"] * 6])
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
    data = shakespeare_text("shakespeare_time")
    results = sides.stored("time", RECIPES, args.out)
    results |= {recipe: measure(RECIPES[recipe], data.absolute()) for recipe in args.recipes}
    results = {recipe: results[recipe] for recipe in RECIPES if recipe in results}
    sides.report("time", as_table(results), {"results": results}, args.out)
    if args.out == OUT:
        sides.insert(sides.ROOT / "docs" / "shakespeare.md", "time", as_table(results))


if __name__ == "__main__":
    main()

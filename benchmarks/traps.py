"""Three ways to a lower loss that is not comparable: python -m benchmarks.traps

Trains configs/transformer.py on makemore's list and split, as `python -m benchmarks.reproduce`
does. Computes its test loss with and without the first character of each line, and for the lines
that are in train and those that are not, and its train losses. Writes docs/benchmarks/traps.json
and traps.md, and docs/results.md, which shows them.

Needs makemore's list: python -m makemore_jax.download names
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from benchmarks import sides
from benchmarks.configs import makemore_list
from benchmarks.reproduce import MAKEMORE, write_page
from benchmarks.whole_training import trained
from makemore_jax import assemble
from makemore_jax.data import Split
from makemore_jax.decoding import LanguageModel
from makemore_jax.losses import token_losses


def line_losses(lm: LanguageModel, split: Split, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the token losses of the first `num` lines, and which tokens are targets. (N, T)"""
    inputs, targets, _ = split.take(np.arange(min(num, split.size)))
    losses = token_losses(lm.model.apply(lm.variables, inputs), targets)
    return np.asarray(losses, np.float64), np.asarray(targets) != -1


def measure(folder: str) -> dict[str, float]:
    """Return the losses of a finished run, and the share of its test lines that are in train."""
    run = assemble.read_run(folder)
    dataset = assemble.load_data(run.config.data, run.config.seed)
    known = set(dataset.words["train"])
    is_known = np.array([word in known for word in dataset.words["test"]])
    results = {"known_share": float(is_known.mean())}
    for checkpoint in ("best", "latest"):
        lm = assemble.load_language_model(folder, run, checkpoint)
        losses, is_target = line_losses(lm, dataset.splits["test"], len(is_known))
        sums, counts = losses.sum(1), is_target.sum(1)
        test = sums.sum() / counts.sum()
        train_losses, is_train_target = line_losses(lm, dataset.splits["train"], 5_000)
        named = {
            "test": test,
            "train": train_losses.sum() / is_train_target.sum(),
            "without_first": losses[:, 1:].sum() / is_target[:, 1:].sum(),
            "known": sums[is_known].sum() / counts[is_known].sum(),
            "unknown": sums[~is_known].sum() / counts[~is_known].sum(),
            # Of a ratio of two sums over randomly drawn lines (Cochran 1977, section 6.4).
            "standard_error": math.sqrt(((sums - test * counts) ** 2).sum()) / counts.sum(),
        }
        results |= {f"{checkpoint}_{name}": float(value) for name, value in named.items()}
    return results


def as_table(r: dict[str, float]) -> str:
    """Return a table with a row for each way to measure the loss."""
    ways = {
        "test": "test loss",
        "without_first": "test loss without the first character of each name",
        "known": f"test loss of the {r['known_share']:.1%} of test names that are in train too",
        "unknown": "test loss of the other test names",
        "train": "train loss (5,000 names)",
    }
    rows = [
        [text, *(f"{r[f'{checkpoint}_{way}']:.3f}" for checkpoint in ("best", "latest"))]
        for way, text in ways.items()
    ]
    steps = f"step {r['best_step']:,}, the best", f"step {r['steps']:,}"
    return sides.as_table(["configs/transformer.py, makemore's split", *steps], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the training (20,000)")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    path = makemore_list("traps")
    command = ["train.py", "--config", "configs/transformer.py", *MAKEMORE]
    command += [f"--config.data.path={path}", f"--config.train.steps={args.steps}"]
    with trained(command) as (folder, training):
        steps = {name: training.summary[name] for name in ("best_step", "steps")}
        results = steps | measure(folder)
    sides.report("traps", as_table(results), {"results": results}, args.out)
    if args.out == sides.OUT:
        write_page(json.loads((sides.ROOT / "docs" / "results.json").read_text("utf-8")))


if __name__ == "__main__":
    main()

"""Test losses of all nine models in PyTorch: python -m benchmarks.pytorch_losses

Trains the reference models of `makemore_jax.torch_parity` on makemore's list and split, with
makemore's loop: the same data, sizes and optimizer as `python -m benchmarks.reproduce`, and
PyTorch's initial values and random numbers. Writes docs/benchmarks/pytorch_losses.{json,md} and
docs/results.md, which shows the differences. With `--models` the results of the other models stay.

Needs makemore's list: python -m makemore_jax.download names
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("pytorch_losses", "torch")

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import reproduce, sides
from benchmarks.configs import config_of, makemore_list
from benchmarks.torch_run import mean_loss, read
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.step import make_torch_step

NUM_TEST, STEPS = 1_000, 20_000


def train(kind: str, path: Path, steps: int) -> dict[str, float]:
    """Train the reference model of configs/KIND.py. Return its test loss after every 1,000 steps.

    The seed and the split are makemore's. Batches are drawn with replacement, as in makemore.
    """
    config = config_of(kind)
    torch.manual_seed(config.seed)
    chars, inputs, targets = read(path)
    order = torch.randperm(len(inputs))
    rest, test = order[:-NUM_TEST], order[-NUM_TEST:]
    module = weights.reference(config, len(chars) + 1, inputs.shape[1])
    step = make_torch_step(module, config.optimizer, steps)
    losses = {}
    for i in range(1, steps + 1):
        batch = rest[torch.randint(len(rest), (config.train.batch_size,))]
        step(inputs[batch], targets[batch])
        if i % 1_000 == 0 or i == steps:
            losses[str(i)] = mean_loss(module, inputs[test], targets[test])
            print(f"{kind}, step {i}: test loss {losses[str(i)]:.4f}", file=sys.stderr)
    return losses


def as_table(results: dict[str, Any]) -> str:
    """Return a table of the test losses after reproduce.COLUMNS steps."""
    rows = [
        [kind, *(f"{losses[str(step)]:.3f}" for step in reproduce.COLUMNS)]
        for kind, losses in results.items()
    ]
    return sides.as_table(["model", *(f"@{step:,}" for step in reproduce.COLUMNS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=reproduce.MODELS, default=list(reproduce.MODELS)
    )
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    path = makemore_list("pytorch_losses")
    torch.set_num_threads(args.threads)
    results = sides.stored("pytorch_losses", reproduce.MODELS, args.out)
    for kind in args.models:
        results[kind] = train(kind, path, STEPS)
        results = {name: results[name] for name in reproduce.MODELS if name in results}
        stored = {"steps": STEPS, "results": results}
        sides.report("pytorch_losses", as_table(results), stored, args.out)
    if args.out == sides.OUT:
        results_file = sides.ROOT / "docs" / "results.json"
        reproduce.write_page(json.loads(results_file.read_text("utf-8")))


if __name__ == "__main__":
    main()

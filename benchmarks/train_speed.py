"""Milliseconds per training step, compared with PyTorch: python -m benchmarks.train_speed

Both sides train each model with its config, its batch size and the same data. JAX: the compiled
call of train.py, which draws the batches. PyTorch: the reference models with batches in memory, in
every variant of `torch_side`. Each side has its own process. The variants alternate in each round,
and results are medians over the rounds. The first ratio is relative to the fastest of eager, fused
and compiled, the second to the fastest of all variants. `--models shakespeare_cpu` is nanoGPT's
small model on Tiny Shakespeare. The mean excludes it.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("train_speed", "torch")

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import jax_side, sides, torch_side
from benchmarks.configs import config_of
from makemore_jax.assemble import load_data

MODELS = (*sides.KINDS, "shakespeare_cpu")


def measure(kind: str, rounds: int, min_seconds: float, threads: int) -> dict[str, Any]:
    """Return the milliseconds per step of every variant, for one model."""
    config = config_of(kind)
    dataset = load_data(config.data, config.seed)
    batches = jax_side.draw_batches(config, dataset, 100)
    ours = sides.Side(jax_side.make_trainer, kind)
    theirs = sides.Side(
        torch_side.make_trainer, kind, dataset.vocab.size, dataset.block_size, batches, threads
    )
    ours(1)  # compiles
    calls = sides.calls_in(min_seconds, config.train.log_every * ours(1))
    runs = {"makemore_jax": lambda: ours(calls)}
    for variant in torch_side.variants():
        theirs(variant, 10)  # compiles
        steps = sides.calls_in(min_seconds, theirs(variant, 20) / 20, at_least=10)
        runs[variant] = lambda variant=variant, steps=steps: theirs(variant, steps) / steps
    seconds = sides.alternate(runs, rounds)
    ours.close()
    theirs.close()
    milliseconds = {variant: 1e3 * value for variant, value in seconds.items()}
    fastest = min(milliseconds[variant] for variant in torch_side.variants())
    return {"milliseconds": milliseconds, "ratio": fastest / milliseconds["makemore_jax"]}


def as_table(results: dict[str, dict]) -> str:
    """Return the table of all models, with the geometric mean of the eight families' ratios.

    The first ratio is relative to the fastest of the usual variants, the second to the fastest of
    all variants.
    """
    variants = list(next(iter(results.values()))["milliseconds"])
    rows, logs = [], []
    for kind, result in results.items():
        times = result["milliseconds"]
        usual = min(times[variant] for variant in torch_side.USUAL) / times["makemore_jax"]
        ratios = usual, result["ratio"]
        if kind in sides.KINDS:
            logs.append(np.log(ratios))
        cells = [f"{times[variant]:.3f}" for variant in variants]
        rows.append([kind, *cells, *(f"{ratio:.2f}" for ratio in ratios)])
    if logs:
        means = np.exp(np.mean(logs, axis=0))
        rows.append(["geometric mean", *[""] * len(variants), *(f"{mean:.2f}" for mean in means)])
    ratios = ["ratio to eager, fused, compiled", "ratio to all"]
    return sides.as_table(["ms per step", *variants, *ratios], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(sides.KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per variant and round")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    threads = sides.machine()["cores"]
    results = {}
    for kind in args.models:
        results[kind] = measure(kind, args.rounds, args.seconds, threads)
        print(as_table({kind: results[kind]}).splitlines()[2], flush=True)
    print()
    sides.report(
        "train_speed", as_table(results), {"threads": threads, "results": results}, args.out
    )


if __name__ == "__main__":
    main()

"""Milliseconds per training step, beside PyTorch: python -m benchmarks.train_speed

Each model at its config and batch size, on the same data. Here: the compiled call that train.py
makes, batches drawn inside it. PyTorch: the reference models with batches ready in memory, in
every way of `torch_side`. Each side in a process of its own; in every round each way has its turn;
medians over the rounds; ratios are to the fastest of PyTorch's ways. `--models shakespeare_cpu`
is nanoGPT's small model on Tiny Shakespeare, which does not count in the mean.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import jax_side, sides, torch_side
from benchmarks.configs import config_of
from makemore_jax.assemble import load_data

MODELS = (*sides.KINDS, "shakespeare_cpu")


def measure(kind: str, rounds: int, seconds: float, threads: int) -> dict[str, Any]:
    """The milliseconds a step of every way, for one model."""
    config = config_of(kind)
    dataset = load_data(config.data, config.seed)
    batches = jax_side.draw_batches(config, dataset, 100)
    ours = sides.Side(jax_side.make_trainer, kind)
    theirs = sides.Side(
        torch_side.make_trainer, kind, dataset.vocab.size, dataset.block_size, batches, threads
    )
    ours(1)  # compiles
    calls = sides.calls_in(seconds, config.train.log_every * ours(1))
    ways = {"makemore_jax": lambda: ours(calls)}
    for way in torch_side.ways():
        theirs(way, 10)  # compiles
        steps = sides.calls_in(seconds, theirs(way, 20) / 20, least=10)
        ways[way] = lambda way=way, steps=steps: theirs(way, steps) / steps
    found = sides.alternate(ways, rounds)
    ours.close()
    theirs.close()
    milliseconds = {way: 1e3 * value for way, value in found.items()}
    fastest = min(milliseconds[way] for way in torch_side.ways())
    return {"milliseconds": milliseconds, "ratio": fastest / milliseconds["makemore_jax"]}


def as_table(results: dict[str, dict]) -> str:
    """The table of all models, with the geometric means of the ratios of the eight families.

    The first ratio is to the fastest of the ways that PyTorch's users know best, the second to the
    fastest of all.
    """
    ways = list(next(iter(results.values()))["milliseconds"])
    rows, logs = [], []
    for kind, found in results.items():
        times = found["milliseconds"]
        usual = min(times[way] for way in torch_side.USUAL) / times["makemore_jax"]
        ratios = usual, found["ratio"]
        if kind in sides.KINDS:
            logs.append(np.log(ratios))
        shown = [f"{times[way]:.3f}" for way in ways]
        rows.append([kind, *shown, *(f"{ratio:.2f}" for ratio in ratios)])
    if logs:
        means = np.exp(np.mean(logs, axis=0))
        rows.append(["geometric mean", *[""] * len(ways), *(f"{mean:.2f}" for mean in means)])
    ratios = ["ratio to eager, fused, compiled", "ratio to all"]
    return sides.as_table(["ms a step", *ways, *ratios], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(sides.KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one way in one round")
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

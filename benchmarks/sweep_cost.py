"""Cost of a sweep, compared with single runs: python -m benchmarks.sweep_cost

Runs `sweep.sweep` with 1, 4, 16 and 64 learning rates on one device, including compilation, and
compares the time with the same number of sweeps over a single learning rate. Then compares 200 or
more further steps with the same number of steps of train.py on that device.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import sides
from benchmarks.configs import config_of
from benchmarks.jax_side import Trainer
from makemore_jax import sweep


def seconds(kind: str, members: int, steps: int) -> float:
    """Return the seconds of a sweep over `members` learning rates, including compilation."""
    config = config_of(kind)
    config.train.steps = config.train.eval_every = steps
    rates = np.geomspace(1e-4, 1e-2, members).tolist()
    jax.clear_caches()
    began = time.perf_counter()
    results = sweep.sweep(config, {"optimizer.learning_rate": rates}, num_seeds=1)
    assert len({result.dev_loss for result in results}) == members
    return time.perf_counter() - began


def measure(kind: str, nums: list[int], steps: int) -> dict[str, dict[str, float]]:
    """Return the seconds of a sweep of `steps` + 200 steps, and the milliseconds per step."""
    trainer = Trainer(config_of(kind))
    trainer(100)  # compiles
    alone = 1e3 * trainer(100, calls=5)
    results = {}
    for num in nums:
        more = max(200, 3_200 // num)  # enough to outweigh the variation of compilation
        short, usual, long = (seconds(kind, num, steps + n) for n in (0, 200, more))
        per_step = 1e3 * (long - short) / more
        results[str(num)] = {"seconds": usual, "milliseconds": per_step, "alone": alone}
    return results


def as_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a table of seconds and step times, also relative to the same number of single runs."""
    header = [
        "model",
        "runs",
        "seconds",
        "relative to single runs",
        "ms per step",
        "relative to train.py",
    ]
    rows = []
    for kind, by_num in results.items():
        one = by_num["1"]
        for num, cost in by_num.items():
            row = [kind, num]
            row += [
                f"{cost['seconds']:.1f}",
                f"{cost['seconds'] / (int(num) * one['seconds']):.2f}",
            ]
            per_step = cost["milliseconds"]
            row += [f"{per_step:.2f}", f"{per_step / (int(num) * cost['alone']):.2f}"]
            rows.append(row)
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sides.KINDS, default=["mlp", "gru"])
    parser.add_argument("--nums", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    nums = sorted({1, *args.nums})  # the table compares with one run
    results = {kind: measure(kind, nums, args.steps) for kind in args.models}
    sides.report("sweep_cost", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

"""What runs trained together cost beside runs one by one: python -m benchmarks.sweep_cost

`sweep.sweep` of one config with 1, 4, 16 and 64 learning rates on one device, compiling included,
beside as many times the run of one; and what 200 more steps take, beside as many steps of one model
as train.py takes them on that device.
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
    """Of a sweep over so many learning rates, programs compiled anew."""
    config = config_of(kind)
    config.train.steps = config.train.eval_every = steps
    rates = np.geomspace(1e-4, 1e-2, members).tolist()
    jax.clear_caches()
    began = time.perf_counter()
    results = sweep.sweep(config, {"optimizer.learning_rate": rates}, num_seeds=1)
    assert len({result.dev_loss for result in results}) == members
    return time.perf_counter() - began


def measure(kind: str, nums: list[int], steps: int) -> dict[str, dict[str, float]]:
    """Seconds of a whole sweep of `steps` steps, and milliseconds of each further step."""
    trainer = Trainer(config_of(kind))
    trainer(100)  # compiles
    alone = 1e3 * trainer(100, calls=5)
    found = {}
    for num in nums:
        short, long = (seconds(kind, num, n) for n in (steps, steps + 200))
        each = 1e3 * (long - short) / 200
        found[str(num)] = {"seconds": long, "milliseconds": each, "alone": alone}
    return found


def as_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Each size beside as many times one."""
    header = [
        "model",
        "runs",
        "seconds",
        "of as many of one",
        "ms a step",
        "of as many by train.py",
    ]
    rows = []
    for kind, found in results.items():
        one = found["1"]
        for num, cost in found.items():
            row = [kind, num]
            row += [
                f"{cost['seconds']:.1f}",
                f"{cost['seconds'] / (int(num) * one['seconds']):.2f}",
            ]
            each = cost["milliseconds"]
            row += [f"{each:.2f}", f"{each / (int(num) * cost['alone']):.2f}"]
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
    results = {kind: measure(kind, args.nums, args.steps) for kind in args.models}
    sides.report("sweep_cost", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

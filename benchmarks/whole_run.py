"""Whole runs as a user has them, beside plain PyTorch: python -m benchmarks.whole_run

Wall time and peak memory of `train.py` for 5,000 steps with its evaluations, samples and
checkpoints, start-up and compiling included: with an empty compilation cache (cold) and with that
of the run before (warm). Beside it `benchmarks.torch_run`, which does the same in plain PyTorch.
Then `sample.py --num 20`, the first and the second time, beside makemore's sampling.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import sides


def timed(command: list[str], cache: Path) -> dict[str, float]:
    """Seconds and MiB of a command, all its processes together; it must succeed."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not hasattr(os, "wait4"):
        sys.exit("whole_run: needs os.wait4 for the peak memory, which Windows does not have")
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=sides.ROOT, env=env, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"whole_run: {' '.join(command)} ended with {process.returncode}")
    return {"seconds": seconds, "mebibytes": usage.ru_maxrss / 2**10}


WAYS = (
    *("cold", "warm", "PyTorch"),
    *("sample, first time", "sample, second time", "sample, PyTorch"),
)


def measure(kind: str, steps: int, rounds: int, ways: list[str]) -> dict[str, dict[str, float]]:
    """The medians of the ways, which are in the order of WAYS, over the rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            train = ["train.py", "--config", f"configs/{kind}.py", f"--config.train.steps={steps}"]
            torch = ["-m", "benchmarks.torch_run", folder, "--model", kind, "--steps", str(steps)]
            sample = ["sample.py", "--num", "20", "--workdir", str(at / "cold")]
            torch_sample = ["-m", "benchmarks.torch_run", folder, "--sample", "20"]
            commands = {
                "cold": [*train, "--workdir", str(at / "cold")],
                "warm": [*train, "--workdir", str(at / "warm")],
                "PyTorch": torch,
                "sample, first time": sample,
                "sample, second time": sample,
                "sample, PyTorch": torch_sample,
            }
            for way in ways:
                # What training kept of its own sampling is of no use to sample.py's first time.
                cache = at / ("cache of sample" if "sample" in way else "cache")
                found.setdefault(way, []).append(timed(commands[way], cache))
    return {
        way: {unit: statistics.median(run[unit] for run in runs) for unit in runs[0]}
        for way, runs in found.items()
    }


def as_table(results: dict[str, Any]) -> str:
    """Seconds, memory, and how many times as fast as PyTorch."""
    rows = []
    for kind, found in results.items():
        for way, run in found.items():
            peer = found["sample, PyTorch" if "sample" in way else "PyTorch"]
            ratio = f"{peer['seconds'] / run['seconds']:.2f}"
            row = [kind, way, f"{run['seconds']:.2f}", f"{run['mebibytes']:.0f}", ratio]
            rows.append(row)
    return sides.as_table(["model", "run", "seconds", "peak MiB", "times as fast"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=sides.KINDS, default=["transformer", "bigram"]
    )
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="in this order")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    results = {kind: measure(kind, args.steps, args.rounds, args.ways) for kind in args.models}
    sides.report(
        "whole_run", as_table(results), {"steps": args.steps, "results": results}, args.out
    )


if __name__ == "__main__":
    main()

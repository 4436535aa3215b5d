"""Time and memory of whole runs, compared with plain PyTorch: python -m benchmarks.whole_run

Measures `train.py` for 5,000 steps, including start-up, compilation, evaluations, samples and
checkpoints: with an empty compilation cache (cold) and with the cache of that run (warm).
`benchmarks.torch_run` does the same in plain PyTorch. Then measures `sample.py --num 20`, the first
and the second time, and compares it with makemore's sampling.
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
    """Run a command. Return its seconds and its peak memory in MiB, with its child processes."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not hasattr(os, "wait4"):
        sys.exit("whole_run: needs os.wait4 to measure peak memory; Windows has no such function")
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
    """Return the medians over the rounds for some of WAYS, in the same order."""
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            train = ["train.py", "--config", f"configs/{kind}.py", f"--config.train.steps={steps}"]
            torch = ["-m", "benchmarks.torch_run", folder, "--model", kind, "--steps", str(steps)]
            sample = ["sample.py", "--num", "20", "--workdir", str(root / "cold")]
            torch_sample = ["-m", "benchmarks.torch_run", folder, "--sample", "20"]
            commands = {
                "cold": [*train, "--workdir", str(root / "cold")],
                "warm": [*train, "--workdir", str(root / "warm")],
                "PyTorch": torch,
                "sample, first time": sample,
                "sample, second time": sample,
                "sample, PyTorch": torch_sample,
            }
            for way in ways:
                # sample.py has its own cache, so that its first run does not profit from training.
                cache = root / ("cache of sample" if "sample" in way else "cache")
                runs.setdefault(way, []).append(timed(commands[way], cache))
    return {
        way: {unit: statistics.median(run[unit] for run in way_runs) for unit in way_runs[0]}
        for way, way_runs in runs.items()
    }


def as_table(results: dict[str, Any]) -> str:
    """Return a table of seconds, memory, and speed relative to PyTorch."""
    rows = []
    for kind, by_way in results.items():
        for way, run in by_way.items():
            peer = by_way["sample, PyTorch" if "sample" in way else "PyTorch"]
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

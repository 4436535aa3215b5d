"""Train on a text of gigabytes, compared with a small text: python -m benchmarks.large_text

Runs train.py with configs/shakespeare_cpu.py on a large text, read from its token file, and on the
beginning of the same text, held in memory. The text repeats Tiny Shakespeare with its speeches in
random order. The two runs alternate, each in new folders, with a warm compilation cache.

Start time is the time until the run reports its first step: imports, hash, vocabulary and initial
state. The first start also writes the token file. Steps per second are measured between two
evaluations and include one of them. CPU ms per step count all cores, from the first step to the
end of the process. The results are the best of all rounds, and the highest peak memory. Exits
with 1 if the large text needs a gigabyte of memory or more, or runs at less than 0.9 of the speed.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import sides
from benchmarks.configs import shakespeare_text
from makemore_jax.text.dataset import TOKEN_FILE_MIN_BYTES

SMALL_CHARS = 10**7  # size of the text in memory
MAX_MEBIBYTES = 10**9 / 2**20
MIN_SPEED = 0.9


def write_text(file: Path, source: Path, num: int) -> None:
    """Write `num` characters: the speeches of `source`, shuffled again for each repetition."""
    rng = random.Random(0)
    speeches = source.read_text("ascii").split("\n\n")
    with file.open("w", encoding="ascii") as out:
        while num > 0:
            rng.shuffle(speeches)
            num -= out.write(("\n\n".join(speeches) + "\n\n")[:num])


def command(text: Path, memory_map: str, steps: int) -> list[str]:
    """Return the arguments of Python that train on a text, without the working directory."""
    fields = {
        "data.path": text,
        "data.memory_map": memory_map,
        "train.steps": steps,
        "train.log_every": max(1, steps // 8),
        "train.eval_every": max(1, steps // 4),
        "train.eval_examples": 200,
        "train.train_eval_examples": 200,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["train.py", "--config", "configs/shakespeare_cpu.py", *overrides]


def timed(command: list[str], workdir: Path, cache: Path) -> dict[str, float]:
    """Run a command to its end. Return its start time, its CPU time after that, and its memory."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not (hasattr(os, "wait4") and hasattr(os, "sysconf") and Path("/proc/self/stat").exists()):
        sys.exit("large_text: needs Linux, since it reads CPU times from /proc")
    arguments, result = [sys.executable, *command, "--workdir", str(workdir)], {}
    began = time.perf_counter()
    process = subprocess.Popen(
        arguments, cwd=sides.ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8"
    )
    for line in process.stdout:
        if not result and line.startswith(f"{workdir}: "):
            result = {"start": time.perf_counter() - began, "cpu_seconds": cpu_seconds(process.pid)}
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"large_text: {' '.join(command)} ended with {process.returncode}")
    result["cpu_seconds"] = usage.ru_utime + usage.ru_stime - result["cpu_seconds"]
    return result | {"mebibytes": usage.ru_maxrss / 2**10}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, over all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(command: list[str], folder: Path, steps: int) -> dict[str, float]:
    """Measure one run in a new folder, then the start of the same command on the finished run."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        first, later = (timed(command, Path(workdir), folder / "cache") for _ in range(2))
        lines = (Path(workdir) / "metrics.jsonl").read_text("utf-8").splitlines()
    return {
        "first_start": first["start"],
        "later_start": later["start"],
        "steps_per_second": speed([json.loads(line) for line in lines]),
        "cpu_milliseconds": 1e3 * first["cpu_seconds"] / steps,
        "mebibytes": first["mebibytes"],
    }


def speed(lines: list[dict[str, float]]) -> float:
    """Return the highest rate of steps per second between two evaluations."""
    seconds = {line["step"]: line["seconds"] for line in lines if "seconds" in line}
    steps = [line["step"] for line in lines if "dev_loss" in line]
    return max((b - a) / (seconds[b] - seconds[a]) for a, b in itertools.pairwise(steps))


def best(name: str, values: list[float]) -> float:
    """Return the best speed or time, the one least disturbed by other programs, or peak memory."""
    return max(values) if name in ("steps_per_second", "mebibytes") else min(values)


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return a table of start times, absolute and relative speed, and memory."""
    header = ["text", "GB", "first start, s", "later start, s", "steps per second", "relative"]
    rows = []
    for way, run in results.items():
        row = [way, f"{run['gigabytes']:.2f}"]
        row += [f"{run['first_start']:.1f}", f"{run['later_start']:.1f}"]
        row += [f"{run['steps_per_second']:.1f}", f"{run['relative']:.2f}"]
        rows.append([*row, f"{run['cpu_milliseconds']:.1f}", f"{run['mebibytes']:.0f}"])
    return sides.as_table([*header, "CPU ms per step", "peak MiB"], rows)


def exceeded_limits(run: dict[str, float]) -> list[str]:
    """Return the limits that the large text exceeds."""
    exceeded = []
    if run["mebibytes"] >= MAX_MEBIBYTES:
        exceeded.append(f"{run['mebibytes']:.0f} MiB of memory (limit {MAX_MEBIBYTES:.0f})")
    if run["relative"] < MIN_SPEED:
        exceeded.append(f"{run['relative']:.2f} of the speed (limit {MIN_SPEED})")
    return exceeded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder for the texts (default: TMPDIR)")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    source = shakespeare_text("large_text")
    num = round(args.gigabytes * 10**9)
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        folder = Path(made).absolute()
        large, small = folder / "large.txt", folder / "small.txt"
        write_text(large, source, num)
        write_text(small, source, min(num, SMALL_CHARS))
        ways = {
            "in a file": command(
                large, "auto" if num >= TOKEN_FILE_MIN_BYTES else "always", args.steps
            ),
            "in memory": command(small, "never", args.steps),
        }
        for way in ways.values():
            measure(way, folder, args.steps)  # compiles
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, arguments in ways.items():
                runs[way].append(measure(arguments, folder, args.steps))
        sizes = {"in a file": num, "in memory": small.stat().st_size}
    results = {
        way: {name: best(name, [run[name] for run in way_runs]) for name in way_runs[0]}
        for way, way_runs in runs.items()
    }
    for way, run in results.items():
        run["gigabytes"] = sizes[way] / 10**9
        run["relative"] = run["steps_per_second"] / results["in memory"]["steps_per_second"]
    content = {"steps": args.steps, "rounds": args.rounds, "results": results, "runs": runs}
    sides.report("large_text", as_table(results), content, args.out)
    if exceeded := exceeded_limits(results["in a file"]):
        sys.exit("large_text: the text in a file has " + "; ".join(exceeded))


if __name__ == "__main__":
    main()

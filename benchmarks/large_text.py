"""A text that is larger than is wise to hold, beside a small one: python -m benchmarks.large_text

The GPT of configs/shakespeare_cpu.py, trained by train.py, as a user runs it, on a text of so many
gigabytes, which it reads from its file of tokens, and on the beginning of the same text, which it
holds in memory. The text is Tiny Shakespeare again and again, its speeches in another order each
time. Taking turns, each way is run in new folders, with a filled compilation cache.

A start is all until the run says where it begins: imports, hash, vocabulary and the first state;
the first start makes the file of tokens as well. Steps a second are those between two evaluations,
the latter included; CPU ms a step are those of all cores from the start to the end of the process.
Memory is the most that the process held at any time. Of all rounds the best counts, and of memory
the most. Exits with 1 where the large text takes a gigabyte of it, or gives less than 0.9 of the
steps a second.
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
from makemore_jax.download import locate
from makemore_jax.text.dataset import TOKEN_FILE_MIN_BYTES

SMALL = 10**7  # characters of the text in memory
MOST_MEBIBYTES = 10**9 / 2**20
LEAST_SPEED = 0.9


def write_text(file: Path, source: Path, num: int) -> None:
    """So many characters: the speeches of `source`, in another order each time."""
    rng = random.Random(0)
    speeches = source.read_text("ascii").split("\n\n")
    with file.open("w", encoding="ascii") as out:
        while num > 0:
            rng.shuffle(speeches)
            num -= out.write(("\n\n".join(speeches) + "\n\n")[:num])


def command(text: Path, memory_map: str, steps: int) -> list[str]:
    """What a user types, but for the folder of the run."""
    given = {
        "data.path": text,
        "data.memory_map": memory_map,
        "train.steps": steps,
        "train.log_every": max(1, steps // 8),
        "train.eval_every": max(1, steps // 4),
        "train.eval_examples": 200,
        "train.train_eval_examples": 200,
    }
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    return ["train.py", "--config", "configs/shakespeare_cpu.py", *overrides]


def timed(command: list[str], workdir: Path, cache: Path) -> dict[str, float]:
    """What a run that must succeed takes until it begins, or tells that it has ended, and then."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not (hasattr(os, "wait4") and hasattr(os, "sysconf") and Path("/proc/self/stat").exists()):
        sys.exit("large_text: needs Linux, which tells the CPU time of a process in /proc")
    given, found = [sys.executable, *command, "--workdir", str(workdir)], {}
    began = time.perf_counter()
    process = subprocess.Popen(
        given, cwd=sides.ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8"
    )
    for line in process.stdout:
        if not found and line.startswith(f"{workdir}: "):
            found = {"start": time.perf_counter() - began, "cpu_seconds": cpu_seconds(process.pid)}
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"large_text: {' '.join(command)} ended with {process.returncode}")
    found["cpu_seconds"] = usage.ru_utime + usage.ru_stime - found["cpu_seconds"]
    return found | {"mebibytes": usage.ru_maxrss / 2**10}


def cpu_seconds(pid: int) -> float:
    """What all cores together have spent on a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(command: list[str], folder: Path, steps: int) -> dict[str, float]:
    """One run in a folder of its own, and the same command once more, when all is done."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        first, again = (timed(command, Path(workdir), folder / "cache") for _ in range(2))
        lines = (Path(workdir) / "metrics.jsonl").read_text("utf-8").splitlines()
    return {
        "first_start": first["start"],
        "later_start": again["start"],
        "steps_per_second": speed([json.loads(line) for line in lines]),
        "cpu_milliseconds": 1e3 * first["cpu_seconds"] / steps,
        "mebibytes": first["mebibytes"],
    }


def speed(lines: list[dict[str, float]]) -> float:
    """Steps a second from one evaluation, before which all steps are waited for, to the next."""
    seconds = {line["step"]: line["seconds"] for line in lines if "seconds" in line}
    at = [line["step"] for line in lines if "dev_loss" in line]
    return max((b - a) / (seconds[b] - seconds[a]) for a, b in itertools.pairwise(at))


def best(name: str, found: list[float]) -> float:
    """Other programs on the machine take time, and never give any."""
    return max(found) if name in ("steps_per_second", "mebibytes") else min(found)


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Starts, speed, the speed relative to the text in memory, and memory."""
    header = ["text", "GB", "first start, s", "later start, s", "steps a second", "relative"]
    rows = []
    for way, run in results.items():
        row = [way, f"{run['gigabytes']:.2f}"]
        row += [f"{run['first_start']:.1f}", f"{run['later_start']:.1f}"]
        row += [f"{run['steps_per_second']:.1f}", f"{run['relative']:.2f}"]
        rows.append([*row, f"{run['cpu_milliseconds']:.1f}", f"{run['mebibytes']:.0f}"])
    return sides.as_table([*header, "CPU ms a step", "peak MiB"], rows)


def too_much(run: dict[str, float]) -> list[str]:
    """What the large text was not to take."""
    found = []
    if run["mebibytes"] >= MOST_MEBIBYTES:
        found.append(f"{run['mebibytes']:.0f} MiB of memory, {MOST_MEBIBYTES:.0f} at most")
    if run["relative"] < LEAST_SPEED:
        found.append(f"{run['relative']:.2f} of the steps a second, {LEAST_SPEED} at least")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for twice the text; else where TMPDIR says")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    source = locate("shakespeare", sides.ROOT / "data")
    if source is None:
        sys.exit("large_text: needs python -m makemore_jax.download shakespeare")
    num = round(args.gigabytes * 10**9)
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        folder = Path(made).absolute()
        large, small = folder / "large.txt", folder / "small.txt"
        write_text(large, source, num)
        write_text(small, source, min(num, SMALL))
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
            for way, given in ways.items():
                runs[way].append(measure(given, folder, args.steps))
        sizes = {"in a file": num, "in memory": small.stat().st_size}
    results = {
        way: {name: best(name, [run[name] for run in found]) for name in found[0]}
        for way, found in runs.items()
    }
    for way, run in results.items():
        run["gigabytes"] = sizes[way] / 10**9
        run["relative"] = run["steps_per_second"] / results["in memory"]["steps_per_second"]
    content = {"steps": args.steps, "rounds": args.rounds, "results": results, "runs": runs}
    sides.report("large_text", as_table(results), content, args.out)
    if found := too_much(results["in a file"]):
        sys.exit("large_text: the text in a file takes " + "; ".join(found))


if __name__ == "__main__":
    main()

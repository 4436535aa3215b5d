"""A long training that saves every few seconds: python -m benchmarks.soak --minutes 120

Trains the transformer and reads the memory, the open files, the threads and the size of the working
directory from outside, with the commands of a user. The table has the highest value in each fifth
of the time, and the growth: the slope of a line through all values after the first fifth, in which
caches fill. Linux only.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides

CHECKPOINT_EVERY = 200  # steps; one to two seconds on two cores
NUM_READINGS = 300
NUM_PARTS = 5  # of the time, each one a row of the table
COLUMNS = {  # name -> format
    "memory, MiB": "{:.0f}",
    "open files": "{:.0f}",
    "threads": "{:.0f}",
    "checkpoints, MiB": "{:.1f}",
    "logs, MiB": "{:.2f}",
}


def read(pid: int, folder: Path) -> dict[str, float]:
    """Return the values of COLUMNS of a process and its working directory."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in status)
    sizes = {"checkpoints": 0, "logs": 0}
    for path, _, names in os.walk(folder):  # it skips folders that vanish
        part = "checkpoints" if "checkpoints" in Path(path).parts else "logs"
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # training replaces checkpoints meanwhile
                sizes[part] += os.stat(os.path.join(path, name)).st_size
    values = [
        int(fields["VmRSS"].split()[0]) / 2**10,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(fields["Threads"]),
        sizes["checkpoints"] / 2**20,
        sizes["logs"] / 2**20,
    ]
    return dict(zip(COLUMNS, values, strict=True))


def soak(seconds: float, folder: Path) -> tuple[list[dict[str, float]], int]:
    """Train for some time. Return the readings, each with its time, and the number of saves."""
    command = (
        *("train.py", "--config", "transformer", "--config.train.steps=1000000000"),
        *(f"--config.train.{name}_every={CHECKPOINT_EVERY}" for name in ("eval", "checkpoint")),
        *("--config.train.sample_every=2000", "--workdir", str(folder)),
    )
    readings = []
    with subprocess.Popen(
        [sys.executable, *command], cwd=sides.ROOT, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while not (folder / "checkpoints" / str(2 * CHECKPOINT_EVERY)).exists():
                time.sleep(0.1)
                if process.poll() is not None:
                    raise SystemExit("the training ended early")
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds:
                readings.append({"minutes": passed / 60, **read(process.pid, folder)})
                time.sleep(seconds / NUM_READINGS)
        finally:
            process.send_signal(signal.SIGTERM)  # after an error, too: the training has no end
        if process.wait() != 128 + signal.SIGTERM:
            raise SystemExit(f"the training ended with exit code {process.returncode}")
    last_line = (folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1]
    last_step = int(last_line.split('"step": ')[1].split(",")[0])
    return readings, last_step // CHECKPOINT_EVERY


def as_table(readings: list[dict[str, float]]) -> str:
    """Return the highest values in each part of the time, and their growth."""
    parts = np.array_split(np.arange(len(readings)), NUM_PARTS)
    rows = []
    for part in parts:
        row = [f"{readings[part[0]]['minutes']:.0f} to {readings[part[-1]]['minutes']:.0f}"]
        highest = {name: max(readings[i][name] for i in part) for name in COLUMNS}
        rows.append(row + [form.format(highest[name]) for name, form in COLUMNS.items()])
    settled = readings[parts[0][-1] :]
    hours = [reading["minutes"] / 60 for reading in settled]
    slopes = [np.polyfit(hours, [reading[name] for reading in settled], 1)[0] for name in COLUMNS]
    rows.append(["growth per hour", *(f"{slope:+.2f}" for slope in slopes)])
    return sides.as_table(["minutes", *COLUMNS], rows)


def draw(readings: list[dict[str, float]], file: Path) -> None:
    """Draw one curve for each column."""
    from makemore_jax.plots.style import plt, save  # matplotlib, which is slow to import

    figure, axes = plt.subplots(1, len(COLUMNS), figsize=(14, 2.8), layout="constrained")
    minutes = [reading["minutes"] for reading in readings]
    for ax, name in zip(axes, COLUMNS, strict=True):
        ax.plot(minutes, [reading[name] for reading in readings], linewidth=1)
        ax.set_ylim(bottom=0)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("minutes")
        ax.grid(color="0.92")
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readings, num_saves = soak(60 * args.minutes, Path(folder) / "run")
    rounded: list[dict[str, Any]] = [
        {name: round(value, 3) for name, value in reading.items()}
        for reading in readings[::NUM_PARTS]  # the picture has all
    ]
    results = {"minutes": args.minutes, "saves": num_saves, "readings": rounded}
    sides.report("soak", as_table(readings), results, args.out)
    draw(readings, args.out / "soak.png")


if __name__ == "__main__":
    main()

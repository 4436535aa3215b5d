"""Run train.py as a user does, and read its results."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Training(NamedTuple):
    """The results of a run."""

    seconds: float  # of the whole command
    lines: list[dict[str, Any]]  # of metrics.jsonl
    summary: dict[str, Any]


@contextlib.contextmanager
def trained(command: list[str], cache: Path | None = None) -> Iterator[tuple[str, Training]]:
    """Run `train.py ...` in a temporary folder. Yield the folder and the results.

    `cache` replaces the user's cache folder, which contains compiled programs. CalledProcessError
    if the command fails.
    """
    env = dict(os.environ)
    if cache is not None:
        env |= {"XDG_CACHE_HOME": str(cache)}
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        arguments = [sys.executable, *command, "--workdir", folder]
        subprocess.run(arguments, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        written = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
        summary = json.loads((Path(folder) / "summary.json").read_text("utf-8"))
        yield folder, Training(seconds, [json.loads(line) for line in written], summary)


def train(command: list[str], cache: Path | None = None) -> Training:
    """Return the results of `trained`, without the folder."""
    with trained(command, cache) as (_, training):
        return training


def milliseconds(lines: list[dict[str, Any]]) -> float:
    """Return the median time per step of the lines of metrics.jsonl.

    The first line with a speed is left out if there are others, because it includes compilation.
    """
    rates = [line["steps_per_second"] for line in lines if line.get("steps_per_second")]
    return 1e3 / median(rates[1:] or rates)

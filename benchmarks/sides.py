"""Two worlds timed side by side: each in a process of its own, alternating, never at once."""

import importlib.metadata
import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from makemore_jax.cli import startup
from makemore_jax.versions import device, versions
from makemore_jax.workdir import write_json

# Several processes share one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "benchmarks"
KINDS = ("bigram", "mlp", "cnn", "rnn", "gru", "lstm", "bow", "transformer")


class Side:
    """What `make(*args)` returns, made and called in a process of its own."""

    def __init__(self, make: Callable[..., Callable], *args: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, *args: Any) -> Any:
        self._pipe.send(args)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, make: Callable[..., Callable], args: tuple) -> None:
    function = make(*args)
    while True:
        try:
            given = pipe.recv()
        except EOFError:
            return
        pipe.send(function(*given))


def alternate(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median seconds of each way over the rounds; in each round every way has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    return {name: statistics.median(found) for name, found in seconds.items()}


def calls_in(seconds: float, one: float, least: int = 1) -> int:
    """How often a call that takes `one` second is made, so that all take about so many."""
    return max(least, round(seconds / one))


def peak_memory() -> float:
    """Peak memory of this process so far in MiB; NaN on Windows, which does not record it."""
    if os.name == "nt":
        return math.nan
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, threads and versions."""
    found = {"processor": startup.processor(), "cores": startup.num_cores(), "device": device()}
    return found | {"versions": versions() | {"torch": _torch_version()}}


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def as_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(name: str, table: str, results: dict[str, Any], folder: Path) -> None:
    """Print the table; write both into docs, the numbers as docs/benchmarks/NAME.json."""
    print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {"machine": machine(), **results})
    (folder / f"{name}.md").write_text(table + "\n", "utf-8")
    print(f"\n{folder / name}.json and .md hold it", file=sys.stderr)

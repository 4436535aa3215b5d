"""Time several implementations: each in its own process, alternating, never in parallel."""

import importlib.metadata
import json
import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from makemore_jax.cli import startup
from makemore_jax.versions import device, versions
from makemore_jax.workdir import write_json

# Several processes share one GPU, so none may allocate all of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "benchmarks"
KINDS = ("bigram", "mlp", "cnn", "rnn", "gru", "lstm", "bow", "transformer")


class Side:
    """The function `make(*args)`, created and called in a process of its own."""

    def __init__(self, make: Callable[..., Callable], *args: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, remote_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote_pipe, make, args), daemon=True)
        self._process.start()
        remote_pipe.close()

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
            call_args = pipe.recv()
        except EOFError:
            return
        pipe.send(function(*call_args))


def alternate(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call the functions in turn, once per round. Return the median result of each function."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    return {name: statistics.median(times) for name, times in seconds.items()}


def calls_in(seconds: float, per_call: float, at_least: int = 1) -> int:
    """Return the number of calls that take about `seconds` at `per_call` seconds each."""
    return max(at_least, round(seconds / per_call))


def peak_memory() -> float:
    """Return the peak memory of this process in MiB, or nan on Windows."""
    if os.name == "nt":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> dict[str, Any]:
    """Return what the results depend on: processor, cores, device and versions."""
    hardware = {"processor": startup.processor(), "cores": startup.num_cores(), "device": device()}
    return hardware | {"versions": versions() | {"torch": _torch_version()}}


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def as_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def insert(page: Path, name: str, table: str) -> None:
    """Replace what is between `<!-- name -->` and `<!-- end of name -->` in a page."""
    before, start, rest = page.read_text("utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not (start and end):
        raise ValueError(f"{page} does not have both comments of {name}")
    page.write_text(before + start + table.strip() + "\n" + end + after, "utf-8")


def stored(name: str, rows: Iterable[str], folder: Path) -> dict[str, Any]:
    """Return the results of these rows in `folder`/NAME.json, the file of earlier runs."""
    file = folder / f"{name}.json"
    results = json.loads(file.read_text("utf-8"))["results"] if file.exists() else {}
    return {row: results[row] for row in rows if row in results}


def report(name: str, table: str, results: dict[str, Any], folder: Path) -> None:
    """Print the table. Write the results to `folder`/NAME.json and the table to NAME.md."""
    print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {"machine": machine(), **results})
    (folder / f"{name}.md").write_text(table + "\n", "utf-8")
    print(f"\nwritten to {folder / name}.json and .md", file=sys.stderr)

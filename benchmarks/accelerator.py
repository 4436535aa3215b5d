"""All measurements that need a GPU or TPU: python -m benchmarks.accelerator

Runs in at most 8 minutes on an H100 or H200. The items, most important first:

- shakespeare: `configs/shakespeare.py` trained to the end.
- shakespeare_best: `configs/shakespeare_best.py` trained with three seeds. It takes up to 9 minutes
  and runs only with `--items shakespeare_best`.
- shakespeare_best_choices: variants of it, compared on a part of train. Also runs only on request.
- train: the training step of the eight name models, compared with PyTorch.
- sample: sampling 10,000 names, compared with makemore's loop.
- sweep: 64 swept runs, compared with 64 single runs.
- parity: float32 training in lockstep with PyTorch on the CPU.

Each item runs in its own process, which is killed at a time limit. Results are written to
docs/benchmarks/accelerator.json and .md after every measurement, so an interrupted run keeps them.
`--items`, `--kinds` and `--choices` select items, models and choices. The stored results of the
others are kept. Without torch, the PyTorch columns stay empty and parity is skipped. `--quick` uses
tiny settings, to try the command without an accelerator.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.accelerator_items import ITEMS, run_item
from benchmarks.accelerator_page import as_page
from benchmarks.accelerator_settings import CHOICES, QUICK, Settings
from makemore_jax.workdir import write_json


def supervise(
    name: str, options: list[str], limit: float, update: Callable[[dict[str, Any]], None]
) -> None:
    """Run an item in its own process; call `update` with its results so far every second."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "benchmarks.accelerator", "--run-item", name, str(file)]
        command += options
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=sides.ROOT, stdout=output, stderr=output, start_new_session=True
            )
            status = None
            try:
                while status is None:
                    try:
                        process.wait(1)
                        status = "finished"
                    except subprocess.TimeoutExpired:
                        if time.monotonic() - began > limit:
                            status = "stopped at its time limit"
                    seconds = time.monotonic() - began
                    progress = f"{status or 'running'}, {seconds:.0f} s"
                    update(_read_results(file) | {"status": progress})
            finally:  # also after Ctrl-C, which the item's process does not receive
                _kill_group(process)
        text = log.read_text("utf-8", errors="replace")
        sys.stderr.write(text[-4_000:])
        if status == "finished" and process.returncode:
            last_line = ([line for line in text.splitlines() if line.strip()] or ["no output"])[-1]
            status = f"failed: {last_line:.200}"
        update(_read_results(file) | {"status": f"{status}, {time.monotonic() - began:.0f} s"})


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a process and all its children."""
    if hasattr(os, "killpg") and hasattr(signal, "SIGKILL"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _read_results(file: Path) -> dict[str, Any]:
    lines = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    return {line["key"]: line["value"] for line in map(json.loads, lines)}


def write(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write accelerator.json and accelerator.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "accelerator.json", results)
    (folder / "accelerator.md").write_text(as_page(results), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [name for name, item in ITEMS.items() if item.is_default]
    parser.add_argument("--items", nargs="+", choices=ITEMS, default=default)
    parser.add_argument("--kinds", nargs="+", choices=sides.KINDS, help="models to measure")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, help="variants to train")
    parser.add_argument("--limit", type=float, help="seconds for each item")
    parser.add_argument("--quick", action="store_true", help="tiny settings")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    parser.add_argument("--run-item", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_item:
        name, file = args.run_item
        settings = QUICK if args.quick else Settings()
        run_item(name, settings.only(args.kinds, args.choices), Path(file))
        return
    options = ["--quick"] * args.quick
    for flag, rows in (("--kinds", args.kinds), ("--choices", args.choices)):
        options += [flag, *rows] if rows else []
    stored = args.out / "accelerator.json"
    results = json.loads(stored.read_text("utf-8")) if stored.exists() else {}
    for name in (name for name in ITEMS if name in args.items):
        old_item = results.get(name, {}) if args.kinds or args.choices else {}

        def update(item: dict[str, Any], name: str = name, old: dict = old_item) -> None:
            results[name] = old | item
            write(results, args.out)

        supervise(name, options, args.limit or ITEMS[name].limit, update)
        print(f"{name}: {results[name]['status']}", flush=True)
    print("\n" + as_page(results))
    unfinished = [n for n in args.items if not results[n]["status"].startswith("finished")]
    if unfinished:
        sys.exit(f"accelerator: {', '.join(unfinished)} did not finish")


if __name__ == "__main__":
    main()

"""Kill a training with SIGKILL at random moments, resume it each time, and compare the results.

    python -m benchmarks.kill --kills 100
    python -m benchmarks.kill --kills 100 --signal SIGTERM

Prints the table of docs/reliability.md. Half of the kills happen after a random time: while the
program loads data, compiles, steps, evaluates or saves. The other half happen at a random access to
a file of the working directory, such as a rename during a save. A run that was killed and resumed
must end with the same bits as one that was not: parameters, optimizer state, best model,
metrics.jsonl (except times) and samples.txt. After SIGTERM a run may save its state first, also in
the middle of an evaluation. Needs a system with fork.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from makemore_jax import assemble
from makemore_jax.assemble import create_model, load_data, open_checkpoints
from makemore_jax.cli import startup
from makemore_jax.config import Config
from makemore_jax.errors import Stopped
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

# Audit events of Python for accesses to files. XLA and TensorStore raise none.
EVENTS = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "os.scandir"}
TIMES = ("seconds", "steps_per_second")  # in metrics.jsonl
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


class Results(NamedTuple):
    """What happened to a number of runs."""

    num_kills: int
    num_in_save: int  # kills that left a part of a checkpoint
    num_runs: int
    differences: list[str]  # files and arrays that differ from those of the undisturbed run


def make_config() -> Config:
    """Return the config of a run that saves often."""
    config = Config(seed=11)
    config.model.kind, config.model.n_embd2 = "mlp", 11
    train = config.train
    train.steps, train.batch_size, train.num_samples = 120, 5, 3
    train.log_every, train.eval_every, train.checkpoint_every, train.sample_every = 5, 20, 5, 20
    train.eval_examples = 100
    return config


def train(folder: Path, kill_at: int | None, log: Path, number: int) -> None:
    """Train in this process; signal `number` at the `kill_at`-th access to a file of the run.

    `log` gets the output, and a file beside it the number of accesses and the hashes of the arrays.
    """
    count, prefix = 0, str(folder)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and prefix in str(arguments[0]):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), number)

    sys.addaudithook(on_event)
    with log.open("a", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)

    startup.use_compilation_cache()
    assemble.train(make_config(), str(folder))
    content = json.dumps({"events": count, "arrays": hash_arrays(folder)})
    log.with_suffix(".end").write_text(content, "utf-8")


def start(
    folder: Path,
    kill_at: int | None,
    seconds: float | None,
    log: Path,
    number: int = KILL,
) -> tuple[bool, float]:
    """Train in a forked process that gets signal `number` after `seconds`, if that is given.

    Return whether the signal ended the process, and its seconds.
    """
    began, process = time.monotonic(), os.fork()
    if process == 0:
        try:
            train(folder, kill_at, log, number)
        except Stopped as stopped:
            os._exit(stopped.exit_code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if seconds is not None and time.monotonic() - began > seconds:
            os.kill(process, number)
            seconds = None
        time.sleep(0.001)
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code not in (0, -number, 128 + number):
        raise RuntimeError(f"the training failed:\n{log.read_text('utf-8')}")
    return exit_code != 0, time.monotonic() - began


def hash_arrays(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each array of the two checkpoints of a run."""
    config, hashes = make_config(), {}
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    template = state_lib.create(model, optimizer, jax.random.key(0), dataset.block_size)
    for name in ("best", "latest"):
        state = open_checkpoints(folder, read_only=True).restore(name, template)
        for path, array in jax.tree_util.tree_leaves_with_path(state):
            content = np.asarray(array).tobytes()
            hashes[f"{name} {jax.tree_util.keystr(path)}"] = hashlib.sha256(content).hexdigest()
    return hashes


def results_of(folder: Path, log: Path) -> dict[str, Any]:
    """Return what a run has computed, by name."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    values = json.loads(log.with_suffix(".end").read_text("utf-8"))["arrays"]
    values["samples.txt"] = (folder / "samples.txt").read_text("utf-8")
    for name, dicts in (("metrics.jsonl", map(json.loads, lines)), ("summary.json", [summary])):
        values[name] = [{k: v for k, v in each.items() if k not in TIMES} for each in dicts]
    return values


def measure(kills: int, seed: int, folder: Path, number: int = KILL) -> Results:
    """Kill and resume runs until there were `kills` kills; compare each with an undisturbed run."""
    rng = np.random.RandomState(seed)
    log = folder / "log"
    start(folder / "undisturbed", None, None, log)  # compiles
    shutil.rmtree(folder / "undisturbed")
    _, seconds = start(folder / "undisturbed", None, None, log)
    expected = results_of(folder / "undisturbed", log)
    num_events = json.loads(log.with_suffix(".end").read_text("utf-8"))["events"]
    num_kills = num_in_save = num_runs = 0
    differences: list[str] = []
    while num_kills < kills:
        num_runs += 1
        run = folder / f"run{num_runs}"
        is_killed = True
        while is_killed and num_kills < kills:
            plan = (None, rng.uniform(0, seconds))
            if rng.randint(2):
                plan = (int(rng.randint(1, num_events + 1)), None)
            is_killed, _ = start(run, *plan, log, number)
            num_kills += is_killed
            num_in_save += is_killed and any(run.glob("checkpoints/*.partial*"))
        if is_killed:
            start(run, None, None, log)
        results = results_of(run, log)
        names = sorted(results.keys() | expected.keys())
        differences += [n for n in names if results.get(n) != expected.get(n)]
        shutil.rmtree(run)
    return Results(num_kills, num_in_save, num_runs, differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM"])
    options = parser.parse_args()
    if not (hasattr(os, "fork") and hasattr(signal, "SIGKILL")):
        sys.exit("kill: needs os.fork and SIGKILL, which Windows does not have")
    with tempfile.TemporaryDirectory() as folder:
        number = getattr(signal, options.signal)
        results = measure(options.kills, options.seed, Path(folder), number)
    print("| kills | during a save | runs | differences from the undisturbed run |")
    print("|---|---|---|---|")
    different = ", ".join(results.differences) or "none"
    print(f"| {results.num_kills} | {results.num_in_save} | {results.num_runs} | {different} |")
    sys.exit(1 if results.differences else 0)


if __name__ == "__main__":
    main()

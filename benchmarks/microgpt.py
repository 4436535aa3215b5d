"""The training step of microgpt in five forms: python -m benchmarks.microgpt

Trains on makemore's list (python -m makemore_jax.download names) with the scalar engine in plain
Python, with gradients by hand in NumPy, with jax.grad without compilation, with one compiled step
per call, and with all steps in one compiled loop. All forms compute in float64. The slow forms take
only the first of the 1,000 steps. At the end, the whole command runs twice; the second run finds
the compiled programs in the cache.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import sides
from benchmarks.configs import makemore_list
from makemore_jax.lectures import command, microgpt, microgpt_numpy
from makemore_jax.lectures.microgpt import NUM_STEPS, Params, State

PLAIN, LOOP = "plain Python, scalar autograd", "JAX, all steps in one compiled loop"
Timed = tuple[float, list[float]]  # seconds per step, and the loss of each step


def time_steps(step: Callable[..., tuple[State, Any]], params: Params, batches: list) -> Timed:
    """Take a step for each batch (step, inputs, targets)."""
    if isinstance(params.wte, jax.Array):  # trace and compile
        jax.block_until_ready(step(microgpt.init_state(params), *batches[0]))
    state, losses = microgpt.init_state(params), []
    start = time.perf_counter()
    for batch in batches:
        state, loss = step(state, *batch)
        losses.append(loss)
    jax.block_until_ready((state, losses))
    return (time.perf_counter() - start) / len(batches), list(map(float, losses))


def time_loop(params: Params, inputs: np.ndarray, targets: np.ndarray) -> Timed:
    """Take all steps in one call."""
    jax.block_until_ready(microgpt.train(params, inputs, targets))
    start = time.perf_counter()
    _, losses = jax.block_until_ready(microgpt.train(params, inputs, targets))
    return (time.perf_counter() - start) / len(inputs), losses.tolist()


def time_command(path: Path) -> float:
    """Return the seconds of the second of two runs of the command."""
    arguments = [sys.executable, "-m", "makemore_jax.lectures.microgpt", "--data", str(path)]
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run(arguments, cwd=sides.ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(path: Path, plain_steps: int) -> dict[str, dict[str, float]]:
    """Return the number of steps, their milliseconds, and the largest difference of a loss."""
    generator = random.Random(microgpt.SEED)
    documents = microgpt.shuffle(command.read_words(str(path)), generator)
    lists = microgpt.init(generator, documents.bos + 1)
    arrays, numpy_arrays = microgpt.as_arrays(lists), Params(*map(np.array, lists))
    lines = [(i, *microgpt.transitions(documents, i)) for i in range(NUM_STEPS)]
    inputs, targets = microgpt.batches(documents, NUM_STEPS)
    rows = list(zip(np.arange(NUM_STEPS, dtype=float), inputs, targets, strict=True))

    step = microgpt.array_step
    timed = {
        PLAIN: time_steps(microgpt.scalar_step, lists, lines[:plain_steps]),
        "NumPy, gradients by hand": time_steps(microgpt_numpy.step, numpy_arrays, lines),
        "JAX, not compiled": time_steps(step, arrays, rows[:plain_steps]),
        "JAX, compiled step": time_steps(jax.jit(step), arrays, rows),
        LOOP: time_loop(arrays, inputs, targets),
    }
    expected = timed[LOOP][1]
    return {
        name: {
            "steps": len(losses),
            "milliseconds": 1e3 * seconds,
            "difference": float(np.abs(np.subtract(losses, expected[: len(losses)])).max()),
        }
        for name, (seconds, losses) in timed.items()
    }


def as_table(results: dict[str, dict[str, float]], command_seconds: float) -> str:
    """Return a table with the time of 1,000 steps and the speed relative to plain Python."""
    header = ["form", "steps timed", "s for 1,000 steps", "times plain Python"]
    rows = []
    for name, result in results.items():
        seconds = result["milliseconds"]  # of 1,000 steps
        ratio = results[PLAIN]["milliseconds"] / seconds
        cells = [f"{result['steps']:,}", f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"]
        rows.append([name, *cells, f"{ratio:,.0f}"])
    rows.append(["the whole command, later runs", "1,000", f"{command_seconds:.1f}", ""])
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="steps of the slow forms (50)")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    data = makemore_list("microgpt")
    results, seconds = measure(data, args.steps), time_command(data)
    table = as_table(results, seconds)
    sides.report("microgpt", table, {"results": results, "command_seconds": seconds}, args.out)


if __name__ == "__main__":
    main()

"""Damage checkpoints at random, and count how training and sampling react.

    python -m benchmarks.damage --damages 300

Prints the table of docs/reliability.md. Each damage changes one file of one of two checkpoints: it
flips one bit, cuts the file, empties it or deletes it. Then a reader restores both checkpoints, as
sample.py does, and a training restores the latest one. Each must get the exact arrays of one of the
two checkpoints and report the damage in one line.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from makemore_jax.assemble import create_model, open_checkpoints
from makemore_jax.config import Config
from makemore_jax.training import state as state_lib
from makemore_jax.training.state import TrainState

BEST, LATEST = 10, 20  # the steps of the two checkpoints
REPORTED = "reported, the other one used"  # any other outcome makes this program fail


def _flip(content: bytes, rng: np.random.RandomState) -> bytes:
    """Flip one bit."""
    changed = bytearray(content)
    changed[rng.randint(len(changed))] ^= 1 << rng.randint(8)
    return bytes(changed)


KINDS = {
    "one bit flipped": _flip,
    "cut": lambda content, rng: content[: rng.randint(len(content))],
    "emptied": lambda content, rng: b"",
    "deleted": lambda content, rng: None,
}


def damage(folder: Path, kind: str, rng: np.random.RandomState) -> Path:
    """Damage one random file below `folder`. Return the file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    file = files[rng.randint(len(files))]
    content = KINDS[kind](file.read_bytes(), rng)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    return file


def make_state(step: int) -> TrainState:
    """Return the state of a small RNN, whose parameters depend on the step."""
    config = Config().model
    config.kind, config.n_embd, config.n_embd2 = "rnn", 10, 11
    model = create_model(config, vocab_size=13, block_size=7)
    state = state_lib.create(model, optax.adam(0.1), jax.random.key(step), 7)
    return jax.device_get(state.replace(step=jnp.int32(step)))


def restore(
    folder: Path, name: str, read_only: bool, states: dict[int, TrainState]
) -> tuple[int, list[str]]:
    """Restore a checkpoint. Return its step and the lines printed; step 0 for wrong arrays."""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        restored = open_checkpoints(folder, read_only).restore(name, states[LATEST])
    step = int(restored.step)
    pairs = zip(jax.tree.leaves(restored), jax.tree.leaves(states.get(step, {})), strict=False)
    is_exact = step in states and all(np.array_equal(a, b) for a, b in pairs)
    return (step if is_exact else 0), printed.getvalue().splitlines()


def classify(folder: Path, damaged_step: int, states: dict[int, TrainState]) -> str:
    """Return what happened to a run with one damaged checkpoint."""
    other = BEST if damaged_step == LATEST else LATEST
    for name, read_only in (("best", True), ("latest", True), ("latest", False)):
        needed = {"best": BEST, "latest": LATEST}[name]
        step, lines = restore(folder, name, read_only, states)
        is_reported = len(lines) == 1 and f"checkpoints/{damaged_step} is DAMAGED" in lines[0]
        if step == 0 or (needed == damaged_step and not (step == other and is_reported)):
            return "restored silently"
        if needed == other and step != other:
            return "the intact one was not used"
    return REPORTED


def measure(damages: int, seed: int, folder: Path) -> dict[str, Counter]:
    """Return for each kind of damage how often each outcome occurred."""
    rng = np.random.RandomState(seed)
    states = {step: make_state(step) for step in (BEST, LATEST)}
    checkpoints = open_checkpoints(folder / "intact")
    checkpoints.save(states[BEST], 2.0)
    checkpoints.save(states[LATEST], 3.0)
    outcomes = {kind: Counter() for kind in KINDS}
    for number in range(damages):
        kind, step = list(KINDS)[number % len(KINDS)], (BEST, LATEST)[rng.randint(2)]
        copy = Path(shutil.copytree(folder / "intact", folder / "copy"))
        damage(copy / "checkpoints" / str(step), kind, rng)
        outcomes[kind][classify(copy, step, states)] += 1
        shutil.rmtree(copy)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(options.damages, options.seed, Path(folder))
    names = sorted({"restored silently"}.union(*outcomes.values()))
    print(f"| damage to one file | number | {' | '.join(names)} |")
    print("|---" * (len(names) + 2) + "|")
    for kind, counts in outcomes.items():
        cells = [str(counts[name]) for name in names]
        print(f"| {kind} | {counts.total()} | {' | '.join(cells)} |")
    sys.exit(1 if any(counts.keys() - {REPORTED} for counts in outcomes.values()) else 0)


if __name__ == "__main__":
    main()

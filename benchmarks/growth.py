"""Time and memory for growing batch, context, width and data: python -m benchmarks.growth

Measures the training step of the transformer as in train.py, with one size changed at a time. Time
per token counts tokens with a target. Arithmetic is 6 operations per token and parameter, and
12 * T * n_embd per token and layer for attention. Memory is the peak memory of the process. Each
row is measured in its own process.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.configs import config_of


def write_lines(file: Path, num: int, length: int | None = None) -> None:
    """Write `num` random names. With `length`, join names to lines of exactly this length."""
    rng = random.Random(0)
    words = (sides.ROOT / "names.txt").read_text("utf-8").split()
    with file.open("w", encoding="utf-8") as out:
        for _ in range(num):
            word = "".join(rng.choices(words, k=1 + (length or 0) // 4)) if length else None
            while length and len(word) < length:
                word += rng.choice(words)
            out.write((word[:length] if length else rng.choice(words)) + "\n")


def make_step(kind: str, file: str, overrides: dict[str, int]):
    """Return the function (steps, rounds) -> measurements of one size."""
    import numpy as np

    from benchmarks.jax_side import Trainer

    config = config_of(kind)
    config.data.path = file
    config.train.batch_size = overrides.get("batch_size", config.train.batch_size)
    config.model.n_embd = overrides.get("n_embd", config.model.n_embd)
    trainer = Trainer(config)
    lengths = np.diff(np.asarray(trainer.split.starts))
    attention = 2 * config.model.n_layer * trainer.dataset.block_size * config.model.n_embd

    def run(num_steps: int, rounds: int) -> dict[str, Any]:
        trainer(num_steps)  # compiles
        return {
            "tokens": float(lengths.mean()) * config.train.batch_size,
            "seconds": statistics.median(trainer(num_steps) for _ in range(rounds)),
            "mebibytes": sides.peak_memory(),
            "load_seconds": trainer.load_seconds,
            "flops": 6 * (trainer.num_params + attention) if kind == "transformer" else None,
        }

    return run


def measure(kind: str, file: Path, overrides: dict[str, int], rounds: int) -> dict[str, Any]:
    """Measure one row in its own process."""
    side = sides.Side(make_step, kind, str(file), overrides)
    seconds = side(2, 1)["seconds"]
    measurements = side(max(2, min(100, round(0.5 / seconds))), rounds)
    side.close()
    return measurements


def as_table(results: dict[str, dict[str, dict]]) -> str:
    """Return a table of time per token and arithmetic, both relative to the first size."""
    header = ["size", "value", "tokens per batch", "ms per step", "us per token", "relative"]
    rows = []
    for name, sizes in results.items():
        if not sizes:
            continue
        first = next(iter(sizes.values()))
        base = first["seconds"] / first["tokens"]
        for size, cost in sizes.items():
            per_token = cost["seconds"] / cost["tokens"]
            row = [name, f"{int(size):,}", f"{cost['tokens']:,.0f}"]
            row += [f"{1e3 * cost['seconds']:.3f}", f"{1e6 * per_token:.2f}"]
            row.append(f"{per_token / base:.2f}")
            flops = cost["flops"]
            row.append("" if flops is None else f"{flops / first['flops']:.2f}")
            rows.append([*row, f"{cost['load_seconds']:.2f}", f"{cost['mebibytes']:.0f}"])
    return sides.as_table([*header, "arithmetic", "load, s", "peak MiB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", nargs="*", type=int, default=[32, 128, 512, 2_048, 8_192])
    parser.add_argument("--context", nargs="*", type=int, default=[16, 64, 256, 1_024])
    parser.add_argument("--width", nargs="*", type=int, default=[32, 64, 128, 256])
    parser.add_argument("--lines", nargs="*", type=int, default=[10**3, 10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    names, results = sides.ROOT / "names.txt", {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lines.txt"
        results["batch"] = {
            str(n): measure("transformer", names, {"batch_size": n}, args.rounds)
            for n in args.batch
        }
        results["width"] = {
            str(n): measure("transformer", names, {"n_embd": n}, args.rounds) for n in args.width
        }
        results["context"] = {}
        for n in args.context:
            write_lines(file, 1_000, n - 1)
            overrides = {"batch_size": 16_384 // n}
            results["context"][str(n)] = measure("transformer", file, overrides, args.rounds)
        results["lines, bigram"] = {}
        for n in args.lines:
            write_lines(file, n)
            results["lines, bigram"][str(n)] = measure("bigram", file, {}, args.rounds)
    sides.report("growth", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

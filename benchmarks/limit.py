"""What a core can do at most, and what an operation costs at least: python -m benchmarks.limit

The rate of matrix products, of a size that is good for it and of the sizes that the transformer
multiplies in a step, and the time of one operation on a handful of numbers. From these
docs/performance.md reckons how fast a step could be.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks import sides

PRODUCTS = {
    "product 1,024 x 1,024 x 1,024": (1_024, 1_024, 1_024),
    "product 240 x 64 x 256": (240, 64, 256),
    "product 240 x 256 x 64": (240, 256, 64),
    "product 64 x 240 x 256": (64, 240, 256),
}


def seconds_each(function: Callable[[Array], Array], x: Array, rounds: int, repeats: int) -> float:
    """The median seconds of one call within a compiled loop of `repeats` calls."""
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, x: function(x), x))
    jax.block_until_ready(loop(x))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(loop(x))
        found.append((time.perf_counter() - began) / repeats)
    return statistics.median(found)


def measure(rounds: int, repeats: int) -> dict[str, dict[str, float]]:
    """Microseconds, and GFLOP/s where there is arithmetic, of each."""
    found = {}
    for name, (n, k, m) in PRODUCTS.items():
        a, b = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((n, k), (k, m))))

        def multiply(a: Array, b: Array = b) -> Array:
            """One product, of which the next depends on a single number."""
            whole = jax.lax.optimization_barrier(a @ b)  # or XLA would compute that number alone
            return a.at[0, 0].add(1e-9 * whole[0, 0])

        seconds = seconds_each(multiply, a, rounds, repeats)
        found[name] = {"microseconds": 1e6 * seconds, "gflops": 2e-9 * n * k * m / seconds}
    seconds = seconds_each(lambda x: jnp.sort(x) + 1, jnp.arange(8.0), rounds, repeats)
    plain = seconds_each(lambda x: x + 1, jnp.arange(8.0), rounds, repeats)
    found["one more operation on 8 numbers"] = {"microseconds": 1e6 * (seconds - plain)}
    return found


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Microseconds and rate."""
    rows = [
        [
            name,
            f"{found['microseconds']:.1f}",
            f"{found['gflops']:.0f}" if "gflops" in found else "",
        ]
        for name, found in results.items()
    ]
    return sides.as_table(["on one core's device", "us", "GFLOP/s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=200, help="calls in one compiled loop")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    results = measure(args.rounds, args.repeats)
    sides.report("limit", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

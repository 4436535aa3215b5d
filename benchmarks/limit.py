"""Rate of matrix products and overhead of an operation: python -m benchmarks.limit

Measures a large matrix product, products with the shapes of the transformer's training step, and
one operation on 8 numbers. docs/performance.md estimates the fastest possible step from these.
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


def seconds_per_call(
    function: Callable[[Array], Array], x: Array, rounds: int, repeats: int
) -> float:
    """Return the median seconds per call in a compiled loop of `repeats` calls."""
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, x: function(x), x))
    jax.block_until_ready(loop(x))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(loop(x))
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


def measure(rounds: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of each operation, and the GFLOP/s of products."""
    results = {}
    for name, (n, k, m) in PRODUCTS.items():
        a, b = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((n, k), (k, m))))

        def multiply(a: Array, b: Array = b) -> Array:
            """Multiply. The next product depends on one entry of the result."""
            product = jax.lax.optimization_barrier(a @ b)  # or XLA would compute one entry only
            return a.at[0, 0].add(1e-9 * product[0, 0])

        seconds = seconds_per_call(multiply, a, rounds, repeats)
        results[name] = {"microseconds": 1e6 * seconds, "gflops": 2e-9 * n * k * m / seconds}
    seconds = seconds_per_call(lambda x: jnp.sort(x) + 1, jnp.arange(8.0), rounds, repeats)
    plain = seconds_per_call(lambda x: x + 1, jnp.arange(8.0), rounds, repeats)
    results["one more operation on 8 numbers"] = {"microseconds": 1e6 * (seconds - plain)}
    return results


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return a table of times and rates."""
    rows = [
        [
            name,
            f"{cost['microseconds']:.1f}",
            f"{cost['gflops']:.0f}" if "gflops" in cost else "",
        ]
        for name, cost in results.items()
    ]
    return sides.as_table(["operation on one CPU device", "us", "GFLOP/s"], rows)


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

"""Sample 1,000 and 10,000 names, compared with makemore's loop: python -m benchmarks.sample_speed

JAX: `assemble.sample`, one `step` of the model with its carry per character. PyTorch: makemore's
loop, which processes the whole line again for each character, always up to the maximum length. Both
sides are timed from tokens to text, after a warm-up call. The JAX model is trained for 1,000 steps,
so that its lines have the length of names; the time of makemore's loop does not depend on the
parameters. Each side has its own process. The sides take turns of half a second, so that cold CPU
caches do not dominate. Results are medians over the rounds.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("sample_speed", "torch")

import argparse
import time
from pathlib import Path

from benchmarks import sides
from benchmarks.configs import config_of

STEPS = 1_000


def make_jax_sampler(kind: str):
    """Return the function (number of names, number of calls) -> seconds per call."""
    import jax

    from benchmarks.jax_side import Trainer
    from makemore_jax import assemble

    trainer = Trainer(config_of(kind))
    trainer(STEPS)
    lm = trainer.language_model()

    def run(num: int, calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            assert len(assemble.sample(lm, jax.random.key(1), num)) == num
        return (time.perf_counter() - began) / calls

    return run


def make_torch_sampler(kind: str, chars: tuple[str, ...], block_size: int, threads: int):
    """Return the same function for makemore's loop."""
    import torch

    from benchmarks.torch_run import decode, generate
    from benchmarks.torch_side import DEVICE
    from makemore_jax.torch_parity import weights

    torch.set_num_threads(threads)
    module = weights.reference(config_of(kind), len(chars) + 1, block_size).to(DEVICE)

    def run(num: int, calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            assert len(decode(generate(module, num, block_size), list(chars))) == num
        return (time.perf_counter() - began) / calls

    return run


def measure(
    kind: str, nums: list[int], rounds: int, min_seconds: float, threads: int
) -> dict[str, dict]:
    """Return the seconds of both sides for each number of names."""
    from makemore_jax.assemble import load_data

    config = config_of(kind)
    dataset = load_data(config.data, config.seed)
    ours = sides.Side(make_jax_sampler, kind)
    theirs = sides.Side(make_torch_sampler, kind, dataset.vocab.chars, dataset.block_size, threads)
    results = {}
    for num in nums:
        runs = {}
        for name, side in (("makemore_jax", ours), ("PyTorch", theirs)):
            side(num, 1)  # compiles
            calls = sides.calls_in(min_seconds, side(num, 1))
            runs[name] = lambda side=side, num=num, calls=calls: side(num, calls)
        medians = sides.alternate(runs, rounds)
        results[str(num)] = medians | {"ratio": medians["PyTorch"] / medians["makemore_jax"]}
    ours.close()
    theirs.close()
    return results


def as_table(results: dict[str, dict]) -> str:
    """Return a table of the milliseconds of both sides, and the ratio."""
    nums = list(next(iter(results.values())))
    header = ["model"]
    for num in nums:
        header += [f"{int(num):,} names, ms", "PyTorch, ms", "ratio"]
    rows = []
    for kind, by_num in results.items():
        row = [kind]
        for num in nums:
            row += [f"{1e3 * by_num[num][side]:.1f}" for side in ("makemore_jax", "PyTorch")]
            row.append(f"{by_num[num]['ratio']:.1f}")
        rows.append(row)
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sides.KINDS, default=list(sides.KINDS))
    parser.add_argument("--nums", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per side and round")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    threads = sides.machine()["cores"]
    results = {
        kind: measure(kind, args.nums, args.rounds, args.seconds, threads) for kind in args.models
    }
    sides.report("sample_speed", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

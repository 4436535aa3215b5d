"""Drawing 1,000 and 10,000 names, beside makemore's loop: python -m benchmarks.sample_speed

Here: `assemble.sample`, each character one `step` of the model with its carry. PyTorch: makemore's
loop, which computes the whole line anew for each character, for all lines up to the longest that
there may be. Both from first tokens to text, after a first call; ours of a model trained for 1,000
steps, so that its lines are as long as names (makemore's loop takes the same time for any
parameters); each side in a process of its own, taking turns of half a second, so that neither is
timed right after the other has emptied the caches; medians over the rounds.
"""

import argparse
import time
from pathlib import Path

from benchmarks import sides
from benchmarks.configs import config_of

STEPS = 1_000


def make_jax_sampler(kind: str):
    """The function (number of names, how often) -> seconds each time."""
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
    """Likewise, with makemore's loop."""
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
    kind: str, nums: list[int], rounds: int, seconds: float, threads: int
) -> dict[str, dict]:
    """The seconds of both sides for each number of names."""
    from makemore_jax.assemble import load_data

    config = config_of(kind)
    dataset = load_data(config.data, config.seed)
    ours = sides.Side(make_jax_sampler, kind)
    theirs = sides.Side(make_torch_sampler, kind, dataset.vocab.chars, dataset.block_size, threads)
    found = {}
    for num in nums:
        ways = {}
        for name, side in (("makemore_jax", ours), ("PyTorch", theirs)):
            side(num, 1)  # compiles
            calls = sides.calls_in(seconds, side(num, 1))
            ways[name] = lambda side=side, num=num, calls=calls: side(num, calls)
        medians = sides.alternate(ways, rounds)
        found[str(num)] = medians | {"ratio": medians["PyTorch"] / medians["makemore_jax"]}
    ours.close()
    theirs.close()
    return found


def as_table(results: dict[str, dict]) -> str:
    """Milliseconds of both sides, and the ratio."""
    nums = list(next(iter(results.values())))
    header = ["model"]
    for num in nums:
        header += [f"{int(num):,} names, ms", "PyTorch, ms", "ratio"]
    rows = []
    for kind, found in results.items():
        row = [kind]
        for num in nums:
            row += [f"{1e3 * found[num][side]:.1f}" for side in ("makemore_jax", "PyTorch")]
            row.append(f"{found[num]['ratio']:.1f}")
        rows.append(row)
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sides.KINDS, default=list(sides.KINDS))
    parser.add_argument("--nums", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one side in one round")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    threads = sides.machine()["cores"]
    results = {
        kind: measure(kind, args.nums, args.rounds, args.seconds, threads) for kind in args.models
    }
    sides.report("sample_speed", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

"""The gain of each speed-up: python -m benchmarks.ablation

Times the training step with all speed-ups and with one of them disabled. Each variant has its own
process. The variants alternate in each round; results are medians over the rounds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import sides


def _whole_rows() -> None:
    from makemore_jax.kernels import layouts

    layouts.choose = lambda split, *_: [layouts.Rows(split.block_size)]


def _one_core() -> None:
    from makemore_jax.cli import startup

    startup.configure_jax = lambda: None


def _plain(name: str) -> Callable[[], None]:
    """Return the function that replaces a kernel by its plain reference."""

    def replace() -> None:
        from makemore_jax import kernels
        from makemore_jax.kernels import plain

        setattr(kernels, name, getattr(plain, name))

    return replace


def _embed_first() -> None:
    from makemore_jax.models import recurrent

    _plain("embed_linear")()
    recurrent.Recurrent._inputs = lambda self, tokens: self.cell.input_projections(self.wte(tokens))


RECURRENT = ("rnn", "gru", "lstm")
# The function that disables each speed-up, and the models that use it.
SPEED_UPS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "packed lines": (_whole_rows, ("bigram", "mlp", "cnn", "bow", "transformer")),
    "rows cut to the longest line": (_whole_rows, RECURRENT),
    "one core per half of the batch": (_one_core, ("cnn", "transformer")),
    "custom gradient of attention": (_plain("attention"), ("transformer",)),
    "custom gradient of layer norm": (_plain("standardize"), ("transformer",)),
    "transposed gradients of tall kernels": (_plain("matmul"), ("cnn", "bow", "transformer")),
    "input products once per character": (_embed_first, ("mlp", *RECURRENT)),
}


def make_trainer(kind: str, disabled: str):
    """Disable a speed-up in this process, and return the trainer of train_speed."""
    from benchmarks.jax_side import make_trainer

    if disabled:
        SPEED_UPS[disabled][0]()
    return make_trainer(kind)


def measure(kind: str, rounds: int, min_seconds: float) -> dict[str, float]:
    """Return milliseconds per step by the name of the disabled speed-up; "" if none is disabled."""
    names = ["", *(name for name, (_, kinds) in SPEED_UPS.items() if kind in kinds)]
    trainers = {name: sides.Side(make_trainer, kind, name) for name in names}
    runs = {}
    for name, trainer in trainers.items():
        trainer(1)  # compiles
        calls = sides.calls_in(min_seconds, 100 * trainer(1))
        runs[name] = lambda trainer=trainer, calls=calls: trainer(calls)
    seconds = sides.alternate(runs, rounds)
    for trainer in trainers.values():
        trainer.close()
    return {name: 1e3 * value for name, value in seconds.items()}


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return a table of the step with and without each speed-up, and the ratio."""
    rows = [
        [name, kind, f"{times['']:.3f}", f"{times[name]:.3f}", f"{times[name] / times['']:.2f}"]
        for name in SPEED_UPS
        for kind, times in results.items()
        if name in times
    ]
    return sides.as_table(["speed-up", "model", "ms with", "ms without", "factor"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sides.KINDS, default=list(sides.KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="per variant and round")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    results = {kind: measure(kind, args.rounds, args.seconds) for kind in args.models}
    sides.report("ablation", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

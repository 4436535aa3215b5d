"""What each speed-up is worth: python -m benchmarks.ablation

The training step as it is, and with one speed-up taken away, in turn in the same run; each in a
process of its own, medians over the rounds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import sides


def _whole_rows() -> None:
    from benchmarks import jax_side
    from makemore_jax.kernels.layouts import Rows

    jax_side.choose = lambda split, *_: [Rows(split.block_size)]


def _one_core() -> None:
    from makemore_jax.cli import startup

    startup.use_cores = lambda: None


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
WITHOUT: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "lines packed": (_whole_rows, ("bigram", "mlp", "cnn", "bow", "transformer")),
    "rows cut to the longest line": (_whole_rows, RECURRENT),
    "a core for each half of the batch": (_one_core, ("cnn", "transformer")),
    "gradient of attention": (_plain("attention"), ("transformer",)),
    "gradient of layer norm": (_plain("standardize"), ("transformer",)),
    "gradients of tall kernels turned": (_plain("matmul"), ("cnn", "bow", "transformer")),
    "characters' products looked up": (_embed_first, ("mlp", *RECURRENT)),
}


def make_trainer(kind: str, without: str):
    """The trainer of train_speed, after the speed-up has been taken away."""
    from benchmarks.jax_side import make_trainer

    if without:
        WITHOUT[without][0]()
    return make_trainer(kind)


def measure(kind: str, rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds a step: "" as it is, and without each speed-up that this model has."""
    names = ["", *(name for name, (_, kinds) in WITHOUT.items() if kind in kinds)]
    trainers = {name: sides.Side(make_trainer, kind, name) for name in names}
    ways = {}
    for name, trainer in trainers.items():
        trainer(1)  # compiles
        calls = sides.calls_in(seconds, 100 * trainer(1))
        ways[name] = lambda trainer=trainer, calls=calls: trainer(calls)
    found = sides.alternate(ways, rounds)
    for trainer in trainers.values():
        trainer.close()
    return {name: 1e3 * value for name, value in found.items()}


def as_table(results: dict[str, dict[str, float]]) -> str:
    """For each speed-up and model, the step with it, without it, and the factor between."""
    rows = [
        [name, kind, f"{found['']:.3f}", f"{found[name]:.3f}", f"{found[name] / found['']:.2f}"]
        for name in WITHOUT
        for kind, found in results.items()
        if name in found
    ]
    return sides.as_table(["speed-up", "model", "ms with", "ms without", "factor"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sides.KINDS, default=list(sides.KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one way in one round")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    results = {kind: measure(kind, args.rounds, args.seconds) for kind in args.models}
    sides.report("ablation", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

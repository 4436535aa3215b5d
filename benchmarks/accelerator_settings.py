"""The sizes of the measurements of benchmarks.accelerator, and the processes that they run in."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import sides

KINDS = ("transformer", *(kind for kind in sides.KINDS if kind != "transformer"))

Record = Callable[[str, Any], None]  # (key, value) -> None; stores a result of the running item

BASE = {
    "model.kind": "modern",
    "model.layer_loop": "auto",
    "model.networks": 1,
    "train.batch_size": 64,
    "optimizer.name": "muon",
    "optimizer.weight_decay": 0.1,
    "optimizer.learning_rate": 1e-3,
    "model.dropout": 0.3,
    "train.steps": 2_500,
}
WEIGHT_DECAY = BASE | {"optimizer.weight_decay": 1.0}
WITH_RATE = WEIGHT_DECAY | {"optimizer.learning_rate": 2e-3}
SHORTER = WITH_RATE | {"train.steps": 1_500}
DROPOUT = {"model.dropout": 0.4}
# The fields of configs/shakespeare_best.py that each choice sets.
CHOICES = {
    "one network, weight decay 0.1, learning rate 1e-3, dropout 0.3, 2,500 steps": BASE,
    "dropout 0.4": BASE | DROPOUT,
    "weight decay 1": WEIGHT_DECAY,
    "weight decay 1, dropout 0.4": WEIGHT_DECAY | DROPOUT,
    "weight decay 1, learning rate 2e-3": WITH_RATE,
    "weight decay 1, learning rate 2e-3, 1,500 steps": SHORTER,
    "weight decay 1, learning rate 2e-3, 1,500 steps, dropout 0.4": SHORTER | DROPOUT,
    "weight decay 1, learning rate 4e-3, 1,500 steps, dropout 0.4": {
        **SHORTER,
        **DROPOUT,
        "optimizer.learning_rate": 4e-3,
    },
}


class Settings(NamedTuple):
    """The sizes of all measurements."""

    kinds: tuple[str, ...] = KINDS
    rounds: int = 5
    seconds: float = 0.2  # per variant and round
    num_names: int = 10_000
    sampled: tuple[str, ...] = ("transformer", "gru", "mlp")
    swept: tuple[str, ...] = ("mlp", "gru")
    members: int = 64
    sweep_steps: int = 300
    seeds: tuple[int, ...] = (1337, 1338, 1339)  # of shakespeare_best; nanoGPT's is 1337
    choices: dict[str, dict[str, Any]] = CHOICES  # of shakespeare_best_choices
    parity_steps: int = 50
    is_quick: bool = False

    def only(self, kinds: list[str] | None, choices: list[str] | None) -> "Settings":
        """Return these settings for some of the models and choices. None: all."""
        fields = ("kinds", "sampled", "swept")
        chosen = {
            field: tuple(kind for kind in getattr(self, field) if kinds is None or kind in kinds)
            for field in fields
        }
        some = {n: v for n, v in self.choices.items() if choices is None or n in choices}
        return self._replace(choices=some, **chosen)


QUICK = Settings(
    kinds=("bigram",),
    rounds=1,
    seconds=0.01,
    num_names=30,
    sampled=("bigram",),
    swept=("bigram",),
    members=3,
    sweep_steps=2,
    seeds=(5,),
    choices={"dropout 0.4": {"model.dropout": 0.4}},
    parity_steps=2,
    is_quick=True,
)


def start(make: Callable[..., Callable], *args: Any) -> Callable:
    """Return `sides.Side(make, *args)`, a function that runs in its own process.

    On a TPU it runs in this process, since only one process can use the TPU.
    """
    import jax

    return make(*args) if jax.default_backend() == "tpu" else sides.Side(make, *args)


def num_parallel(cores: int) -> int:
    """Return how many measurements can warm up at the same time with `cores` cores each."""
    import jax

    return 1 if jax.default_backend() == "tpu" else max(1, (os.cpu_count() or 1) // cores)

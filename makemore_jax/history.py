"""What a run has told of its training, for pictures: the losses, and what was found inside."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from makemore_jax import workdir
from makemore_jax.training.optimizer import make_schedule


class Curves(NamedTuple):
    """Losses, learning rate and time, each a list of (step, value)."""

    train_loss: list[tuple[int, float]]
    dev_loss: list[tuple[int, float]]
    learning_rate: list[tuple[int, float]]  # that of the schedule, not of the file
    seconds: list[tuple[int, float]]  # of training so far, at each logged step


class Histogram(NamedTuple):
    """As diagnostics.py has it: counts in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]
    mean: float
    std: float


class Look(NamedTuple):
    """The histograms of one look. One that holds what is no number is left out."""

    step: int
    activations: dict[str, Histogram]  # by layer
    activation_gradients: dict[str, Histogram]
    gradients: dict[str, Histogram]  # by matrix


class Inside(NamedTuple):
    """What a run with train.diagnose_every found, as diagnostics.py has it.

    Layers are in the order of the program and matrices in that of their use. Each of them has a
    value for each of the steps, nan where that was no number.
    """

    steps: list[int]
    saturated: dict[str, list[float]]  # by layer
    dead: dict[str, list[float]]
    update_to_data: dict[str, list[float]]  # by matrix
    grad_to_data: dict[str, list[float]]
    first: Look
    last: Look


def read_curves(folder: Path, run: workdir.Run) -> Curves | None:
    """What the run has written so far; None where that is nothing, as after a conversion."""
    lines = _read(folder)
    train, dev, seconds = (
        [(line["step"], line[name]) for line in lines if name in line]
        for name in ("train_loss", "dev_loss", "seconds")
    )
    if not train:
        return None
    # Of every step, or of a thousand: the file has those of the logged steps alone.
    steps = np.unique(np.linspace(0, train[-1][0] - 1, 1_000).astype(int))
    rates = make_schedule(run.config.optimizer, run.config.train.steps)(jnp.asarray(steps))
    rates = np.broadcast_to(np.asarray(rates), steps.shape)
    learning_rate = list(zip((steps + 1).tolist(), rates.tolist(), strict=True))
    return Curves(train, dev, learning_rate, seconds)


def read_inside(folder: Path, params: list[str]) -> Inside | None:
    """What has been found so far; None without train.diagnose_every.

    `params` are the names of the parameters in the order in which they will be shown.
    """
    lines = [line for line in _read(folder) if "update_to_data" in line]
    if not lines:
        return None

    def over_steps(kind: str, names: list[str]) -> dict[str, list[float]]:
        found = ((name, [line[kind].get(name) for line in lines]) for name in names)
        return {name: [np.nan if v is None else v for v in values] for name, values in found}

    first, last = lines[0], lines[-1]
    layers = list(last["saturated"])
    matrices = [name for name in params if name in last["gradients"]]
    return Inside(
        steps=[line["step"] for line in lines],
        saturated=over_steps("saturated", layers),
        dead=over_steps("dead", layers),
        update_to_data=over_steps("update_to_data", matrices),
        grad_to_data=over_steps("grad_to_data", matrices),
        first=_look(first, layers, matrices),
        last=_look(last, layers, matrices),
    )


def in_order_of_use(model: nn.Module, block_size: int) -> list[str]:
    """The names of a model's parameters, as 'h_0.mlp.c_fc.kernel', from the input to the output.

    That is the order in which Flax makes them; behind jax's transforms they are in the alphabet's.
    """
    names: list[str] = []

    def init() -> Any:
        variables = model.init(jax.random.key(0), jnp.zeros((1, block_size), jnp.int32))
        names.extend(flatten_dict(variables["params"], sep="."))
        return variables

    jax.eval_shape(init)
    return names


def _look(line: dict[str, Any], layers: list[str], matrices: list[str]) -> Look:
    def whole(kind: str, names: list[str]) -> dict[str, Histogram]:
        found = ((name, line[kind].get(name)) for name in names)
        return {name: Histogram(**of) for name, of in found if of and None not in of.values()}

    return Look(
        step=line["step"],
        activations=whole("activations", layers),
        activation_gradients=whole("activation_gradients", layers),
        gradients=whole("gradients", matrices),
    )


def _read(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, but for one that is only half written."""
    try:
        written = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    except (OSError, UnicodeError):
        return []
    lines = []
    for line in written:
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last one, while a training writes it
            continue
    return lines

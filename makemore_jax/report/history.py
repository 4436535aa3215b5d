"""The history of a run, read from metrics.jsonl: losses and layer statistics by step."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from makemore_jax import workdir
from makemore_jax.config import Config
from makemore_jax.training.optimizer import make_schedule

# The entries that `diagnostics` writes; all others are numbers.
DIAGNOSTICS = {
    *("saturated", "dead", "activations", "activation_gradients"),
    *("update_to_data", "grad_to_data", "gradients"),
}


class Curves(NamedTuple):
    """Losses, learning rate and time, each a list of (step, value)."""

    train_loss: list[tuple[int, float]]
    dev_loss: list[tuple[int, float]]
    learning_rate: list[tuple[int, float]]  # as logged, or that of the config if it was not
    seconds: list[tuple[int, float]]  # training time so far at each logged step


class Histogram(NamedTuple):
    """A histogram from makemore_jax.diagnostics: counts in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]
    mean: float
    std: float


class Snapshot(NamedTuple):
    """The histograms of one step. Histograms of non-finite values are left out."""

    step: int
    activations: dict[str, Histogram]  # by layer
    activation_gradients: dict[str, Histogram]  # by layer
    gradients: dict[str, Histogram]  # by matrix


class Diagnostics(NamedTuple):
    """The layer statistics that train.diagnose_every recorded.

    Each dict has one list per layer or matrix, with one value per step. Non-finite values are nan.
    Layers are in program order. Matrices are in the order in which the model uses them.
    """

    steps: list[int]
    saturated: dict[str, list[float]]  # by layer
    dead: dict[str, list[float]]  # by layer
    update_to_data: dict[str, list[float]]  # by matrix
    grad_to_data: dict[str, list[float]]  # by matrix
    first: Snapshot
    last: Snapshot


def read_curves(folder: Path, run: workdir.Run) -> Curves | None:
    """Read the curves so far. None if nothing is logged, as in a converted run."""
    lines = _read_metrics(folder)
    train, dev, learning_rate, seconds = (
        [(line["step"], line[name]) for line in lines if name in line]
        for name in ("train_loss", "dev_loss", "learning_rate", "seconds")
    )
    if not train:
        return None
    return Curves(train, dev, learning_rate or _schedule(run.config, train[-1][0]), seconds)


def _schedule(config: Config, last_step: int) -> list[tuple[int, float]]:
    """Return the learning rate of up to 1,000 steps, computed from the config.

    This is for a run of a sweep, which does not log the rate. It would be wrong for a run that was
    resumed with another schedule, because config.json has only the latest one.
    """
    steps = np.unique(np.linspace(0, last_step - 1, 1_000).astype(int))
    rates = make_schedule(config.optimizer, config.train.steps)(jnp.asarray(steps))
    rates = np.broadcast_to(np.asarray(rates), steps.shape)
    return list(zip((steps + 1).tolist(), rates.tolist(), strict=True))


def read_diagnostics(folder: Path, parameter_order: list[str]) -> Diagnostics | None:
    """Read the layer statistics so far. None if the run has no train.diagnose_every.

    Matrices are returned in `parameter_order`, a list of parameter names.
    """
    lines = [line for line in _read_metrics(folder) if "update_to_data" in line]
    if not lines:
        return None

    def series(kind: str, names: list[str]) -> dict[str, list[float]]:
        values = {name: [line[kind].get(name) for line in lines] for name in names}
        return {name: [np.nan if v is None else v for v in vs] for name, vs in values.items()}

    first, last = lines[0], lines[-1]
    layers = list(last["saturated"])
    matrices = [name for name in parameter_order if name in last["gradients"]]
    return Diagnostics(
        steps=[line["step"] for line in lines],
        saturated=series("saturated", layers),
        dead=series("dead", layers),
        update_to_data=series("update_to_data", matrices),
        grad_to_data=series("grad_to_data", matrices),
        first=_snapshot(first, layers, matrices),
        last=_snapshot(last, layers, matrices),
    )


def parameter_order(model: nn.Module, block_size: int) -> list[str]:
    """Return the names of all parameters, such as 'h_0.mlp.c_fc.kernel', from input to output.

    Flax creates parameters in this order, but jax's transforms return dicts with sorted keys.
    """
    names: list[str] = []

    def init() -> Any:
        variables = model.init(jax.random.key(0), jnp.zeros((1, block_size), jnp.int32))
        names.extend(flatten_dict(variables["params"], sep="."))
        return variables

    jax.eval_shape(init)
    return names


def _snapshot(line: dict[str, Any], layers: list[str], matrices: list[str]) -> Snapshot:
    def finite(kind: str, names: list[str]) -> dict[str, Histogram]:
        histograms = {name: line[kind].get(name) for name in names}
        return {
            name: Histogram(**values)
            for name, values in histograms.items()
            if values and None not in values.values()
        }

    return Snapshot(
        step=line["step"],
        activations=finite("activations", layers),
        activation_gradients=finite("activation_gradients", layers),
        gradients=finite("gradients", matrices),
    )


def _read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the complete lines of metrics.jsonl. Others are skipped; an unreadable file has none."""
    try:
        written = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    except (OSError, UnicodeError):
        return []
    lines = []
    for line in written:
        try:
            values = json.loads(line)
        except ValueError:  # the last line, while a training writes it
            continue
        if _is_complete(values):
            lines.append(values)
    return lines


def _is_complete(values: Any) -> bool:
    """Return whether a line of metrics.jsonl has what `train.py` writes."""
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        return False
    if "train_loss" in values and "seconds" not in values:
        return False
    if "update_to_data" in values and not values.keys() >= DIAGNOSTICS:
        return False
    return all(
        isinstance(value, dict if name in DIAGNOSTICS else int | float | None)
        for name, value in values.items()
    )

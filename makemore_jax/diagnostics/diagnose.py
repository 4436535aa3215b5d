"""Diagnose a training step."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from makemore_jax import model_forms
from makemore_jax.data import Batch
from makemore_jax.diagnostics.statistics import histogram, saturated_and_dead, target_mask
from makemore_jax.diagnostics.taps import Tap, trace
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import sum_loss

Diagnose = Callable[[TrainState, Batch, Array], dict[str, dict[str, Any]]]


def make_diagnose(model: nn.Module, optimizer: optax.GradientTransformation) -> Diagnose:
    """Return the pure function (state, batch, dropout key) -> statistics of the next step.

    The state does not change. Each network of a mixture learns from its own loss on its own part of
    the batch. The result is JSON, with None for non-finite values:

        saturated, dead                     by layer, from `saturated_and_dead`
        activations, activation_gradients   by layer, from `histogram`
        grad_to_data, update_to_data        by parameter: standard deviation of the gradient, and of
                                            the update (with learning rate), divided by that of the
                                            parameter; None if all its entries are equal
        gradients                           by parameter with two axes or more, from `histogram`
    """

    model = model_forms.unrolled(model)

    @jax.jit
    def compute(state: TrainState, batch: Batch, dropout_key: Array) -> dict[str, Any]:
        if not hasattr(model, "networks"):
            grads, layers = _diagnose_network(model, state.variables, batch, dropout_key)
        else:
            grads, layers = {}, []
            keys = jax.random.split(dropout_key, model.networks)
            parts = jax.tree.map(lambda a: a.reshape(model.networks, -1, *a.shape[1:]), batch)
            for i in range(model.networks):
                network, name = model.network(parent=None), f"members_{i}"
                variables = {"params": state.params[name]}
                part = jax.tree.map(lambda a, i=i: a[i], parts)
                grads[name], own = _diagnose_network(network, variables, part, keys[i], f"{name}.")
                layers += own
        updates, _ = optimizer.update(grads, state.opt_state, state.params)
        return _layer_statistics(layers) | _parameter_statistics(state.params, grads, updates)

    def diagnose(state: TrainState, batch: Batch, dropout_key: Array) -> dict[str, dict[str, Any]]:
        return jax.tree.map(_to_json, jax.device_get(compute(state, batch, dropout_key)))

    return diagnose


class _Layer(NamedTuple):
    """A nonlinearity, its values and their gradients."""

    tap: Tap
    values: Array
    grads: Array
    mask: Array | None  # which values belong to a token with a target


def _diagnose_network(
    model: nn.Module, variables: Any, batch: Batch, dropout_key: Array, prefix: str = ""
) -> tuple[Any, list[_Layer]]:
    """Return the gradients of the mean loss with respect to the parameters, and the layers.

    `prefix` is prepended to the names of the layers.
    """
    key = model_forms.dropout_key(model, dropout_key)
    params = variables["params"]
    model_state = {name: tree for name, tree in variables.items() if name != "params"}

    def loss_of(params: Any) -> Array:
        return sum_loss(model, params, model_state, batch, key)[0]

    taps, tapped = trace(loss_of, params)
    zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in taps]
    sums, values = jax.grad(tapped, argnums=(0, 1), has_aux=True)(zeros, params)
    count = jnp.maximum((batch.targets != -1).sum(), 1).astype(jnp.float32)
    value_grads, grads = jax.tree.map(lambda g: g / count, sums)  # as in the training step
    masks = [target_mask(tap, batch.inputs, batch.targets) for tap in taps]
    taps = [tap._replace(name=prefix + tap.name) for tap in taps]
    return grads, list(map(_Layer, taps, values, value_grads, masks))


# The results are OrderedDicts because jit sorts the keys of a dict.


def _layer_statistics(layers: list[_Layer]) -> OrderedDict[str, OrderedDict[str, Any]]:
    kinds = ("saturated", "dead", "activations", "activation_gradients")
    result = OrderedDict((kind, OrderedDict()) for kind in kinds)
    for tap, y, dy, mask in layers:
        if mask is None:
            continue
        shares = saturated_and_dead(tap, y, mask)
        result["saturated"][tap.name], result["dead"][tap.name] = shares
        result["activations"][tap.name] = histogram(y, mask)
        result["activation_gradients"][tap.name] = histogram(dy, mask)
    return result


def _parameter_statistics(
    params: Any, grads: Any, updates: Any
) -> OrderedDict[str, OrderedDict[str, Any]]:
    kinds = ("grad_to_data", "update_to_data", "gradients")
    result = OrderedDict((kind, OrderedDict()) for kind in kinds)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    trees = (jax.tree.leaves(tree) for tree in (grads, updates))
    for (path, p), dp, update in zip(leaves, *trees, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        # Rounding gives equal numbers a tiny standard deviation instead of 0.
        std = jnp.where(p.std() > 1e-6 * jnp.abs(p).max(), p.std(), jnp.nan)
        result["grad_to_data"][name] = dp.std() / std
        result["update_to_data"][name] = update.std() / std
        if p.ndim > 1:
            result["gradients"][name] = histogram(dp, jnp.ones((), bool))
    return result


def _to_json(a: np.ndarray) -> float | list[int] | None:
    """Convert a number or an array of counts. JSON has no nan and no infinity."""
    if a.ndim:
        return a.tolist()
    return float(a) if math.isfinite(a) else None

"""Diagnose a training step."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

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

    The state does not change. The result is JSON, with None for non-finite values:

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
        inputs, targets, *_ = batch
        key = model_forms.dropout_key(model, dropout_key)

        def loss_of(params: Any) -> Array:
            return sum_loss(model, params, state.model_state, batch, key)[0]

        taps, tapped = trace(loss_of, state.params)
        zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in taps]
        gradient = jax.grad(tapped, argnums=(0, 1), has_aux=True)
        sums, values = gradient(zeros, state.params)
        count = jnp.maximum((targets != -1).sum(), 1).astype(jnp.float32)
        value_grads, grads = jax.tree.map(lambda g: g / count, sums)  # as in the training step
        updates, _ = optimizer.update(grads, state.opt_state, state.params)
        masks = [target_mask(tap, inputs, targets) for tap in taps]
        return _layer_statistics(taps, values, value_grads, masks) | _parameter_statistics(
            state.params, grads, updates
        )

    def diagnose(state: TrainState, batch: Batch, dropout_key: Array) -> dict[str, dict[str, Any]]:
        return jax.tree.map(_to_json, jax.device_get(compute(state, batch, dropout_key)))

    return diagnose


# The results are OrderedDicts because jit sorts the keys of a dict.


def _layer_statistics(
    taps: list[Tap], values: list[Array], grads: list[Array], masks: list[Array | None]
) -> OrderedDict[str, OrderedDict[str, Any]]:
    kinds = ("saturated", "dead", "activations", "activation_gradients")
    result = OrderedDict((kind, OrderedDict()) for kind in kinds)
    for tap, y, dy, mask in zip(taps, values, grads, masks, strict=True):
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

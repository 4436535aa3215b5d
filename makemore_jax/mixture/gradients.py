"""The gradients of a mixture: each network learns from its own part of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from makemore_jax.data import Split
from makemore_jax.training.step import GradientFn, Sums


def each_network(gradient_fn: GradientFn, num_networks: int) -> GradientFn:
    """Apply the gradient function of one network to all networks, one after the other.

    A step costs as much as a step of one network with the whole batch. XLA compiles one network.
    """

    def gradients(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        params = variables["params"]
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *params.values())
        args = stacked, indices.reshape(num_networks, -1), jax.random.split(key, num_networks)
        sums = jax.lax.map(lambda arg: gradient_fn({"params": arg[0]}, split, *arg[1:]), args)
        # The step divides by the number of all targets, each network has only a part of them.
        count = sums.count.sum()
        scale = count / jnp.maximum(sums.count, 1)
        grads = {
            name: jax.tree.map(lambda g: g[i] * scale[i], sums.grads)  # noqa: B023
            for i, name in enumerate(params)
        }
        return Sums(sums.loss.sum(), count, grads, model_state)

    return gradients

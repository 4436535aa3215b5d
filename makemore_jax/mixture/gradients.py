"""The gradients of a mixture: each network learns from its own part of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from makemore_jax.data import Split
from makemore_jax.kernels.layer_loop import stack, unstack
from makemore_jax.training.step import GradientFn, Sums


def each_network(gradient_fn: GradientFn, num_networks: int) -> GradientFn:
    """Apply the gradient function of one network to all networks, one after the other.

    The loss is the mean of the networks' losses, not the loss of the mixture. A step costs as much
    as a step of one network with the whole batch. XLA compiles one network.
    """

    def gradients(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        params = variables["params"]
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        stacked = stack(params, "members")["members_stacked"]
        args = stacked, indices.reshape(num_networks, -1), jax.random.split(key, num_networks)
        sums = jax.lax.map(lambda arg: gradient_fn({"params": arg[0]}, split, *arg[1:]), args)
        # The step divides by the number of all targets. Scale each network's gradient so that it
        # is divided by the number of its own targets.
        count = sums.count.sum()
        scale = count / jnp.maximum(sums.count, 1)
        scaled = jax.tree.map(lambda g: jax.vmap(jnp.multiply)(g, scale), sums.grads)
        grads = {"members_stacked": scaled}
        if "members_stacked" not in params:
            grads = unstack(grads, "members", num_networks)
        return Sums(sums.loss.sum(), count, grads, model_state)

    return gradients

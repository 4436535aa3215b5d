"""Training steps on a state whose layers are stacked, for models with a loop over layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from optax.contrib import MuonState

from makemore_jax.kernels.layer_loop import stack, unstack
from makemore_jax.mixture.model import Mixture

NS_STEPS = 5  # iterations of Newton-Schulz in Muon: the default of optax


def stacked_sizes(model: nn.Module) -> dict[str, int]:
    """Return {name: number} of the parts of a state to stack; {} without a loop over layers.

    They are the layers (`h`), and then the networks of a mixture (`members`). The order matters:
    each name adds a new first axis.
    """
    if getattr(model, "layer_loop", None) != "scan":
        return {}
    layers = {"h": model.n_layer}
    return layers | {"members": model.networks} if isinstance(model, Mixture) else layers


def with_stacked_state(train_steps: Callable, sizes: dict[str, int]) -> Callable:
    """Make compiled training steps (`training.step.make_train_steps`) work on a stacked state.

    The state is stacked once per call instead of once per step. The optimizer updates all layers
    and networks in one operation per parameter. A call needs memory for a second copy of the state.
    """

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def stacked_steps(state: Any, split: Any, key: Array, num_steps: int) -> tuple[Any, Any]:
        for name in sizes:
            state = stack(state, name)
        state = _with_coefficients(state, lambda row: jnp.broadcast_to(row, (NS_STEPS, 3)))
        state, metrics = train_steps(state, split, key, num_steps)
        state = _with_coefficients(state, lambda rows: rows[0])
        for name, num in reversed(sizes.items()):
            state = unstack(state, name, num)
        return state, metrics

    return stacked_steps


def _with_coefficients(state: Any, replace: Callable[[Array], Array]) -> Any:
    """Change the shape of the coefficients of Muon's Newton-Schulz iteration.

    Given (3,), optax unrolls the iterations, and XLA:TPU compiles each. Given one row for each
    iteration, it loops over the rows.
    """

    def replaced(node: Any) -> Any:
        return node._replace(ns_coeffs=replace(node.ns_coeffs)) if is_muon(node) else node

    def is_muon(node: Any) -> bool:
        return isinstance(node, MuonState)

    return jax.tree.map(replaced, state, is_leaf=is_muon)

"""Equal layers in one compiled loop.

XLA compiles one layer instead of every layer, which shortens compilation on TPU (docs/tpu.md). A
checkpoint has one tree of parameters per layer, `h_0`, `h_1` and so on. The loop reads them stacked
along a new first axis, as one tree `h_stacked`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

STACKED = "h_stacked"


def scan_layers(
    layer: nn.Module, params: Any, x: Array, *args: Any, dropout_key: Array | None = None
) -> Array:
    """Apply a layer to x once for each entry of its stacked params, with the same further args.

    `dropout_key` is split into one key per layer, so the dropout masks differ from
    those of unrolled layers.
    """
    num_layers = len(jax.tree.leaves(params)[0])
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_layers)
    apply = layer.clone(parent=None).apply

    def body(x: Array, params_and_key: tuple[Any, Array | None]) -> tuple[Array, None]:
        params, key = params_and_key
        rngs = {} if key is None else {"dropout": key}
        return apply({"params": params}, x, *args, rngs=rngs), None

    return jax.lax.scan(body, x, (params, keys))[0]


def scan_layers_step(
    layer: nn.Module, params: Any, caches: Any, x: Array, position: Array
) -> tuple[Any, Array]:
    """Apply `step` of a layer once for each entry of its stacked params. Return new caches and x.

    The caches of all layers are stacked along their first axis.
    """
    apply = layer.clone(parent=None).apply

    def body(x: Array, params_and_cache: tuple[Any, Any]) -> tuple[Array, Any]:
        params, cache = params_and_cache
        cache, x = apply({"params": params}, cache, x, position, method="step")
        return x, cache

    x, caches = jax.lax.scan(body, x, (params, caches))
    return caches, x


def stack_layers(tree: Any, stack: Callable[..., Any] = lambda *a: jnp.stack(a)) -> Any:
    """Replace the layers in a tree by `h_stacked`, in all dicts that have them.

    `stack` merges the leaves of all layers. A tree whose layers are stacked stays as it is.
    """

    def replaced(node: Any) -> Any:
        if not _has_layers(node):
            return node
        layers = [node[f"h_{i}"] for i in range(sum(_is_layer(name) for name in node))]
        others = {name: value for name, value in node.items() if not _is_layer(name)}
        return others | {STACKED: jax.tree.map(stack, *layers)}

    return jax.tree.map(replaced, tree, is_leaf=_has_layers)


def unstack_layers(tree: Any, num_layers: int) -> Any:
    """Undo `stack_layers`."""

    def is_stacked(node: Any) -> bool:
        return isinstance(node, dict) and STACKED in node

    def replaced(node: Any) -> Any:
        if not is_stacked(node):
            return node
        others = {name: value for name, value in node.items() if name != STACKED}
        layers = {
            f"h_{i}": jax.tree.map(lambda a, i=i: a[i], node[STACKED]) for i in range(num_layers)
        }
        return others | layers

    return jax.tree.map(replaced, tree, is_leaf=is_stacked)


def _is_layer(name: str) -> bool:
    return name.startswith("h_") and name[2:].isdecimal()


def _has_layers(node: Any) -> bool:
    return isinstance(node, dict) and "h_0" in node


def with_stacked_layers(train_steps: Callable[..., Any], num_layers: int) -> Callable[..., Any]:
    """Make compiled training steps (`training.step.make_train_steps`) work on stacked layers.

    The state is stacked once per call, not once per step, and the optimizer updates all layers
    together. A call needs memory for one more copy of the state.
    """

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def stacked_steps(state: Any, split: Any, key: Array, num_steps: int) -> tuple[Any, Any]:
        state, metrics = train_steps(stack_layers(state), split, key, num_steps)
        return unstack_layers(state, num_layers), metrics

    return stacked_steps

"""Layers of the same shapes in one compiled loop.

XLA compiles one layer instead of every layer, which shortens compilation on TPU (docs/tpu.md). A
checkpoint has one tree of parameters per layer, `h_0`, `h_1` and so on. The loop reads them stacked
along a new first axis, as one tree `h_stacked`. The networks of a mixture are stacked in the same
way.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def scan_layers(
    layer: nn.Module, params: Any, x: Array, *args: Any, dropout_key: Array | None = None
) -> Array:
    """Apply the layers to x one after another, all with the same `args`.

    `layer` is any of them. `params` has the parameters of all, stacked along a new first axis.
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
    """Apply `step` of the layers one after another. Return the new caches and x.

    `params` and `caches` are those of all layers, stacked along a new first axis.
    """
    apply = layer.clone(parent=None).apply

    def body(x: Array, params_and_cache: tuple[Any, Any]) -> tuple[Array, Any]:
        params, cache = params_and_cache
        cache, x = apply({"params": params}, cache, x, position, method="step")
        return x, cache

    x, caches = jax.lax.scan(body, x, (params, caches))
    return caches, x


def stack(tree: Any, name: str, merge: Callable[..., Any] = lambda *a: jnp.stack(a)) -> Any:
    """Replace `name`_0, `name`_1 and so on by `name`_stacked, in all dicts of a tree.

    `merge` combines the corresponding leaves of all of them; by default it stacks arrays along a
    new first axis. A tree that is stacked already stays as it is.
    """

    def replaced(node: Any) -> Any:
        if not _has(node, f"{name}_0"):
            return node
        parts = {key for key in node if re.fullmatch(rf"{name}_\d+", key)}
        others = {key: value for key, value in node.items() if key not in parts}
        in_order = [node[f"{name}_{i}"] for i in range(len(parts))]
        return others | {f"{name}_stacked": jax.tree.map(merge, *in_order)}

    return jax.tree.map(replaced, tree, is_leaf=lambda node: _has(node, f"{name}_0"))


def unstack(tree: Any, name: str, num: int) -> Any:
    """Undo `stack` of `num` parts."""
    stacked = f"{name}_stacked"

    def replaced(node: Any) -> Any:
        if not _has(node, stacked):
            return node
        others = {key: value for key, value in node.items() if key != stacked}
        parts = {
            f"{name}_{i}": jax.tree.map(lambda a, i=i: a[i], node[stacked]) for i in range(num)
        }
        return others | parts

    return jax.tree.map(replaced, tree, is_leaf=lambda node: _has(node, stacked))


def _has(node: Any, key: str) -> bool:
    return isinstance(node, dict) and key in node

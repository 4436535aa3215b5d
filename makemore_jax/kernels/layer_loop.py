"""Equal layers in one compiled loop.

XLA compiles one layer instead of every layer, which shortens compilation on TPU (docs/tpu.md). The
tree of parameters stays one tree per layer; the loop stacks them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def scan_layers(
    layers: list[nn.Module], x: Array, *args: Any, dropout_key: Array | None = None
) -> Array:
    """Apply bound layers one after another to x, each with the same further arguments.

    `dropout_key` is split into one key per layer, so the dropout masks differ from
    those of unrolled layers.
    """
    keys = None if dropout_key is None else jax.random.split(dropout_key, len(layers))
    apply = layers[0].clone(parent=None).apply

    def body(x: Array, params_and_key: tuple[Any, Array | None]) -> tuple[Array, None]:
        params, key = params_and_key
        rngs = {} if key is None else {"dropout": key}
        return apply({"params": params}, x, *args, rngs=rngs), None

    return jax.lax.scan(body, x, (_stack_params(layers), keys))[0]


def scan_layers_step(
    layers: list[nn.Module], caches: Any, x: Array, position: Array
) -> tuple[Any, Array]:
    """Apply `step` of bound layers one after another. Return the new caches and x.

    The caches of all layers are stacked along their first axis.
    """
    apply = layers[0].clone(parent=None).apply

    def body(x: Array, params_and_cache: tuple[Any, Any]) -> tuple[Array, Any]:
        params, cache = params_and_cache
        cache, x = apply({"params": params}, cache, x, position, method="step")
        return x, cache

    x, caches = jax.lax.scan(body, x, (_stack_params(layers), caches))
    return caches, x


def _stack_params(layers: list[nn.Module]) -> Any:
    """Return the parameters of all layers, stacked along a new first axis."""
    return jax.tree.map(lambda *a: jnp.stack(a), *(m.variables["params"] for m in layers))

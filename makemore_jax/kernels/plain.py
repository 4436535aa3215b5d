"""The plain reference of every kernel: the same names, signatures and results up to rounding.

The functions of `packing.py` and `precision.py` have one form only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.kernels.packing import (
    causal_mask,
    prepend_previous_row,
    shift_right,
    token_positions,
)
from makemore_jax.kernels.precision import at_least_float32

__all__ = [
    "at_least_float32",
    "attention",
    "causal_mask",
    "decode_attention",
    "embed_linear",
    "matmul",
    "prepend_previous_row",
    "scan_layers",
    "scan_layers_step",
    "shift_right",
    "standardize",
    "token_positions",
]


def matmul(x: Array, kernel: Array) -> Array:
    """Return x @ kernel. (N, n_in), (n_in, n_out) -> (N, n_out)"""
    return x @ kernel


def embed_linear(table: Array, kernel: Array, bias: Array, tokens: Array) -> Array:
    """Return the linear layer of k concatenated embeddings. (..., k) -> (..., n_out)"""
    return table[tokens].reshape(*tokens.shape[:-1], -1) @ kernel + bias


def standardize(x: Array) -> Array:
    """Return rows with mean 0 and variance 1. (N, C) -> (N, C)"""
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / jnp.sqrt(variance + 1e-5)


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    dropout_mask_fn: Callable[[Array], Array] | None = None,
    blockwise: bool = True,
) -> Array:
    """Return softmax(q k^T / sqrt(hs)) v. (B, T, nh, hs), (B, S, nh, hs) -> (B, T, nh, hs)"""
    weights = _masked_softmax(jnp.einsum("btnh,bsnh->bnts", q, k), mask[:, None], q)
    if dropout_mask_fn is not None:
        weights = weights * dropout_mask_fn(jnp.ones_like(weights))
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def decode_attention(
    q: Array, keys: Array, values: Array, position: Array, num_heads: int, blockwise: bool = True
) -> Array:
    """Return the attention of one query to a cache. (B, C), (T, B, C) -> (B, C)"""
    q, k, v = (a.reshape(*a.shape[:-1], num_heads, -1) for a in (q, keys, values))
    mask = jnp.arange(len(k)) <= position
    weights = _masked_softmax(jnp.einsum("bnh,sbnh->bns", q, k), mask, q)
    return jnp.einsum("bns,sbnh->bnh", weights, v).reshape(len(q), -1)


def _masked_softmax(scores: Array, mask: Array, q: Array) -> Array:
    """Return softmax(scores / sqrt(hs)) in float32, then in the dtype of q."""
    scores = at_least_float32(scores) / q.shape[-1] ** 0.5
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)).astype(q.dtype)


def scan_layers(
    layer: nn.Module, params: Any, x: Array, *args: Any, dropout_key: Array | None = None
) -> Array:
    """Apply the layers to x one after another; `params` has those of all layers, stacked."""
    has_dropout = dropout_key is not None
    num_layers = len(jax.tree.leaves(params)[0])
    keys = jax.random.split(dropout_key, num_layers) if has_dropout else [None] * num_layers
    for i, key in enumerate(keys):
        rngs = {"dropout": key} if has_dropout else {}
        x = layer.clone(parent=None).apply({"params": _entry(params, i)}, x, *args, rngs=rngs)
    return x


def scan_layers_step(
    layer: nn.Module, params: Any, caches: Any, x: Array, position: Array
) -> tuple[Any, Array]:
    """Apply `step` of the layers one after another, with stacked params and caches."""
    new_caches, step = [], layer.clone(parent=None).apply
    for i in range(len(jax.tree.leaves(params)[0])):
        variables = {"params": _entry(params, i)}
        cache, x = step(variables, _entry(caches, i), x, position, method="step")
        new_caches.append(cache)
    return jax.tree.map(lambda *a: jnp.stack(a), *new_caches), x


def _entry(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda a: a[i], tree)

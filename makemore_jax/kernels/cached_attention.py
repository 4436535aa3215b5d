"""Attention of one query to a partly filled KV cache."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from makemore_jax.kernels.blocked_attention import masked_softmax


def decode_attention(
    q: Array, keys: Array, values: Array, position: Array, num_heads: int, blockwise: bool = True
) -> Array:
    """Return the attention of one query to a cache. (B, C), (T, B, C) -> (B, C)

    Entries after `position` are masked. Time is the cache's first axis, so that writing a row
    updates it in place. With `blockwise`, read only the quarters of the cache that are
    in use, which is faster on a CPU.
    """

    def split_heads(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], num_heads, -1)  # (..., C) -> (..., nh, hs)

    def attend(size: int) -> Array:
        """Attend to the first `size` entries. (B, C)"""
        k, v = split_heads(keys[:size]), split_heads(values[:size])
        scores = jnp.einsum("bnh,sbnh->bns", split_heads(q), k) * k.shape[-1] ** -0.5
        weights = masked_softmax(scores, jnp.arange(size) <= position).astype(v.dtype)
        return jnp.einsum("bns,sbnh->bnh", weights, v).reshape(q.shape)

    T = len(keys)
    if not blockwise:
        return attend(T)
    sizes = [-(-T * i // 4) for i in range(1, 5)]
    quarter = sum((position >= size).astype(jnp.int32) for size in sizes[:-1])
    return jax.lax.switch(quarter, [partial(attend, size) for size in sizes])

"""A linear layer of concatenated embeddings, computed once per vocabulary entry."""

import jax
import jax.numpy as jnp
from jax import Array

from makemore_jax.kernels.tall_matmul import matmul


def embed_linear(table: Array, kernel: Array, bias: Array, tokens: Array) -> Array:
    """Return the linear layer of k concatenated embeddings. (..., k) -> (..., n_out)

    table (V, C), kernel (k * C, n_out), bias (n_out,).

    First multiply the table with each position's part of the kernel. Then add up the rows that the
    tokens select, as a product with a one-hot matrix. That product has k * V terms per output. A
    lookup of the embeddings before the layer has k * C, and is used if V > C. Without this kernel
    the mlp's training step takes 1.52 times as long on names (V = 27, C = 64).
    """
    V, C = table.shape
    k = tokens.shape[-1]
    if V > C:
        y = matmul(table[tokens].reshape(-1, k * C), kernel) + bias
    else:
        products = jnp.einsum("vc,kch->kvh", table, kernel.reshape(k, C, -1))
        one_hot = jax.nn.one_hot(tokens.reshape(-1, k), V, dtype=table.dtype)  # (N, k, V)
        y = one_hot.reshape(-1, k * V) @ products.reshape(k * V, -1) + bias
    return y.reshape(*tokens.shape[:-1], -1)

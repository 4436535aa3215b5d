"""Layers with PyTorch's initial values, and the kernels that all families use.

This is the only file of the models that imports `kernels`. `kernels/plain.py` has a plain reference
of each kernel and can replace the package.
"""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax import kernels

Positions = Array | None  # of each token in its line (B, T); None if each row is one line


class Linear(nn.Module):
    """torch.nn.Linear: weight and bias uniform within 1 / sqrt(n_in). (..., n_in) -> (..., n_out)

    With `std`, weights are N(0, std) and biases 0. The product is computed in the dtype of x, with
    all axes but the last merged: XLA:CPU is slower for (B, T, C) than for (B * T, C).
    """

    n_in: int
    n_out: int
    use_bias: bool = True
    std: float | None = None

    def setup(self):
        bound = self.n_in**-0.5

        def symmetric_uniform(key, shape, dtype=jnp.float32):
            return init.uniform(2 * bound)(key, shape, dtype) - bound

        kernel_init = bias_init = symmetric_uniform
        if self.std:
            kernel_init, bias_init = init.normal(self.std), init.zeros
        self.kernel = self.param("kernel", kernel_init, (self.n_in, self.n_out))
        if self.use_bias:
            self.bias = self.param("bias", bias_init, (self.n_out,))

    def __call__(self, x: Array) -> Array:
        y = kernels.matmul(x.reshape(-1, self.n_in), self.kernel.astype(x.dtype))
        y = y + self.bias.astype(x.dtype) if self.use_bias else y
        return y.reshape(*x.shape[:-1], self.n_out)


def embedding(n: int, n_embd: int, std: float = 1.0) -> nn.Embed:
    """torch.nn.Embedding: a table of n rows, N(0, std)."""
    return nn.Embed(n, n_embd, embedding_init=init.normal(std))


class LayerNorm(nn.Module):
    """torch.nn.LayerNorm (Ba et al. 2016, section 3). (..., C) -> (..., C)

    It computes in float32 or wider and returns the dtype of its input.
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        C = x.shape[-1]
        y = kernels.standardize(kernels.at_least_float32(x).reshape(-1, C))
        y = y * self.param("scale", init.ones, (C,))
        y = y + self.param("bias", init.zeros, (C,)) if self.use_bias else y
        return y.reshape(x.shape).astype(x.dtype)

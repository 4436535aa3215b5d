"""Flax's layers with PyTorch's defaults, so that a run here and a run there start alike."""

from flax import linen as nn
from flax.linen import initializers as init


def linear(n_in: int, n_out: int, use_bias: bool = True) -> nn.Dense:
    """torch.nn.Linear: weight and bias uniform within 1 / sqrt(n_in)."""
    bound = n_in**-0.5

    def symmetric_uniform(key, shape, dtype):
        return init.uniform(2 * bound)(key, shape, dtype) - bound

    return nn.Dense(n_out, use_bias, kernel_init=symmetric_uniform, bias_init=symmetric_uniform)


def embedding(n: int, n_embd: int) -> nn.Embed:
    """torch.nn.Embedding: a table of n rows, N(0, 1)."""
    return nn.Embed(n, n_embd, embedding_init=init.normal(1.0))


def layer_norm() -> nn.LayerNorm:
    """torch.nn.LayerNorm: eps 1e-5, and the variance by its definition, which keeps its digits."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)

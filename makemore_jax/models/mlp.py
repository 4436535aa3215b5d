"""MLP: the last `block_size` tokens, their embeddings concatenated, and one hidden layer.

Bengio et al. 2003, A Neural Probabilistic Language Model, section 2 (without the direct
connections from the embeddings to the output).
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import Linear, Positions, embedding, kernels


class MLP(nn.Module):
    """Reads the current token and the block_size - 1 tokens before it, the nearest first."""

    vocab_size: int
    block_size: int
    n_embd: int
    n_embd2: int

    def setup(self):
        # The last row is the embedding of positions before the line begins.
        self.wte = embedding(self.vocab_size + 1, self.n_embd)
        self.mlp_0 = Linear(self.block_size * self.n_embd, self.n_embd2)
        self.mlp_2 = Linear(self.n_embd2, self.vocab_size)

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        positions = kernels.token_positions(tokens, positions)
        shift = partial(kernels.shift_right, tokens, positions=positions, fill=self.vocab_size)
        context = [shift(n) for n in range(self.block_size)]
        return self._logits(jnp.stack(context, axis=-1))  # (B, T, block_size) -> (B, T, V)

    def init_carry(self, batch_size: int) -> Array:
        """Return the last `block_size` tokens, the nearest first: none so far. (B, block_size)"""
        return jnp.full((batch_size, self.block_size), self.vocab_size)

    def step(self, carry: Array, token: Array) -> tuple[Array, Array]:
        context = jnp.concatenate([token[:, None], carry[:, :-1]], axis=1)
        return context, self._logits(context)

    def _logits(self, context: Array) -> Array:
        """Return the logits after tokens in order of distance. (..., block_size) -> (..., V)"""
        x = kernels.embed_linear(self.wte.embedding, self.mlp_0.kernel, self.mlp_0.bias, context)
        return self.mlp_2(jnp.tanh(x))

"""MLP: the last `block_size` characters, embedded side by side, through one hidden layer.

Bengio et al. 2003, A Neural Probabilistic Language Model, section 2 (without the direct
connections from the embeddings to the output).
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import Linear, ago, embedding, linear_of_embedded, where_in_line


class MLP(nn.Module):
    """Sees the current token and the block_size - 1 before it, the nearest first."""

    vocab_size: int
    block_size: int
    n_embd: int
    n_embd2: int

    def setup(self):
        # The row after the vocabulary stands for what lies before the start of a line.
        self.wte = embedding(self.vocab_size + 1, self.n_embd)
        self.mlp_0 = Linear(self.block_size * self.n_embd, self.n_embd2)
        self.mlp_2 = Linear(self.n_embd2, self.vocab_size)

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        where = where_in_line(tokens, positions)
        context = [ago(tokens, n, where, blank=self.vocab_size) for n in range(self.block_size)]
        return self._logits(jnp.stack(context, axis=-1))  # (B, T, block_size) -> (B, T, V)

    def init_carry(self, batch_size: int) -> Array:
        """The last `block_size` tokens, the nearest first: all blank. (B, block_size)"""
        return jnp.full((batch_size, self.block_size), self.vocab_size)

    def step(self, carry: Array, token: Array) -> tuple[Array, Array]:
        context = jnp.concatenate([token[:, None], carry[:, :-1]], axis=1)
        return context, self._logits(context)

    def _logits(self, context: Array) -> Array:
        """(..., block_size) tokens, the nearest first -> (..., V)"""
        x = linear_of_embedded(self.mlp_0, self.wte.embedding, context)
        return self.mlp_2(jnp.tanh(x))

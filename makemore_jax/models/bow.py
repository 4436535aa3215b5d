"""BoW: the average of all embeddings so far, which is attention with equal weights."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import Linear, Positions, embedding, kernels


class MLP(nn.Module):
    """The two-layer perceptron of the block."""

    n_embd: int
    n_embd2: int

    def setup(self):
        self.c_fc = Linear(self.n_embd, self.n_embd2)
        self.c_proj = Linear(self.n_embd2, self.n_embd)

    def __call__(self, x: Array) -> Array:
        return self.c_proj(jnp.tanh(self.c_fc(x)))


class ContextBlock(nn.Module):
    """Adds to each position the average of the positions up to it, then an MLP of the sum."""

    n_embd: int
    n_embd2: int

    def setup(self):
        self.mlp = MLP(self.n_embd, self.n_embd2)

    def __call__(self, x: Array, average: Array) -> Array:
        x = x + average
        return x + self.mlp(x)


class BoW(nn.Module):
    """A causal bag of words with positions."""

    vocab_size: int
    block_size: int
    n_embd: int
    n_embd2: int

    def setup(self):
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.wpe = embedding(self.block_size, self.n_embd)
        self.context_block = ContextBlock(self.n_embd, self.n_embd2)
        self.lm_head = Linear(self.n_embd, self.vocab_size)

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        t = kernels.token_positions(tokens, positions)
        x = self.wte(tokens) + self.wpe(t)  # (B, T, C)
        weights = kernels.causal_mask(tokens.shape[1], positions) / (t + 1)[..., None]
        weights = jnp.broadcast_to(weights, (len(tokens), *weights.shape[1:]))
        average = weights @ kernels.prepend_previous_row(x, positions)
        return self.lm_head(self.context_block(x, average))

    def init_carry(self, batch_size: int) -> tuple[Array, Array]:
        """Return the sum of the embeddings so far (B, C) and their number ()."""
        return jnp.zeros((batch_size, self.n_embd)), jnp.zeros((), jnp.int32)

    def step(self, carry: tuple[Array, Array], token: Array) -> tuple[tuple[Array, Array], Array]:
        total, count = carry
        x = self.wte(token) + self.wpe(count)
        total, count = total + x, count + 1
        return (total, count), self.lm_head(self.context_block(x, total / count))

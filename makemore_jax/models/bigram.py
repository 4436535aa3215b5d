"""Bigram: the logits of the next token are a row of a table, selected by the current token."""

from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax.models.layers import Positions


class Bigram(nn.Module):
    """One logit for each pair of tokens: a lookup table, learned by gradient descent."""

    vocab_size: int

    def setup(self):
        self.logits = self.param("logits", init.zeros, (self.vocab_size, self.vocab_size))

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        return self.logits[tokens]  # (B, T, V)

    def init_carry(self, batch_size: int) -> tuple[()]:
        """Return an empty carry: a bigram depends on the current token only."""
        return ()

    def step(self, carry: tuple[()], token: Array) -> tuple[tuple[()], Array]:
        return carry, self.logits[token]

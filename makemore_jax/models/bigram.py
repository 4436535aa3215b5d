"""Bigram: the next character looked up in a table by the current one."""

from flax import linen as nn
from flax.linen import initializers as init
from jax import Array


class Bigram(nn.Module):
    """One logit for each pair of tokens: a lookup table, learnt by gradient descent."""

    vocab_size: int

    def setup(self):
        self.logits = self.param("logits", init.zeros, (self.vocab_size, self.vocab_size))

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        return self.logits[tokens]  # (B, T, V)

    def init_carry(self, batch_size: int) -> tuple[()]:
        """A bigram remembers nothing."""
        return ()

    def step(self, carry: tuple[()], token: Array) -> tuple[tuple[()], Array]:
        return carry, self.logits[token]

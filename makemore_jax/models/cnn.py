"""CNN: dilated causal convolutions, each layer reaching twice as far back as the one before.

van den Oord et al. 2016, WaveNet, arXiv:1609.03499: dilated causal convolutions (section 2.1),
gated units (equation 2), residual and skip connections (section 2.4). Before the output stands
GELU where the paper has ReLU: at the kink of a ReLU rounding decides whether a unit is on, and two
runs that differ in rounding alone drift apart (docs/parity.md).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import Linear, ago, embedding, where_in_line

_gelu = partial(nn.gelu, approximate=True)


class CausalConv(nn.Module):
    """A convolution of two taps, `dilation` apart: now, and so many steps ago (0 before a line).

    Two taps are one linear layer on the two inputs side by side.
    """

    n_in: int
    n_out: int
    dilation: int

    def setup(self):
        self.linear = Linear(2 * self.n_in, self.n_out)

    def __call__(self, x: Array, where: Array) -> Array:
        before = ago(x, self.dilation, where)
        return self.linear(jnp.concatenate([before, x], axis=-1))  # (B, T, n_in) -> (B, T, n_out)

    def init_carry(self, batch_size: int) -> Array:
        """The inputs of the last `dilation` steps, the oldest first. (B, dilation, n_in)"""
        return jnp.zeros((batch_size, self.dilation, self.n_in))

    def step(self, carry: Array, x: Array) -> tuple[Array, Array]:
        y = self.linear(jnp.concatenate([carry[:, 0], x], axis=-1))
        return jnp.concatenate([carry[:, 1:], x[:, None]], axis=1), y


class Block(nn.Module):
    """A gated convolution, whose result is added to the stream and handed to the output."""

    n_embd: int
    n_embd2: int
    dilation: int
    is_last: bool  # nothing reads the stream after it

    def setup(self):
        self.conv = CausalConv(self.n_embd, 2 * self.n_embd2, self.dilation)
        if not self.is_last:
            self.residual = Linear(self.n_embd2, self.n_embd)
        self.skip = Linear(self.n_embd2, self.n_embd2)

    def __call__(self, x: Array, where: Array) -> tuple[Array, Array]:
        return self._gated(x, self.conv(x, where))

    def init_carry(self, batch_size: int) -> Array:
        """What the convolution still needs."""
        return self.conv.init_carry(batch_size)

    def step(self, carry: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
        carry, y = self.conv.step(carry, x)
        return carry, self._gated(x, y)

    def _gated(self, x: Array, y: Array) -> tuple[Array, Array]:
        signal, gate = jnp.split(y, 2, axis=-1)
        z = jnp.tanh(signal) * jax.nn.sigmoid(gate)
        return x if self.is_last else x + self.residual(z), self.skip(z)


class CNN(nn.Module):
    """Layer i reaches 2**i steps back, so n_layer of them see the last 2**n_layer tokens."""

    vocab_size: int
    n_layer: int
    n_embd: int
    n_embd2: int

    def setup(self):
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.h = [
            Block(self.n_embd, self.n_embd2, 2**i, is_last=i == self.n_layer - 1)
            for i in range(self.n_layer)
        ]
        self.c_proj = Linear(self.n_embd2, self.n_embd2)
        self.lm_head = Linear(self.n_embd2, self.vocab_size)

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        x, skips = self.wte(tokens), 0.0  # (B, T, C)
        where = where_in_line(tokens, positions)
        for block in self.h:
            x, skip = block(x, where)
            skips = skips + skip
        return self._logits(skips)

    def init_carry(self, batch_size: int) -> list[Array]:
        """What each layer still needs of the past."""
        return [block.init_carry(batch_size) for block in self.h]

    def step(self, carry: list[Array], token: Array) -> tuple[list[Array], Array]:
        x, skips, new_carry = self.wte(token), 0.0, []
        for block, past in zip(self.h, carry, strict=True):
            past, (x, skip) = block.step(past, x)
            new_carry.append(past)
            skips = skips + skip
        return new_carry, self._logits(skips)

    def _logits(self, skips: Array) -> Array:
        return self.lm_head(_gelu(self.c_proj(_gelu(skips))))

"""CNN: dilated causal convolutions. Each layer doubles the number of visible tokens.

van den Oord et al. 2016, WaveNet, arXiv:1609.03499: dilated causal convolutions (section 2.1),
gated units (equation 2), residual and skip connections (section 2.4). The output layers use GELU
instead of the paper's ReLU. At the kink of ReLU, rounding decides whether a unit is active, so two
runs that differ only in rounding drift apart (docs/parity.md).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import Linear, Positions, embedding, kernels


class CausalConv(nn.Module):
    """A convolution with two taps: the input now and `dilation` steps earlier (0 before a line).

    Two taps are one linear layer of both inputs, concatenated.
    """

    n_in: int
    n_out: int
    dilation: int

    def setup(self):
        self.linear = Linear(2 * self.n_in, self.n_out)

    def __call__(self, x: Array, positions: Array) -> Array:
        earlier = kernels.shift_right(x, self.dilation, positions)
        return self.linear(jnp.concatenate([earlier, x], axis=-1))  # (B, T, n_in) -> (B, T, n_out)

    def init_carry(self, batch_size: int) -> Array:
        """Return the inputs of the last `dilation` steps, oldest first. (B, dilation, n_in)"""
        return jnp.zeros((batch_size, self.dilation, self.n_in))

    def step(self, carry: Array, x: Array) -> tuple[Array, Array]:
        y = self.linear(jnp.concatenate([carry[:, 0], x], axis=-1))
        return jnp.concatenate([carry[:, 1:], x[:, None]], axis=1), y


class Block(nn.Module):
    """A gated convolution with two outputs: the residual stream and a skip connection."""

    n_embd: int
    n_embd2: int
    dilation: int
    is_last: bool  # the residual stream is not read afterwards

    def setup(self):
        self.conv = CausalConv(self.n_embd, 2 * self.n_embd2, self.dilation)
        if not self.is_last:
            self.residual = Linear(self.n_embd2, self.n_embd)
        self.skip = Linear(self.n_embd2, self.n_embd2)

    def __call__(self, x: Array, positions: Array) -> tuple[Array, Array]:
        return self._gated(x, self.conv(x, positions))

    def step(self, carry: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
        carry, y = self.conv.step(carry, x)
        return carry, self._gated(x, y)

    def _gated(self, x: Array, y: Array) -> tuple[Array, Array]:
        signal, gate = jnp.split(y, 2, axis=-1)
        z = jnp.tanh(signal) * jax.nn.sigmoid(gate)
        return x if self.is_last else x + self.residual(z), self.skip(z)


class CNN(nn.Module):
    """Layer i has dilation 2**i, so a logit depends on the last 2**n_layer tokens."""

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

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        x, skips = self.wte(tokens), 0.0  # (B, T, C)
        positions = kernels.token_positions(tokens, positions)
        for block in self.h:
            x, skip = block(x, positions)
            skips = skips + skip
        return self._logits(skips)

    def init_carry(self, batch_size: int) -> list[Array]:
        """Return the carry of each layer."""
        return [block.conv.init_carry(batch_size) for block in self.h]

    def step(self, carry: list[Array], token: Array) -> tuple[list[Array], Array]:
        x, skips, new_carry = self.wte(token), 0.0, []
        for block, block_carry in zip(self.h, carry, strict=True):
            block_carry, (x, skip) = block.step(block_carry, x)
            new_carry.append(block_carry)
            skips = skips + skip
        return new_carry, self._logits(skips)

    def _logits(self, skips: Array) -> Array:
        return self.lm_head(nn.gelu(self.c_proj(nn.gelu(skips))))

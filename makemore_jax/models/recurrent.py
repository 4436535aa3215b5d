"""RNN, GRU and LSTM: one cell that reads a token and updates a state.

RNN: Mikolov et al. 2010, Recurrent neural network based language model, section 2.
GRU: Cho et al. 2014, arXiv:1406.1078, section 2.3, with h = (1 - z) h_prev + z hbar and the reset
applied before the candidate's product. This is makemore's form; torch.nn.GRU and flax's GRUCell
apply the reset after the product.
LSTM: Graves 2013, arXiv:1308.0850, equations 7 to 11, without peephole connections.

The weights have makemore's shape: each linear layer `xh_to_*` reads the concatenation [x, h]. Its
product is the sum of an input projection and a state projection. The input projections are computed
once per vocabulary entry and gathered by token, so a cell only adds the state projections:

    cell(state_weights, state, x) -> (state, output)

`state_weights` are the rows of the kernels that multiply the state, `x` are the input projections,
and `output` (B, n_embd2) is the input of the output layer.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax.models.layers import Linear, embedding

Weights = tuple[Array, ...]  # (n_embd2, m * n_embd2) for each group of m linear layers
Inputs = tuple[Array, ...]  # (..., m * n_embd2) for each group
Pair = tuple[Array, Array]


def rnn_cell(weights: Weights, h: Array, x: Inputs) -> tuple[Array, Array]:
    """Return the new state and output: h = tanh(W [x, h] + b)."""
    h = jnp.tanh(x[0] + h @ weights[0])
    return h, h


def gru_cell(weights: Weights, h: Array, x: Inputs) -> tuple[Array, Array]:
    """Return the new state and output. z interpolates between h and hbar; r resets h."""
    z, r = jnp.split(jax.nn.sigmoid(x[0] + h @ weights[0]), 2, axis=-1)
    hbar = jnp.tanh(x[1] + (r * h) @ weights[1])
    h = (1 - z) * h + z * hbar
    return h, h


def lstm_cell(weights: Weights, state: Pair, x: Inputs) -> tuple[Pair, Array]:
    """Return the new state (h, c) and the output h, with input, forget and output gates i, f, o."""
    h, c = state
    i, f, o, cbar = jnp.split(x[0] + h @ weights[0], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(cbar)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


class Cell(nn.Module):
    """The linear layers of a cell. Each group of layers is computed in one product."""

    n_embd: int
    n_embd2: int
    groups: tuple[tuple[str, ...], ...]

    def setup(self):
        self.linear = {
            name: Linear(self.n_embd + self.n_embd2, self.n_embd2, name=f"xh_to_{name}")
            for group in self.groups
            for name in group
        }

    def input_projections(self, x: Array) -> Inputs:
        """Return x @ W_x + b for each group. (..., n_embd) -> (..., m * n_embd2) each"""
        biases = [jnp.concatenate([self.linear[name].bias for name in g]) for g in self.groups]
        kernels = self._kernels(slice(0, self.n_embd))
        return tuple(x @ W_x + b for W_x, b in zip(kernels, biases, strict=True))

    def state_weights(self) -> Weights:
        """Return W_h for each group. (n_embd2, m * n_embd2) each"""
        return self._kernels(slice(self.n_embd, None))

    def _kernels(self, rows: slice) -> Weights:
        """Return these rows of the kernels of each group, concatenated along the columns."""
        parts = [[self.linear[name].kernel[rows] for name in group] for group in self.groups]
        return tuple(jnp.concatenate(group, axis=1) for group in parts)


class Recurrent(nn.Module):
    """Embedding, cell and output layer, shared by RNN, GRU and LSTM. The first state is learned."""

    vocab_size: int
    n_embd: int
    n_embd2: int

    cell_fn = staticmethod(rnn_cell)
    groups = (("h",),)
    max_unroll = 0  # rows up to this length are computed without a loop

    def setup(self):
        self.start = self.param("start", init.zeros, (1, self.n_embd2))
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.cell = Cell(self.n_embd, self.n_embd2, self.groups)
        self.lm_head = Linear(self.n_embd2, self.vocab_size)

    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        cell = partial(self.cell_fn, self.cell.state_weights())
        state, inputs = self.init_carry(len(tokens)), self._inputs(tokens.T)
        _, h = jax.lax.scan(cell, state, inputs, unroll=tokens.shape[1] <= self.max_unroll)
        return self.lm_head(h).swapaxes(0, 1)  # (T, B, n_embd2) -> (B, T, V)

    def init_carry(self, batch_size: int) -> Any:
        """Return the learned first state. (B, n_embd2)"""
        return jnp.broadcast_to(self.start, (batch_size, self.n_embd2))

    def step(self, carry: Any, token: Array) -> tuple[Any, Array]:
        carry, h = self.cell_fn(self.cell.state_weights(), carry, self._inputs(token))
        return carry, self.lm_head(h)

    def _inputs(self, tokens: Array) -> Inputs:
        """Compute the input projections once per vocabulary entry and gather them by token."""
        return tuple(table[tokens] for table in self.cell.input_projections(self.wte.embedding))


class RNN(Recurrent):
    """The plain recurrent network.

    On a CPU its training step is 20% faster without a loop over positions. GRU and LSTM are faster
    with the loop (docs/performance.md).
    """

    max_unroll = 16


class GRU(Recurrent):
    """Gated recurrent units."""

    cell_fn = staticmethod(gru_cell)
    groups = (("z", "r"), ("hbar",))


class LSTM(Recurrent):
    """Long short-term memory."""

    cell_fn = staticmethod(lstm_cell)
    groups = (("i", "f", "o", "cbar"),)

    def setup(self):
        super().setup()
        self.start_c = self.param("start_c", init.zeros, (1, self.n_embd2))

    def init_carry(self, batch_size: int) -> Pair:
        """Return the learned first h and c. (B, n_embd2) each"""
        c = jnp.broadcast_to(self.start_c, (batch_size, self.n_embd2))
        return super().init_carry(batch_size), c

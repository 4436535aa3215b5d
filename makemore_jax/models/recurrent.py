"""RNN, GRU and LSTM: a state, and one cell that takes a character and gives the next state.

RNN: Mikolov et al. 2010, Recurrent neural network based language model, section 2.
GRU: Cho et al. 2014, arXiv:1406.1078, section 2.3, with h = (1 - z) h_prev + z hbar and the reset
before the candidate's product: makemore's form, not that of torch.nn.GRU or flax's GRUCell.
LSTM: Graves 2013, arXiv:1308.0850, equations 7 to 11, without the peepholes from the cell to the
gates, as is usual since; written like the other two, on the concatenated [x, h].

A cell is `cell(state, x) -> state, h`; what to unroll is no more than this loop, compiled:

    for t in range(T):
        state, h[:, t] = cell(state, x[:, t])
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax.models.layers import embedding, linear


class RNNCell(nn.Module):
    """h = tanh(W [x, h] + b). The state is h."""

    n_embd: int
    n_embd2: int

    def setup(self):
        self.xh_to_h = linear(self.n_embd + self.n_embd2, self.n_embd2)

    def __call__(self, h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(self.xh_to_h(jnp.concatenate([x, h], axis=-1)))
        return h, h


class GRUCell(nn.Module):
    """z says how much of h to replace by hbar, r how much of h the new hbar sees."""

    n_embd: int
    n_embd2: int

    def setup(self):
        self.xh_to_z = linear(self.n_embd + self.n_embd2, self.n_embd2)
        self.xh_to_r = linear(self.n_embd + self.n_embd2, self.n_embd2)
        self.xh_to_hbar = linear(self.n_embd + self.n_embd2, self.n_embd2)

    def __call__(self, h: Array, x: Array) -> tuple[Array, Array]:
        xh = jnp.concatenate([x, h], axis=-1)
        z = jax.nn.sigmoid(self.xh_to_z(xh))
        r = jax.nn.sigmoid(self.xh_to_r(xh))
        hbar = jnp.tanh(self.xh_to_hbar(jnp.concatenate([x, r * h], axis=-1)))
        h = (1 - z) * h + z * hbar
        return h, h


class LSTMCell(nn.Module):
    """A memory c beside h: f keeps of it, i adds cbar to it, o shows it. The state is (h, c)."""

    n_embd: int
    n_embd2: int

    def setup(self):
        self.xh_to_i = linear(self.n_embd + self.n_embd2, self.n_embd2)
        self.xh_to_f = linear(self.n_embd + self.n_embd2, self.n_embd2)
        self.xh_to_o = linear(self.n_embd + self.n_embd2, self.n_embd2)
        self.xh_to_cbar = linear(self.n_embd + self.n_embd2, self.n_embd2)

    def __call__(self, state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = state
        xh = jnp.concatenate([x, h], axis=-1)
        i = jax.nn.sigmoid(self.xh_to_i(xh))
        f = jax.nn.sigmoid(self.xh_to_f(xh))
        o = jax.nn.sigmoid(self.xh_to_o(xh))
        c = f * c + i * jnp.tanh(self.xh_to_cbar(xh))
        h = o * jnp.tanh(c)
        return (h, c), h


class Recurrent(nn.Module):
    """Embedding, cell, output layer; what RNN, GRU and LSTM share. The first state is learnt."""

    vocab_size: int
    n_embd: int
    n_embd2: int

    Cell = RNNCell

    def setup(self):
        self.start = self.param("start", init.zeros, (1, self.n_embd2))
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.cell = self.Cell(self.n_embd, self.n_embd2)
        self.lm_head = linear(self.n_embd2, self.vocab_size)

    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        unroll = nn.scan(
            lambda cell, state, x: cell(state, x),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, h = unroll(self.cell, self.init_carry(tokens.shape[0]), self.wte(tokens))
        return self.lm_head(h)  # (B, T, n_embd2) -> (B, T, V)

    def init_carry(self, batch_size: int) -> Any:
        """The learnt first state. (B, n_embd2)"""
        return jnp.broadcast_to(self.start, (batch_size, self.n_embd2))

    def step(self, carry: Any, token: Array) -> tuple[Any, Array]:
        carry, h = self.cell(carry, self.wte(token))
        return carry, self.lm_head(h)


class RNN(Recurrent):
    """The plain recurrent network."""


class GRU(Recurrent):
    """Gated recurrent units."""

    Cell = GRUCell


class LSTM(Recurrent):
    """Long short-term memory."""

    Cell = LSTMCell

    def setup(self):
        super().setup()
        self.start_c = self.param("start_c", init.zeros, (1, self.n_embd2))

    def init_carry(self, batch_size: int) -> tuple[Array, Array]:
        """The learnt first h and c. (B, n_embd2) each"""
        c = jnp.broadcast_to(self.start_c, (batch_size, self.n_embd2))
        return super().init_carry(batch_size), c

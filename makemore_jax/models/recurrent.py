"""RNN, GRU and LSTM: a state, and one cell that takes a character and gives the next state.

RNN: Mikolov et al. 2010, Recurrent neural network based language model, section 2.
GRU: Cho et al. 2014, arXiv:1406.1078, section 2.3, with h = (1 - z) h_prev + z hbar and the reset
before the candidate's product: makemore's form, not that of torch.nn.GRU or flax's GRUCell.
LSTM: Graves 2013, arXiv:1308.0850, equations 7 to 11, without the peepholes from the cell to the
gates, as is usual since; written like the other two, on the concatenated [x, h].

A cell sees the input only through the input's part of its linear layers, xh_to_h and the like, and
the state only through the state's part. So the inputs' parts are computed for all positions at
once, and what is left of a cell is

    cell(weights, state, x) -> state, h, inputs

with weights the state's parts of the linear layers, x the inputs' parts and `inputs` what each of
weights was multiplied with. What to unroll it is, is no more than this loop, compiled:

    for t in range(T):
        state, h[t], _ = cell(weights, state, x[t])
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax.models.layers import Linear, embedding

Weights = tuple[Array, ...]  # the state's parts, each (n_embd2, a multiple of n_embd2)
Inputs = tuple[Array, ...]  # for each of weights the inputs' part that is added to its product


def rnn_cell(weights: Weights, h: Array, x: Inputs) -> tuple[Array, Array, Inputs]:
    """h = tanh(W [x, h] + b). The state is h."""
    new = jnp.tanh(x[0] + h @ weights[0])
    return new, new, (h,)


def gru_cell(weights: Weights, h: Array, x: Inputs) -> tuple[Array, Array, Inputs]:
    """z says how much of h to replace by hbar, r how much of h the new hbar sees."""
    z, r = jnp.split(jax.nn.sigmoid(x[0] + h @ weights[0]), 2, axis=-1)
    hbar = jnp.tanh(x[1] + (r * h) @ weights[1])
    new = (1 - z) * h + z * hbar
    return new, new, (h, r * h)


def lstm_cell(
    weights: Weights, state: tuple[Array, Array], x: Inputs
) -> tuple[tuple[Array, Array], Array, Inputs]:
    """A memory c beside h: f keeps of it, i adds cbar to it, o shows it. The state is (h, c)."""
    h, c = state
    i, f, o, cbar = jnp.split(x[0] + h @ weights[0], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(cbar)
    new = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (new, c), new, (h,)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(cell: Callable, weights: Weights, state: Any, x: Inputs) -> Array:
    """The h of every step: x (T, B, ...) each -> (T, B, n_embd2).

    Its gradient is written here because that of jax.lax.scan adds up the gradient of the weights
    step by step, in T small products. As x is added to the products with the weights, the gradient
    of x is that of the products too, and one product with what went into them gives the weights'.
    """
    return _unroll_fwd(cell, weights, state, x)[0]


def _unroll_fwd(cell: Callable, weights: Weights, state: Any, x: Inputs) -> tuple[Array, Any]:
    def scan(state: Any, x: Inputs) -> tuple[Array, Inputs]:
        def body(state: Any, x: Inputs) -> tuple[Any, tuple[Array, Inputs]]:
            state, h, inputs = cell(weights, state, x)
            return state, (h, jax.lax.stop_gradient(inputs))

        return jax.lax.scan(body, state, x)[1]

    h, pull_back, inputs = jax.vjp(scan, state, x, has_aux=True)
    return h, (pull_back, inputs)


def _unroll_bwd(cell: Callable, saved: Any, dh: Array) -> tuple[Weights, Any, Inputs]:
    pull_back, inputs = saved
    dstate, dx = pull_back(dh)
    dweights = tuple(jnp.einsum("tbi,tbo->io", i, o) for i, o in zip(inputs, dx, strict=True))
    return dweights, dstate, dx


unroll.defvjp(_unroll_fwd, _unroll_bwd)


class Cell(nn.Module):
    """The linear layers of a cell, each on [x, h]; those of a group are computed in one product."""

    n_embd: int
    n_embd2: int
    groups: tuple[tuple[str, ...], ...]

    def setup(self):
        self.linear = {
            name: Linear(self.n_embd + self.n_embd2, self.n_embd2, name=f"xh_to_{name}")
            for group in self.groups
            for name in group
        }

    def of_inputs(self, x: Array) -> Inputs:
        """The inputs' part of every product. (..., n_embd) -> (..., n_embd2 or a multiple) each"""
        return tuple(
            x @ jnp.concatenate([self.linear[name].kernel[: self.n_embd] for name in group], 1)
            + jnp.concatenate([self.linear[name].bias for name in group])
            for group in self.groups
        )

    def weights(self) -> Weights:
        """The state's part of every product."""
        return tuple(
            jnp.concatenate([self.linear[name].kernel[self.n_embd :] for name in group], 1)
            for group in self.groups
        )


class Recurrent(nn.Module):
    """Embedding, cell, output layer; what RNN, GRU and LSTM share. The first state is learnt."""

    vocab_size: int
    n_embd: int
    n_embd2: int

    cell_of = staticmethod(rnn_cell)
    groups = (("h",),)

    def setup(self):
        self.start = self.param("start", init.zeros, (1, self.n_embd2))
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.cell = Cell(self.n_embd, self.n_embd2, self.groups)
        self.lm_head = Linear(self.n_embd2, self.vocab_size)

    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        x = self._inputs(tokens.T)
        h = unroll(self.cell_of, self.cell.weights(), self.init_carry(len(tokens)), x)
        return self.lm_head(h).swapaxes(0, 1)  # (T, B, n_embd2) -> (B, T, V)

    def init_carry(self, batch_size: int) -> Any:
        """The learnt first state. (B, n_embd2)"""
        return jnp.broadcast_to(self.start, (batch_size, self.n_embd2))

    def step(self, carry: Any, token: Array) -> tuple[Any, Array]:
        carry, h, _ = self.cell_of(self.cell.weights(), carry, self._inputs(token))
        return carry, self.lm_head(h)

    def _inputs(self, tokens: Array) -> Inputs:
        """A character's part of the products is the same wherever it stands: looked up."""
        return tuple(table[tokens] for table in self.cell.of_inputs(self.wte.embedding))


class RNN(Recurrent):
    """The plain recurrent network."""


class GRU(Recurrent):
    """Gated recurrent units."""

    cell_of = staticmethod(gru_cell)
    groups = (("z", "r"), ("hbar",))


class LSTM(Recurrent):
    """Long short-term memory."""

    cell_of = staticmethod(lstm_cell)
    groups = (("i", "f", "o", "cbar"),)

    def setup(self):
        super().setup()
        self.start_c = self.param("start_c", init.zeros, (1, self.n_embd2))

    def init_carry(self, batch_size: int) -> tuple[Array, Array]:
        """The learnt first h and c. (B, n_embd2) each"""
        c = jnp.broadcast_to(self.start_c, (batch_size, self.n_embd2))
        return super().init_carry(batch_size), c

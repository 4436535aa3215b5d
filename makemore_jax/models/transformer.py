"""Transformer: GPT-2's block (Radford et al. 2019), attention as in Vaswani et al. 2017."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import (
    Linear,
    attention,
    embedding,
    layer_norm,
    visible,
    where_in_line,
    with_row_before,
)

Cache = tuple[Array, Array]  # keys and values of one layer, each (T, B, C)


class CausalSelfAttention(nn.Module):
    """Each position looks at itself and those before it (Vaswani et al. 2017, section 3.2)."""

    n_head: int
    n_embd: int
    dropout: float

    def setup(self):
        self.c_attn = Linear(self.n_embd, 3 * self.n_embd)  # query, key and value in one product
        self.c_proj = Linear(self.n_embd, self.n_embd)
        self.drop_weights = nn.Dropout(self.dropout)
        self.drop_output = nn.Dropout(self.dropout)

    def __call__(self, x: Array, seen: Array, positions: Array | None, train: bool) -> Array:
        q, k, v = jnp.split(self.c_attn(x), 3, axis=-1)  # (B, T, C) each
        k, v = with_row_before(k, positions), with_row_before(v, positions)
        q, k, v = (self._split_heads(a) for a in (q, k, v))  # (B, T or S, nh, hs)
        y = attention(q, k, v, seen, self._keep if train and self.dropout else None)
        return self.drop_output(self.c_proj(y.reshape(x.shape)), deterministic=not train)

    def _keep(self, shape: tuple[int, ...]) -> Array:
        return self.drop_weights(jnp.ones(shape), deterministic=False)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        """One position: x (B, C). Time leads in the cache, so that a row is written in place."""
        q, k, v = jnp.split(self.c_attn(x), 3, axis=-1)  # (B, C) each
        keys, values = cache[0].at[position].set(k), cache[1].at[position].set(v)

        def attend(num: int) -> Array:
            """To the first `num` positions. (B, C)"""
            k, v = self._split_heads(keys[:num]), self._split_heads(values[:num])
            scores = jnp.einsum("bnh,sbnh->bns", self._split_heads(q), k) * k.shape[-1] ** -0.5
            weights = jax.nn.softmax(jnp.where(jnp.arange(num) <= position, scores, -jnp.inf))
            return jnp.einsum("bns,sbnh->bnh", weights, v).reshape(x.shape)

        # A quarter more of the cache is looked at whenever the last quarter is full.
        T = len(keys)
        quarters = [-(-T * i // 4) for i in range(1, 5)]
        which = sum((position >= num).astype(jnp.int32) for num in quarters[:-1])
        y = jax.lax.switch(which, [partial(attend, num) for num in quarters])
        return (keys, values), self.c_proj(y)

    def _split_heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.n_head, -1)  # (..., C) -> (..., nh, hs)


class MLP(nn.Module):
    """Position by position, four times as wide inside; GELU in its tanh form, as GPT-2 has it."""

    n_embd: int
    dropout: float

    def setup(self):
        self.c_fc = Linear(self.n_embd, 4 * self.n_embd)
        self.c_proj = Linear(4 * self.n_embd, self.n_embd)
        self.drop_output = nn.Dropout(self.dropout)

    def __call__(self, x: Array, train: bool) -> Array:
        x = self.c_proj(nn.gelu(self.c_fc(x), approximate=True))
        return self.drop_output(x, deterministic=not train)


class Block(nn.Module):
    """Attention, then MLP, each normed before and added to the stream."""

    n_head: int
    n_embd: int
    dropout: float

    def setup(self):
        self.ln_1 = layer_norm()
        self.attn = CausalSelfAttention(self.n_head, self.n_embd, self.dropout)
        self.ln_2 = layer_norm()
        self.mlp = MLP(self.n_embd, self.dropout)

    def __call__(self, x: Array, seen: Array, positions: Array | None, train: bool) -> Array:
        x = x + self.attn(self.ln_1(x), seen, positions, train)
        return x + self.mlp(self.ln_2(x), train)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        cache, y = self.attn.step(cache, self.ln_1(x), position)
        x = x + y
        return cache, x + self.mlp(self.ln_2(x), train=False)


class Transformer(nn.Module):
    """A decoder-only transformer with learnt positions."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float

    def setup(self):
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.wpe = embedding(self.block_size, self.n_embd)
        self.drop = nn.Dropout(self.dropout)
        self.h = [Block(self.n_head, self.n_embd, self.dropout) for _ in range(self.n_layer)]
        self.ln_f = layer_norm()
        self.lm_head = Linear(self.n_embd, self.vocab_size, use_bias=False)

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        x = self.wte(tokens) + self.wpe(where_in_line(tokens, positions))  # (B, T, C)
        x = self.drop(x, deterministic=not train)
        seen = visible(tokens.shape[1], positions)
        for block in self.h:
            x = block(x, seen, positions, train)
        return self.lm_head(self.ln_f(x))  # (B, T, V)

    def init_carry(self, batch_size: int) -> tuple[Array, list[Cache]]:
        """The next position, and for each layer room for `block_size` keys and values."""
        room = jnp.zeros((self.block_size, batch_size, self.n_embd))
        return jnp.zeros((), jnp.int32), [(room, room) for _ in range(self.n_layer)]

    def step(
        self, carry: tuple[Array, list[Cache]], token: Array
    ) -> tuple[tuple[Array, list[Cache]], Array]:
        position, caches = carry
        x = self.wte(token) + self.wpe(position)  # (B, C)
        new_caches = []
        for block, cache in zip(self.h, caches, strict=True):
            cache, x = block.step(cache, x, position)
            new_caches.append(cache)
        return (position + 1, new_caches), self.lm_head(self.ln_f(x))

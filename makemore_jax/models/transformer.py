"""Transformer: GPT-2's block (Radford et al. 2019), attention as in Vaswani et al. 2017."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import (
    LayerNorm,
    Linear,
    at_least_float32,
    attention,
    embedding,
    visible,
    where_in_line,
    with_row_before,
)

Cache = tuple[Array, Array]  # keys and values of one layer, each (T, B, C)


class Sizes(NamedTuple):
    """What the parts of a transformer have in common."""

    n_head: int
    n_embd: int
    dropout: float = 0.0
    activation: str = "gelu"
    bias: bool = True
    std: float | None = None  # of the initial weights: 0.02, as GPT-2's; None: PyTorch's
    residual_std: float | None = None  # of those whose results are added to the stream

    def linear(self, n_in: int, n_out: int) -> Linear:
        return Linear(n_in, n_out, self.bias, self.std)

    def onto_stream(self, n_in: int) -> Linear:
        return Linear(n_in, self.n_embd, self.bias, self.residual_std)


class CausalSelfAttention(nn.Module):
    """Each position looks at itself and those before it (Vaswani et al. 2017, section 3.2)."""

    sizes: Sizes

    def setup(self):
        C = self.sizes.n_embd
        self.c_attn = self.sizes.linear(C, 3 * C)  # query, key and value in one product
        self.c_proj = self.sizes.onto_stream(C)
        self.drop_weights = nn.Dropout(self.sizes.dropout)
        self.drop_output = nn.Dropout(self.sizes.dropout)

    def __call__(self, x: Array, seen: Array, positions: Array | None, train: bool) -> Array:
        # By `split`, whose gradient puts the three together in 15 us; that of moveaxis takes 53.
        qkv = jnp.split(self.c_attn(x).reshape(*x.shape[:2], 3, -1), 3, axis=2)
        q, k, v = (a[:, :, 0] for a in qkv)  # (B, T, C) each
        k, v = with_row_before(k, positions), with_row_before(v, positions)
        q, k, v = (self._split_heads(a) for a in (q, k, v))  # (B, T or S, nh, hs)
        keep = partial(self._keep, x.dtype) if train and self.sizes.dropout else None
        y = attention(q, k, v, seen, keep)
        return self.drop_output(self.c_proj(y.reshape(x.shape)), deterministic=not train)

    def _keep(self, dtype: jnp.dtype, shape: tuple[int, ...]) -> Array:
        return self.drop_weights(jnp.ones(shape, dtype), deterministic=False)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        """One position: x (B, C). Time leads in the cache, so that a row is written in place."""
        q, k, v = jnp.split(self.c_attn(x), 3, axis=-1)  # (B, C) each
        keys, values = cache[0].at[position].set(k), cache[1].at[position].set(v)

        def attend(num: int) -> Array:
            """To the first `num` positions. (B, C)"""
            k, v = self._split_heads(keys[:num]), self._split_heads(values[:num])
            scores = jnp.einsum("bnh,sbnh->bns", self._split_heads(q), k) * k.shape[-1] ** -0.5
            scores = jnp.where(jnp.arange(num) <= position, at_least_float32(scores), -jnp.inf)
            weights = jax.nn.softmax(scores).astype(v.dtype)
            return jnp.einsum("bns,sbnh->bnh", weights, v).reshape(x.shape)

        # A quarter more of the cache is looked at whenever the last quarter is full.
        T = len(keys)
        quarters = [-(-T * i // 4) for i in range(1, 5)]
        which = sum((position >= num).astype(jnp.int32) for num in quarters[:-1])
        y = jax.lax.switch(which, [partial(attend, num) for num in quarters])
        return (keys, values), self.c_proj(y)

    def _split_heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.sizes.n_head, -1)  # (..., C) -> (..., nh, hs)


class MLP(nn.Module):
    """Position by position, four times as wide inside; GELU in its tanh form, as GPT-2 has it."""

    sizes: Sizes

    def setup(self):
        C = self.sizes.n_embd
        self.c_fc = self.sizes.linear(C, 4 * C)
        self.c_proj = self.sizes.onto_stream(4 * C)
        self.drop_output = nn.Dropout(self.sizes.dropout)

    def __call__(self, x: Array, train: bool) -> Array:
        activation = nn.relu if self.sizes.activation == "relu" else nn.gelu
        return self.drop_output(self.c_proj(activation(self.c_fc(x))), deterministic=not train)


class Block(nn.Module):
    """Attention, then MLP, each normed before and added to the stream."""

    sizes: Sizes

    def setup(self):
        self.ln_1 = LayerNorm(self.sizes.bias)
        self.attn = CausalSelfAttention(self.sizes)
        self.ln_2 = LayerNorm(self.sizes.bias)
        self.mlp = MLP(self.sizes)

    def __call__(self, x: Array, seen: Array, positions: Array | None, train: bool) -> Array:
        x = x + self.attn(self.ln_1(x).astype(x.dtype), seen, positions, train)
        return x + self.mlp(self.ln_2(x).astype(x.dtype), train)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        cache, y = self.attn.step(cache, self.ln_1(x).astype(x.dtype), position)
        x = x + y
        return cache, x + self.mlp(self.ln_2(x).astype(x.dtype), train=False)


class Transformer(nn.Module):
    """A decoder-only transformer with learnt positions.

    By init_scheme="gpt2" weights are N(0, 0.02), those of layers whose results are added to the
    stream smaller by the root of how many there are (Radford et al. 2019, section 2.3). In bfloat16
    products are computed in it; norms, softmax and logits stay float32.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    activation: str = "gelu"
    bias: bool = True
    tied: bool = False
    init_scheme: str = "pytorch"
    dtype: str = "float32"
    remat: bool = False

    def setup(self):
        std = 0.02 if self.init_scheme == "gpt2" else None
        sizes = Sizes(
            *(self.n_head, self.n_embd, self.dropout, self.activation, self.bias),
            std=std,
            residual_std=std and std * (2 * self.n_layer) ** -0.5,
        )
        self.wte = embedding(self.vocab_size, self.n_embd, std or 1.0)
        self.wpe = embedding(self.block_size, self.n_embd, std or 1.0)
        self.drop = nn.Dropout(self.dropout)
        # `train`, argument number 4, is a Python bool.
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        self.h = [block(sizes) for _ in range(self.n_layer)]
        self.ln_f = LayerNorm(self.bias)
        if not self.tied:
            self.lm_head = Linear(self.n_embd, self.vocab_size, use_bias=False, std=std)

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        x = self._embed(tokens, where_in_line(tokens, positions))  # (B, T, C)
        x = self.drop(x, deterministic=not train)
        seen = visible(tokens.shape[1], positions)
        for block in self.h:
            x = block(x, seen, positions, train)
        return self._logits(x)  # (B, T, V)

    def init_carry(self, batch_size: int) -> tuple[Array, list[Cache]]:
        """The next position, and for each layer room for `block_size` keys and values."""
        dtype = jnp.bfloat16 if self.dtype == "bfloat16" else self.wte.embedding.dtype
        room = jnp.zeros((self.block_size, batch_size, self.n_embd), dtype)
        return jnp.zeros((), jnp.int32), [(room, room) for _ in range(self.n_layer)]

    def step(
        self, carry: tuple[Array, list[Cache]], token: Array
    ) -> tuple[tuple[Array, list[Cache]], Array]:
        position, caches = carry
        x = self._embed(token, position)  # (B, C)
        new_caches = []
        for block, cache in zip(self.h, caches, strict=True):
            cache, x = block.step(cache, x, position)
            new_caches.append(cache)
        return (position + 1, new_caches), self._logits(x)

    def _embed(self, tokens: Array, position: Array) -> Array:
        x = self.wte(tokens) + self.wpe(position)
        return x.astype(jnp.bfloat16) if self.dtype == "bfloat16" else x

    def _logits(self, x: Array) -> Array:
        x = self.ln_f(x).astype(x.dtype)
        if not self.tied:
            return at_least_float32(self.lm_head(x))
        logits = x.reshape(-1, self.n_embd) @ self.wte.embedding.T.astype(x.dtype)
        return at_least_float32(logits.reshape(*x.shape[:-1], self.vocab_size))

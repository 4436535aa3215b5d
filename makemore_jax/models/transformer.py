"""Transformer: GPT-2's block (Radford et al. 2019), attention as in Vaswani et al. 2017."""

from functools import partial
from typing import Any, NamedTuple

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
Carry = tuple[Array, list[Cache] | Cache]  # the position, and the caches of all layers


class Sizes(NamedTuple):
    """What the parts of a transformer have in common."""

    n_head: int
    n_embd: int
    dropout: float = 0.0
    activation: str = "gelu"
    bias: bool = True
    std: float | None = None  # of the initial weights: 0.02, as GPT-2's; None: PyTorch's
    residual_std: float | None = None  # of those whose results are added to the stream
    blockwise: bool = True  # attention takes queries, and decoding the cache, in blocks

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
        y = attention(q, k, v, seen, keep, self.sizes.blockwise)
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

        T = len(keys)
        if not self.sizes.blockwise:
            return (keys, values), self.c_proj(attend(T))
        # Attend to one more quarter of the cache whenever the last quarter is full.
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

    With init_scheme="gpt2" weights are N(0, 0.02). Weights of layers whose results are added to the
    stream are divided by the square root of the number of such layers (Radford et al. 2019, section
    2.3). With dtype="bfloat16" products are computed in bfloat16; norms, softmax and logits stay
    float32.

    With layer_loop="scan" XLA compiles one block and loops over the layers, instead of compiling
    every layer. `blockwise` attention fits in a CPU's cache. Either changes logits only by
    rounding, and leaves the tree of parameters as it is; with "scan" dropout draws other masks.
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
    dropout_rng: str = "threefry2x32"
    layer_loop: str = "unroll"
    blockwise: bool = True

    def setup(self):
        std = 0.02 if self.init_scheme == "gpt2" else None
        sizes = Sizes(
            *(self.n_head, self.n_embd, self.dropout, self.activation, self.bias),
            std=std,
            residual_std=std and std * (2 * self.n_layer) ** -0.5,
            blockwise=self.blockwise,
        )
        self.wte = embedding(self.vocab_size, self.n_embd, std or 1.0)
        self.wpe = embedding(self.block_size, self.n_embd, std or 1.0)
        self.drop = nn.Dropout(self.dropout)
        # `train`, argument number 4, is a Python bool.
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        self.h = [block(sizes) for _ in range(self.n_layer)]
        self.pure_block = partial(block, sizes, parent=None)  # its parameters are an argument
        self.ln_f = LayerNorm(self.bias)
        if not self.tied:
            self.lm_head = Linear(self.n_embd, self.vocab_size, use_bias=False, std=std)

    def __call__(
        self, tokens: Array, *, train: bool = False, positions: Array | None = None
    ) -> Array:
        x = self._embed(tokens, where_in_line(tokens, positions))  # (B, T, C)
        x = self.drop(x, deterministic=not train)
        seen = visible(tokens.shape[1], positions)
        if self.layer_loop == "scan" and not self.is_initializing():
            return self._logits(self._scan(x, seen, positions, train))
        for block in self.h:
            x = block(x, seen, positions, train)
        return self._logits(x)  # (B, T, V)

    def _scan(self, x: Array, seen: Array, positions: Array | None, train: bool) -> Array:
        """Apply all blocks in one loop. (B, T, C) -> (B, T, C)"""
        drops = train and self.dropout > 0
        keys = jax.random.split(self.make_rng("dropout"), self.n_layer) if drops else None
        block = self.pure_block()

        def body(x: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
            params, key = layer
            rngs = {"dropout": key} if drops else {}
            return block.apply({"params": params}, x, seen, positions, train, rngs=rngs), None

        return jax.lax.scan(body, x, (self._stacked_params(), keys))[0]

    def _stacked_params(self) -> Any:
        """The parameters of all blocks, with an axis for the layers in front."""
        return jax.tree.map(lambda *a: jnp.stack(a), *(h.variables["params"] for h in self.h))

    def init_carry(self, batch_size: int) -> Carry:
        """The position 0, and an empty cache of `block_size` keys and values for each layer.

        With layer_loop="scan" all layers are in one cache, with an axis for the layers in front.
        """
        dtype = jnp.bfloat16 if self.dtype == "bfloat16" else self.wte.embedding.dtype
        shape = (self.block_size, batch_size, self.n_embd)
        if self.layer_loop == "scan":
            empty = jnp.zeros((self.n_layer, *shape), dtype)
            return jnp.zeros((), jnp.int32), (empty, empty)
        empty = jnp.zeros(shape, dtype)
        return jnp.zeros((), jnp.int32), [(empty, empty) for _ in range(self.n_layer)]

    def step(self, carry: Carry, token: Array) -> tuple[Carry, Array]:
        position, caches = carry
        x = self._embed(token, position)  # (B, C)
        if self.layer_loop == "scan":
            caches, x = self._scan_step(caches, x, position)
            return (position + 1, caches), self._logits(x)
        new_caches = []
        for block, cache in zip(self.h, caches, strict=True):
            cache, x = block.step(cache, x, position)
            new_caches.append(cache)
        return (position + 1, new_caches), self._logits(x)

    def _scan_step(self, caches: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        """Apply `step` of all blocks in one loop. Caches (n_layer, T, B, C) each, x (B, C)."""
        block = self.pure_block()

        def body(x: Array, layer: tuple[Any, Cache]) -> tuple[Array, Cache]:
            params, cache = layer
            cache, x = block.apply({"params": params}, cache, x, position, method="step")
            return x, cache

        x, caches = jax.lax.scan(body, x, (self._stacked_params(), caches))
        return caches, x

    def _embed(self, tokens: Array, position: Array) -> Array:
        x = self.wte(tokens) + self.wpe(position)
        return x.astype(jnp.bfloat16) if self.dtype == "bfloat16" else x

    def _logits(self, x: Array) -> Array:
        x = self.ln_f(x).astype(x.dtype)
        if not self.tied:
            return at_least_float32(self.lm_head(x))
        logits = x.reshape(-1, self.n_embd) @ self.wte.embedding.T.astype(x.dtype)
        return at_least_float32(logits.reshape(*x.shape[:-1], self.vocab_size))

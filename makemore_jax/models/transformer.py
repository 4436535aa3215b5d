"""Transformer: GPT-2's block (Radford et al. 2019), attention as in Vaswani et al. 2017."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models.layers import LayerNorm, Linear, Positions, embedding, kernels

Cache = tuple[Array, Array]  # keys and values of one layer, each (T, B, C)
Carry = tuple[Array, list[Cache]]  # the position and the caches of all layers

ACTIVATIONS = {"gelu": nn.gelu, "gelu_exact": partial(nn.gelu, approximate=False), "relu": nn.relu}


class BlockConfig(NamedTuple):
    """The options of a block."""

    n_head: int
    n_embd: int
    dropout: float = 0.0
    activation: str = "gelu"
    bias: bool = True
    std: float | None = None  # standard deviation of the initial weights; None: PyTorch's
    residual_std: float | None = None  # the same for the residual projections
    blockwise: bool = True  # attention reads queries and the KV cache in blocks

    def linear(self, n_in: int, n_out: int) -> Linear:
        return Linear(n_in, n_out, self.bias, self.std)

    def residual_projection(self, n_in: int) -> Linear:
        return Linear(n_in, self.n_embd, self.bias, self.residual_std)


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and earlier positions (Vaswani et al. 2017, section 3.2)."""

    config: BlockConfig

    def setup(self):
        C = self.config.n_embd
        self.c_attn = self.config.linear(C, 3 * C)  # query, key and value in one product
        self.c_proj = self.config.residual_projection(C)
        self.drop_weights = nn.Dropout(self.config.dropout)
        self.drop_output = nn.Dropout(self.config.dropout)

    def project(self, x: Array, positions: Positions) -> tuple[Array, Array, Array]:
        """Return queries, keys and values. (..., C) -> (..., nh, hs) each

        `positions` is for subclasses with rotary positions.
        """
        qkv = self.c_attn(x).reshape(*x.shape[:-1], 3, -1)
        heads = (*x.shape[:-1], self.config.n_head, -1)
        q, k, v = (a.reshape(heads) for a in jnp.split(qkv, 3, axis=-2))
        return q, k, v

    def __call__(self, x: Array, mask: Array, positions: Positions, train: bool) -> Array:
        q, k, v = self.project(x, positions)  # (B, T, nh, hs) each
        k, v = (kernels.prepend_previous_row(a, positions) for a in (k, v))  # (B, S, nh, hs) each
        has_dropout = train and self.drop_weights.rate > 0
        dropout_mask_fn = partial(self.drop_weights, deterministic=False) if has_dropout else None
        y = kernels.attention(q, k, v, mask, dropout_mask_fn, self.config.blockwise)
        return self.drop_output(self.c_proj(y.reshape(x.shape)), deterministic=not train)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        """Attend from one position to the cache. x (B, C)"""
        q, k, v = (a.reshape(x.shape) for a in self.project(x, position))  # (B, C) each
        keys, values = cache
        cache = keys.at[position].set(k), values.at[position].set(v)
        y = kernels.decode_attention(q, *cache, position, self.config.n_head, self.config.blockwise)
        return cache, self.c_proj(y)


class MLP(nn.Module):
    """A two-layer perceptron, four times as wide inside.

    GPT-2 and makemore have GELU in its tanh form, nanoGPT in its exact form.
    """

    config: BlockConfig

    def setup(self):
        C = self.config.n_embd
        self.c_fc = self.config.linear(C, 4 * C)
        self.c_proj = self.config.residual_projection(4 * C)
        self.drop_output = nn.Dropout(self.config.dropout)

    def __call__(self, x: Array, train: bool) -> Array:
        y = ACTIVATIONS[self.config.activation](self.c_fc(x))
        return self.drop_output(self.c_proj(y), deterministic=not train)


class Block(nn.Module):
    """Attention, then an MLP, each with LayerNorm before it and a residual connection."""

    config: BlockConfig

    def setup(self):
        self.ln_1 = LayerNorm(self.config.bias)
        self.attn = CausalSelfAttention(self.config)
        self.ln_2 = LayerNorm(self.config.bias)
        self.mlp = MLP(self.config)

    def __call__(self, x: Array, mask: Array, positions: Positions, train: bool) -> Array:
        x = x + self.attn(self.ln_1(x), mask, positions, train)
        return x + self.mlp(self.ln_2(x), train)

    def step(self, cache: Cache, x: Array, position: Array) -> tuple[Cache, Array]:
        cache, y = self.attn.step(cache, self.ln_1(x), position)
        x = x + y
        return cache, x + self.mlp(self.ln_2(x), train=False)


class Decoder(nn.Module):
    """The blocks of a GPT, applied one after another, and their KV caches.

    A subclass has the fields block_size, n_layer and n_embd, the modules wte, drop and h (the
    blocks), and the methods _embed and _logits.
    """

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        x = self._embed(tokens, kernels.token_positions(tokens, positions))  # (B, T, C)
        x = self.drop(x, deterministic=not train)
        mask = kernels.causal_mask(tokens.shape[1], positions)
        return self._logits(self._apply_blocks(x, mask, positions, train))  # (B, T, V)

    def _apply_blocks(self, x: Array, mask: Array, positions: Positions, train: bool) -> Array:
        for block in self.h:
            x = block(x, mask, positions, train)
        return x

    def init_carry(self, batch_size: int) -> Carry:
        """Return position 0 and an empty cache of `block_size` keys and values for each layer."""
        empty = jnp.zeros((self.block_size, batch_size, self.n_embd), self.wte.embedding.dtype)
        return jnp.zeros((), jnp.int32), [(empty, empty) for _ in range(self.n_layer)]

    def step(self, carry: Carry, token: Array) -> tuple[Carry, Array]:
        position, caches = carry
        x = self._embed(token, position)  # (B, C)
        new_caches = []
        for block, cache in zip(self.h, caches, strict=True):
            cache, x = block.step(cache, x, position)
            new_caches.append(cache)
        return (position + 1, new_caches), self._logits(x)


class Transformer(Decoder):
    """A decoder-only transformer with learned positions.

    With init_scheme="gpt2", weights have standard deviation 0.02, and those of the 2 * n_layer
    residual projections 0.02 / sqrt(2 * n_layer) (Radford et al. 2019, section 2.3).

    `blockwise` attention fits in a CPU's cache. It changes logits only by rounding.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    activation: str = "gelu"
    bias: bool = True
    init_scheme: str = "pytorch"
    blockwise: bool = True

    block_class = Block

    def setup(self):
        std = 0.02 if self.init_scheme == "gpt2" else None
        residual_std = std and std * (2 * self.n_layer) ** -0.5
        config = BlockConfig(self.n_head, self.n_embd, self.dropout, self.activation, self.bias)
        config = config._replace(std=std, residual_std=residual_std, blockwise=self.blockwise)
        self.wte = embedding(self.vocab_size, self.n_embd, std or 1.0)
        self.wpe = embedding(self.block_size, self.n_embd, std or 1.0)
        self.drop = nn.Dropout(self.dropout)
        self.h = [self.block_class(config) for _ in range(self.n_layer)]
        self.ln_f = LayerNorm(self.bias)
        self.lm_head = Linear(self.n_embd, self.vocab_size, use_bias=False, std=std)

    def _embed(self, tokens: Array, positions: Array) -> Array:
        return self.wte(tokens) + self.wpe(positions)

    def _logits(self, x: Array) -> Array:
        return kernels.at_least_float32(self.lm_head(self.ln_f(x)))

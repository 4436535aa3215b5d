"""Modern: a GPT with the block of karpathy/nanochat (2025). Its layers have no biases or gains.

It differs from `transformer.py` in five ways: RMSNorm (Zhang and Sennrich 2019) instead of
LayerNorm, also after the embedding; rotary positions (Su et al. 2021, RoFormer) instead of a table;
normalized queries and keys (Henry et al. 2020); relu(x)^2 (So et al. 2021, Primer) instead of GELU;
and separate matrices for queries, keys and values, which Muon treats one by one.

Initial values are those of `layers.py`. nanochat starts the output layer and the residual
projections at 0.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.models import transformer
from makemore_jax.models.layers import Linear, Positions, embedding, kernels
from makemore_jax.models.transformer import BlockConfig, Decoder


def norm(x: Array) -> Array:
    """Divide by the root mean square of the last axis."""
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def rotate(x: Array, positions: Array) -> Array:
    """Rotate each pair of channels i and i + hs / 2 by an angle. (..., nh, hs) -> (..., nh, hs)

    The angle is the position times 10,000 ** (-2 i / hs), so the product of a query and a key
    depends on the distance of their positions only (Su et al. 2021, section 3.2.2).
    """
    exponents = jnp.linspace(0, -1, x.shape[-1] // 2, endpoint=False, dtype=x.dtype)
    angles = positions[..., None, None] * 10_000.0**exponents
    (a, b), cos, sin = jnp.split(x, 2, axis=-1), jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class CausalSelfAttention(transformer.CausalSelfAttention):
    """Attention with rotated and normalized queries and keys. Its weights have no dropout."""

    def setup(self):
        C = self.config.n_embd
        self.c_q, self.c_k, self.c_v, self.c_proj = (Linear(C, C, False) for _ in range(4))
        self.drop_weights = nn.Dropout(0.0)
        # The first name determines the dropout masks, and so the results of configs/best.py.
        self.drop = self.drop_output = nn.Dropout(self.config.dropout)

    def project(self, x: Array, positions: Positions) -> tuple[Array, Array, Array]:
        positions = kernels.token_positions(x, positions)
        heads = (*x.shape[:-1], self.config.n_head, -1)
        q, k, v = (linear(x).reshape(heads) for linear in (self.c_q, self.c_k, self.c_v))
        return norm(rotate(q, positions)), norm(rotate(k, positions)), v


class MLP(nn.Module):
    """A two-layer perceptron, four times as wide inside."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        h = Linear(x.shape[-1], 4 * x.shape[-1], False, name="c_fc")(x)
        y = Linear(h.shape[-1], x.shape[-1], False, name="c_proj")(jnp.square(nn.relu(h)))
        return nn.Dropout(self.config.dropout)(y, deterministic=not train)


class Block(transformer.Block):
    """Attention, then an MLP, each with a norm before it and a residual connection."""

    def setup(self):
        self.ln_1 = self.ln_2 = norm
        self.attn, self.mlp = CausalSelfAttention(self.config), MLP(self.config)


class Modern(Decoder):
    """A decoder-only transformer whose parameters are weight matrices only."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    blockwise: bool = True

    def setup(self):
        config = BlockConfig(self.n_head, self.n_embd, self.dropout, blockwise=self.blockwise)
        self.wte = embedding(self.vocab_size, self.n_embd)
        self.drop = nn.Dropout(self.dropout)
        self.h = [Block(config) for _ in range(self.n_layer)]
        self.lm_head = Linear(self.n_embd, self.vocab_size, use_bias=False)

    def _embed(self, tokens: Array, positions: Array) -> Array:
        return norm(self.wte(tokens))  # attention reads the positions

    def _logits(self, x: Array) -> Array:
        return self.lm_head(norm(x))

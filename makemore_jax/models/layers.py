"""The layers that the families share: PyTorch's initial values, and what makes them fast.

A batch lies in one of two forms. In *rows* each row is a line from its beginning, padded behind its
end. *Packed*, line follows line without padding through all rows, so that a line may go on in the
next row, and `positions` (B, T) tells how far into its line each token is. Every function here
takes both; `positions=None` means rows. What this gains stands in docs/performance.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array


class Linear(nn.Module):
    """torch.nn.Linear: weight and bias uniform within 1 / sqrt(n_in). (..., n_in) -> (..., n_out)

    With `std` weights are N(0, std) and biases 0. It computes in the dtype of x. All axes but the
    last are one in the product: XLA's code for (B, T, C), and above all for its gradient, is slower
    than for (B * T, C).
    """

    n_in: int
    n_out: int
    use_bias: bool = True
    std: float | None = None

    def setup(self):
        bound = self.n_in**-0.5

        def symmetric_uniform(key, shape, dtype=jnp.float32):
            return init.uniform(2 * bound)(key, shape, dtype) - bound

        of_kernel = init.normal(self.std) if self.std else symmetric_uniform
        self.kernel = self.param("kernel", of_kernel, (self.n_in, self.n_out))
        if self.use_bias:
            of_bias = init.zeros if self.std else symmetric_uniform
            self.bias = self.param("bias", of_bias, (self.n_out,))

    def __call__(self, x: Array) -> Array:
        y = _product(x.reshape(-1, self.n_in), self.kernel.astype(x.dtype))
        y = y + self.bias.astype(x.dtype) if self.use_bias else y
        return y.reshape(*x.shape[:-1], self.n_out)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    """x @ kernel. (N, n_in), (n_in, n_out) -> (N, n_out)

    A tall kernel's gradient is computed lying: with XLA's code for CPUs the shorter side in front
    takes 62 us where the longer one takes 109 (256 x 64, from 128 tokens).
    """
    return x @ kernel


def _product_fwd(x: Array, kernel: Array) -> tuple:
    return x @ kernel, (x, kernel)


def _product_bwd(saved: tuple, dy: Array) -> tuple:
    x, kernel = saved
    if kernel.shape[0] <= kernel.shape[1]:
        return dy @ kernel.T, x.T @ dy
    # Without the barrier XLA would turn the product itself.
    return dy @ kernel.T, jax.lax.optimization_barrier(dy.T @ x).T


_product.defvjp(_product_fwd, _product_bwd)


def embedding(n: int, n_embd: int, std: float = 1.0) -> nn.Embed:
    """torch.nn.Embedding: a table of n rows, N(0, 1)."""
    return nn.Embed(n, n_embd, embedding_init=init.normal(std))


def linear_of_embedded(linear: Linear, table: Array, tokens: Array) -> Array:
    """`linear` on the embeddings of k tokens side by side. (..., k) -> (..., n_out)

    The product of every row of the table with every place's part of the kernel comes first, and
    what it gave is then added up over the places: V * k products of C numbers for all tokens
    together, where the embeddings themselves would take k of them for each.
    """
    V, C = table.shape
    k = tokens.shape[-1]
    if V > C:  # too many rows for it to be less work
        return linear(table[tokens].reshape(*tokens.shape[:-1], k * C))
    products = jnp.einsum("vc,kch->kvh", table, linear.kernel.reshape(k, C, -1))
    which = jax.nn.one_hot(tokens.reshape(-1, k), V, dtype=table.dtype)  # (N, k, V)
    y = which.reshape(-1, k * V) @ products.reshape(k * V, -1) + linear.bias
    return y.reshape(*tokens.shape[:-1], -1)


class LayerNorm(nn.Module):
    """torch.nn.LayerNorm: eps 1e-5, and the variance by its definition, which keeps its digits.

    (..., C) -> (..., C) in float32 at least (Ba et al. 2016, section 3).
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        C = x.shape[-1]
        y = _standardize(at_least_float32(x).reshape(-1, C)) * self.param("scale", init.ones, (C,))
        y = y + self.param("bias", init.zeros, (C,)) if self.use_bias else y
        return y.reshape(x.shape)


@jax.custom_vjp
def _standardize(x: Array) -> Array:
    """Each row with mean 0 and variance 1. (N, C) -> (N, C)

    The gradient is written out, which takes two sums for each row where jax takes four.
    """
    return _standardize_fwd(x)[0]


def _standardize_fwd(x: Array) -> tuple:
    centered = x - x.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + 1e-5)
    y = centered * rstd
    return y, (y, rstd)


def _standardize_bwd(saved: tuple, dy: Array) -> tuple:
    y, rstd = saved
    mean, slope = dy.mean(axis=-1, keepdims=True), (dy * y).mean(axis=-1, keepdims=True)
    return (rstd * (dy - mean - slope * y),)


_standardize.defvjp(_standardize_fwd, _standardize_bwd)


def at_least_float32(x: Array) -> Array:
    """What is added up over many, as in softmax and loss, needs more digits than bfloat16 has."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def where_in_line(tokens: Array, positions: Array | None) -> Array:
    """How many tokens of its line stand before each one. (B, T), or (1, T) for all rows."""
    return jnp.arange(tokens.shape[1])[None] if positions is None else positions


def ago(x: Array, n: int, position: Array, blank: float = 0) -> Array:
    """What stood n tokens before each one, `blank` before its line. (B, T, ...) -> (B, T, ...)

    Rows are taken as one stream: what comes from the row before is either the same line, packed,
    or lies before the line and is blank.
    """
    stream = x.reshape(-1, *x.shape[2:])
    before = jnp.pad(stream, [(n, 0)] + [(0, 0)] * (stream.ndim - 1))[: len(stream)]
    is_inside = (position >= n).reshape(*position.shape, *[1] * (x.ndim - 2))
    return jnp.where(is_inside, before.reshape(x.shape), blank)


def visible(num: int, positions: Array | None) -> Array:
    """Which keys each query may look at: those of its line up to itself. (1, T, T)

    Packed, a line may begin in the row before (no line is longer than a row), so that the keys are
    those of two rows, `with_row_before`. (B, T, 2 T)
    """
    if positions is None:
        return jnp.tril(jnp.ones((1, num, num), bool))
    query, key = num + jnp.arange(num), jnp.arange(2 * num)
    return (key <= query[:, None]) & (key >= (query - positions)[..., None])


def with_row_before(x: Array, positions: Array | None) -> Array:
    """Packed: each row behind the one before it, (B, T, ...) -> (B, 2 T, ...). Else the same."""
    return x if positions is None else jnp.concatenate([jnp.roll(x, 1, axis=0), x], axis=1)


QUERIES_AT_ONCE = 128


def attention(
    q: Array,
    k: Array,
    v: Array,
    seen: Array,
    keep: Callable[[tuple[int, ...]], Array] | None = None,
    blockwise: bool = True,
) -> Array:
    """Return softmax(q k^T / sqrt(hs)) v over the keys that each query may see, for each head.

    q (B, T, nh, hs); k and v (B, S, nh, hs); seen (B or 1, T, S), the causal mask of `visible`;
    `keep` returns the dropout factors for weights of a shape. -> (B, T, nh, hs)
    (Vaswani et al. 2017, section 3.2.1.)
    """
    # On CPU, process queries in blocks so that the scores fit in cache, and skip fully masked
    # keys: 122 instead of 246 us for a token with a context of 1,024. An accelerator gains nothing
    # from blocks, and XLA compiles each of them.
    T, S = q.shape[1], k.shape[1]
    num = QUERIES_AT_ONCE if blockwise else T
    parts = []
    for start in range(0, T, num):
        end = min(start + num, T)
        keys = slice(0 if S == T else start, S - T + end)  # all that any of these queries sees
        of_keys = k[:, keys], v[:, keys], seen[:, None, start:end, keys]
        factors = keep and keep((len(q), q.shape[2], end - start, of_keys[0].shape[1]))
        parts.append(_attend(q[:, start:end], *of_keys, factors))
    return jnp.concatenate(parts, axis=1)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, seen: Array, factors: Array | None) -> Array:
    """`attention`, all at once.

    The gradient is written out: that of softmax needs for each query the sum of its weights by
    their gradients, which is y by its gradient too (Dao et al. 2022, FlashAttention, appendix B.2),
    hs numbers where there are S. 344 us for one layer of a packed batch, not 502.
    """
    return _attend_fwd(q, k, v, seen, factors)[0]


def _attend_fwd(q: Array, k: Array, v: Array, seen: Array, factors: Array | None) -> tuple:
    scores = jnp.einsum("btnh,bsnh->bnts", q * q.shape[-1] ** -0.5, k)
    weights = jax.nn.softmax(jnp.where(seen, at_least_float32(scores), -jnp.inf)).astype(q.dtype)
    kept = weights if factors is None else weights * factors
    y = jnp.einsum("bnts,bsnh->btnh", kept, v)
    return y, (q, k, v, weights, factors, y)


def _attend_bwd(saved: tuple, dy: Array) -> tuple:
    q, k, v, weights, factors, y = saved
    kept = weights if factors is None else weights * factors
    dweights = jnp.einsum("btnh,bsnh->bnts", dy, v)
    dweights = dweights if factors is None else dweights * factors
    mean = jnp.einsum("btnh,btnh->bnt", dy, y)[..., None]
    dscores = weights * (dweights - mean)
    scale = q.shape[-1] ** -0.5
    dq = scale * jnp.einsum("bnts,bsnh->btnh", dscores, k)
    dk = scale * jnp.einsum("bnts,btnh->bsnh", dscores, q)
    dv = jnp.einsum("bnts,btnh->bsnh", kept, dy)
    return dq, dk, dv, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)

"""The layers that the families share: PyTorch's initial values, and what makes them fast.

A batch lies in one of two forms. In *rows* each row is a line from its beginning, padded behind its
end. *Packed*, line follows line without padding through all rows, so that a line may go on in the
next row, and `positions` (B, T) tells how far into its line each token is. Every function here
takes both; `positions=None` means rows. What this gains stands in docs/performance.md.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """x @ kernel. (N, n_in), (n_in, n_out) -> (N, n_out)

    The gradient of the kernel is written out for the sake of XLA on CPU, which multiplies faster
    with the narrower matrix on the left: 37 us, not 56, where n_in is 256 and n_out 64. The
    barrier keeps XLA from turning the product back.
    """
    return x @ kernel


def _matmul_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _matmul_bwd(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    if x.shape[1] <= dy.shape[1]:
        return dy @ kernel.T, x.T @ dy
    turned = jax.lax.dot_general(dy, x, (((0,), (0,)), ((), ())))  # dy.T @ x
    return dy @ kernel.T, jax.lax.optimization_barrier(turned).T


matmul.defvjp(_matmul_fwd, _matmul_bwd)


class Linear(nn.Module):
    """torch.nn.Linear: weight and bias uniform within 1 / sqrt(n_in). (..., n_in) -> (..., n_out)

    All axes but the last are one in the product: XLA's code for (B, T, C), and above all for its
    gradient, is slower than for (B * T, C).
    """

    n_in: int
    n_out: int
    use_bias: bool = True

    def setup(self):
        bound = self.n_in**-0.5

        def symmetric_uniform(key, shape, dtype=jnp.float32):
            return init.uniform(2 * bound)(key, shape, dtype) - bound

        self.kernel = self.param("kernel", symmetric_uniform, (self.n_in, self.n_out))
        if self.use_bias:
            self.bias = self.param("bias", symmetric_uniform, (self.n_out,))

    def __call__(self, x: Array) -> Array:
        y = matmul(x.reshape(-1, self.n_in), self.kernel)
        y = y + self.bias if self.use_bias else y
        return y.reshape(*x.shape[:-1], self.n_out)


def embedding(n: int, n_embd: int) -> nn.Embed:
    """torch.nn.Embedding: a table of n rows, N(0, 1)."""
    return nn.Embed(n, n_embd, embedding_init=init.normal(1.0))


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


def layer_norm() -> nn.LayerNorm:
    """torch.nn.LayerNorm: eps 1e-5, and the variance by its definition, which keeps its digits."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)


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


@jax.custom_vjp
def attention_scores(q: Array, k: Array) -> Array:
    """What each query has to do with each key. (B, T, nh, hs), (B, S, nh, hs) -> (B, nh, T, S)

    The gradient is written out because that of the keys, as jax derives it, is a product with the
    wrong axis last, for which XLA on CPU has slow code: 10 us, not 70, when the scores' gradient is
    turned first. The barrier keeps XLA from putting turn and product together again.
    """
    return jnp.einsum("btnh,bsnh->bnts", q, k)


def _scores_fwd(q: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    return attention_scores(q, k), (q, k)


def _scores_bwd(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    q, k = saved
    turned = jax.lax.optimization_barrier(dy.swapaxes(2, 3))
    return jnp.einsum("bnts,bsnh->btnh", dy, k), jnp.einsum("bnst,btnh->bsnh", turned, q)


attention_scores.defvjp(_scores_fwd, _scores_bwd)

"""The functions with which a model reads batches of packed lines.

A batch has one of two layouts. In *rows*, each row is one line, padded at its end. In
*packed*, the lines follow each other through all rows without padding, so a line may continue in
the next row. For *packed*, `positions` (B, T) is the position of each token in its line; for *rows*
it is None.
"""

import jax.numpy as jnp
from jax import Array


def token_positions(tokens: Array, positions: Array | None) -> Array:
    """Return each token's position in its line. (B, T), or (1, T) for all rows."""
    return jnp.arange(tokens.shape[1])[None] if positions is None else positions


def shift_right(x: Array, n: int, positions: Array, fill: float = 0) -> Array:
    """Return x from n positions earlier in the line, or `fill`. (B, T, ...) -> (B, T, ...)

    Rows are shifted as one stream: a value from the previous row belongs to the same packed line or
    is replaced by `fill`. `positions` comes from `token_positions`.
    """
    stream = x.reshape(-1, *x.shape[2:])
    shifted = jnp.pad(stream, [(n, 0)] + [(0, 0)] * (stream.ndim - 1))[: len(stream)]
    is_inside = (positions >= n).reshape(*positions.shape, *[1] * (x.ndim - 2))
    return jnp.where(is_inside, shifted.reshape(x.shape), fill)


def causal_mask(T: int, positions: Array | None) -> Array:
    """Return which keys each query may attend to: those of its line, up to itself. (1, T, T)

    A packed line may begin in the previous row (no line is longer than a row), so the keys are
    taken from two rows, in the order of `prepend_previous_row`. (B, T, 2 T)
    """
    if positions is None:
        return jnp.tril(jnp.ones((1, T, T), bool))
    query, key = T + jnp.arange(T), jnp.arange(2 * T)
    return (key <= query[:, None]) & (key >= (query - positions)[..., None])


def prepend_previous_row(x: Array, positions: Array | None) -> Array:
    """Return packed rows with the previous row in front, (B, 2 T, ...); other rows unchanged."""
    return x if positions is None else jnp.concatenate([jnp.roll(x, 1, axis=0), x], axis=1)

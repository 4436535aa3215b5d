"""The predictions of counted n-grams as arrays, which a model looks up on the device.

The table has the smoothed distribution after every context that occurs in the training lines, up to
N - 1 tokens long. N is `max_order`. The table is part of a model's variables, and therefore of its
checkpoints.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax import kernels
from makemore_jax.data import Split
from makemore_jax.errors import UserError
from makemore_jax.mixture import counting
from makemore_jax.models.layers import Positions

COLLECTION = "ngrams"  # the table among the variables of a model
MAX_ORDER = 6
MAX_BYTES = 2**30  # of the probabilities; each checkpoint has a copy
UNUSED = np.iinfo(np.int32).max  # in place of a context, in rows that are not used


def max_order(vocab_size: int) -> int:
    """Return the largest order, at most MAX_ORDER, whose contexts fit in an int32."""
    orders = range(1, MAX_ORDER + 1)
    return max(n for n in orders if (vocab_size + 1) ** (n - 1) < UNUSED)


class NgramTable(nn.Module):
    """The distributions after `num_contexts` contexts.

    A context is a number with tokens plus one as digits of base V + 1. The empty context is 0.
    Until the table is filled, it has only the empty context, with a uniform distribution.
    """

    vocab_size: int  # V
    num_contexts: int  # R, rows of the table

    def setup(self):
        shape = self.num_contexts, self.vocab_size
        contexts = jnp.full(self.num_contexts, UNUSED, jnp.int32).at[0].set(0)
        self.contexts = self.variable(COLLECTION, "contexts", lambda: contexts)  # (R,), sorted
        self.probs = self.variable(COLLECTION, "probs", jnp.full, shape, 1 / self.vocab_size)

    def __call__(self, history: Array) -> Array:
        """Return the distribution after the longest known context. (..., N - 1) -> (..., V)"""
        base, context, row = self.vocab_size + 1, 0, 0
        for k in range(history.shape[-1]):
            context = context + history[..., k] * base**k
            index = jnp.searchsorted(self.contexts.value, context)
            row = jnp.where(self.contexts.value[index] == context, index, row)
        return self.probs.value[row]


def histories(tokens: Array, positions: Positions, vocab_size: int) -> Array:
    """Return the last tokens at each position. (B, T) -> (B, T, N - 1)

    They are the tokens plus one, the newest first, and 0 before the line starts.
    """
    positions = kernels.token_positions(tokens, positions)
    numbers = range(max_order(vocab_size) - 1)
    return jnp.stack([kernels.shift_right(tokens + 1, k, positions) for k in numbers], axis=-1)


def empty_history(batch_size: int, vocab_size: int) -> Array:
    """Return the history before the first token. (B, N - 1)"""
    return jnp.zeros((batch_size, max_order(vocab_size) - 1), jnp.int32)


def append(history: Array, token: Array) -> Array:
    """Return the history after one more token (B,)."""
    return jnp.roll(history, 1, axis=1).at[:, 0].set(token + 1)


def fill(model: nn.Module, split: Split) -> dict[str, Any]:
    """Return the variables of the table of a model for its training lines; {} without a table.

    They are NumPy arrays. Raise UserError if there are more contexts than rows, or if the table is
    larger than MAX_BYTES.
    """
    num_rows = getattr(model, "ngram_contexts", None)
    if num_rows is None:
        return {}
    ngrams = counting.count(split, max_order(model.vocab_size), model.vocab_size)
    num_contexts = sum(len(table.contexts) for table in ngrams.tables)
    if num_rows < num_contexts:
        raise UserError(
            f"model.ngram_contexts: {num_rows} must be at least {num_contexts}, "
            "the number of contexts in the training lines"
        )
    num_bytes = 4 * num_rows * model.vocab_size
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"model.ngram_contexts: {num_rows} rows of {model.vocab_size} probabilities are "
            f"{num_bytes / 2**30:.1f} GiB, and at most {MAX_BYTES / 2**30:.1f} is possible; the "
            f"training lines need {num_contexts} rows"
        )
    contexts, probs = smoothed_distributions(ngrams)
    num_unused = num_rows - num_contexts
    contexts = np.pad(contexts.astype(np.int32), (0, num_unused), constant_values=UNUSED)
    probs = np.pad(probs.astype(np.float32), [(0, num_unused), (0, 0)])
    return {COLLECTION: {"table": {"contexts": contexts, "probs": probs}}}


def smoothed_distributions(ngrams: counting.Ngrams) -> tuple[np.ndarray, np.ndarray]:
    """Return all contexts as sorted numbers (R,), and their distributions (R, V)."""
    vocab_size = ngrams.vocab_size
    contexts, probs = [], []
    for k, table in enumerate(ngrams.tables):  # contexts of k tokens
        tokens = table.contexts[:, None] // vocab_size ** np.arange(k) % vocab_size
        contexts.append((tokens + 1) @ (vocab_size + 1) ** np.arange(k))
        grams = table.contexts[:, None] * vocab_size + np.arange(vocab_size)
        shorter = ngrams._replace(tables=ngrams.tables[: k + 1])
        probs.append(counting.probabilities(shorter, grams))
    contexts, probs = np.concatenate(contexts), np.concatenate(probs)
    by_number = np.argsort(contexts)
    return contexts[by_number], probs[by_number]

"""Counted n-grams with interpolated Kneser-Ney smoothing, in NumPy.

Kneser and Ney, "Improved backing-off for m-gram language modeling", 1995; Chen and Goodman, "An
empirical study of smoothing techniques for language modeling", 1999.
"""

from typing import NamedTuple

import numpy as np

from makemore_jax.data import lines
from makemore_jax.errors import UserError


class Table(NamedTuple):
    """The counts of one order. Tokens are digits of base V: an n-gram or a context is a number."""

    grams: np.ndarray  # (G,) int64, sorted
    counts: np.ndarray  # (G,) int64
    contexts: np.ndarray  # (K,) int64, sorted: the n-grams without their last token
    totals: np.ndarray  # (K,) int64: sum of the counts of a context
    num_types: np.ndarray  # (K,) int64: number of different tokens after a context
    discount: float  # taken off every count


class Ngrams(NamedTuple):
    """A model of order n = len(tables). tables[k] has contexts of k tokens."""

    tables: tuple[Table, ...]
    vocab_size: int  # V


def count(split: lines.Lines, order: int, vocab_size: int) -> Ngrams:
    """Count the n-grams of a split up to `order`.

    A context reaches back to the 0 before a line, and no further. `probabilities` interpolates all
    orders. In orders below `order`, the count of an n-gram is the number of different tokens that
    precede it, not the number of its occurrences (Kneser and Ney 1995). An n-gram that starts with
    the 0 before a line has no preceding token and keeps the number of its occurrences.
    Raise UserError if V**order does not fit in 63 bits.
    """
    if vocab_size**order >= 2**63:
        raise UserError(f"{vocab_size} different tokens are too many for n-grams of order {order}")
    positions, history = _targets(split)
    stream = np.asarray(split.stream, np.int64)
    occurrences = [
        np.unique(_codes(stream, positions[history >= k], k, vocab_size), return_counts=True)
        for k in range(order)
    ]
    tables = [_table(*occurrences[-1], vocab_size)]
    for k in range(order - 2, -1, -1):
        grams, counts = occurrences[k]
        starts_line = grams < vocab_size**k if k else np.zeros(len(grams), bool)
        longer = occurrences[k + 1][0] % vocab_size ** (k + 1)
        preceded, num_before = np.unique(longer, return_counts=True)
        counts = np.where(starts_line, counts, 0)
        counts[np.searchsorted(grams, preceded)] += num_before
        tables.insert(0, _table(grams, counts, vocab_size))
    return Ngrams(tuple(tables), vocab_size)


def _targets(split: lines.Lines) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each target in the stream, and the length of its longest context."""
    starts = np.asarray(split.starts)
    positions = np.arange(1, starts[-1] + 1)
    line_starts = starts[np.searchsorted(starts, positions) - 1]
    return positions, positions - line_starts


def _codes(stream: np.ndarray, positions: np.ndarray, k: int, vocab_size: int) -> np.ndarray:
    """Return the n-grams that end at `positions` and have contexts of k tokens, as numbers."""
    return sum(stream[positions - i] * vocab_size**i for i in range(k + 1))


def _table(grams: np.ndarray, counts: np.ndarray, vocab_size: int) -> Table:
    contexts, first, num_types = np.unique(
        grams // vocab_size, return_index=True, return_counts=True
    )
    once, twice = (int((counts == n).sum()) for n in (1, 2))
    # Ney, Essen and Kneser, 1994. A discount of 0 would give unseen tokens the probability 0.
    discount = once / (once + 2 * twice) if once and twice else 0.5
    totals = np.add.reduceat(counts, first) if len(grams) else counts
    return Table(grams, counts, contexts, totals, num_types, discount)


def _lookup(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the value of each query, or 0 if it is not one of the sorted keys."""
    if not len(keys):  # no line is as long as these n-grams
        return np.zeros_like(queries)
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[index] == queries, values[index], 0)


def probabilities(model: Ngrams, grams: np.ndarray) -> np.ndarray:
    """Return P(last token | the tokens before it) of n-grams, numbers as in `Table`. float64

    At the beginning of a line there are fewer tokens, so a number has zeros in front. No line has
    two successive 0, so such a number never equals that of a longer context.
    """
    probs = np.full(grams.shape, 1 / model.vocab_size)
    for k, table in enumerate(model.tables):
        codes = grams % model.vocab_size ** (k + 1)
        contexts = codes // model.vocab_size
        total = _lookup(table.contexts, table.totals, contexts)
        counts = np.maximum(_lookup(table.grams, table.counts, codes) - table.discount, 0)
        rest = table.discount * _lookup(table.contexts, table.num_types, contexts)
        probs = np.where(total > 0, (counts + rest * probs) / np.maximum(total, 1), probs)
    return probs


def nll(model: Ngrams, split: lines.Lines) -> float:
    """Return the mean negative log likelihood of all targets of a split, in nats."""
    positions, history = _targets(split)
    stream = np.asarray(split.stream, np.int64)
    order = len(model.tables)
    grams = np.zeros(len(positions), np.int64)
    for k in range(order):
        has_k = np.minimum(history, order - 1) == k
        grams[has_k] = _codes(stream, positions[has_k], k, model.vocab_size)
    return float(-np.log(probabilities(model, grams)).mean())


def sample(model: Ngrams, rng: np.random.Generator, num: int, longest: int) -> list[list[int]]:
    """Sample `num` lines of up to `longest` tokens, all at once, without the final 0."""
    size, order = model.vocab_size, len(model.tables)
    samples, contexts = np.zeros((num, longest), np.int64), np.zeros(num, np.int64)
    for position in range(longest):
        grams = contexts[:, None] * size + np.arange(size)  # (num, V)
        cumulative = probabilities(model, grams).cumsum(axis=1)
        drawn = (rng.random((num, 1)) * cumulative[:, -1:] > cumulative).sum(axis=1)
        samples[:, position] = drawn
        contexts = (contexts * size + drawn) % size ** (order - 1)
    lengths = (np.cumsum(samples == 0, axis=1) == 0).sum(axis=1)
    return [row[:length].tolist() for row, length in zip(samples, lengths, strict=True)]

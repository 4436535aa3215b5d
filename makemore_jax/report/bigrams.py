"""The bigram statistics of a model's predictions and of the data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax import data
from makemore_jax.data.lines import Lines
from makemore_jax.decoding import LanguageModel
from makemore_jax.windows.whole_lines import read_lines

MAX_LINES = 2_000  # lines over which the predictions are averaged
MAX_VOCAB = 2_000  # tokens; the tables of 10,000 take gigabytes, and no cell of them is visible


class BigramTables(NamedTuple):
    """p(next | current), one row per current token. A row is nan if its token never occurs."""

    learned: np.ndarray  # (V, V)
    counted: np.ndarray  # (V, V)
    num_lines: int  # lines over which the predictions were averaged

    @property
    def difference(self) -> float:
        """The mean absolute difference over the rows that are known in both tables."""
        return float(np.nanmean(np.abs(self.learned - self.counted)))


def bigram_tables(lm: LanguageModel, split: Lines) -> BigramTables | None:
    """Return the table learned by a model and the table counted in a split.

    None if the vocabulary is larger than MAX_VOCAB, as of names in Chinese.
    """
    if lm.vocab.size > MAX_VOCAB:
        return None
    learned, counted = learned_bigrams(lm, split), counted_bigrams(split, lm.vocab.size)
    return BigramTables(learned, counted, min(split.size, MAX_LINES))


def learned_bigrams(lm: LanguageModel, split: Lines, max_lines: int = MAX_LINES) -> np.ndarray:
    """Average a model's predictions for each current token over the first lines. -> (V, V)

    The average over lines removes the influence of earlier tokens.
    """
    size, batch_size, V = min(split.size, max_lines), split.eval_batch_size(), lm.vocab.size

    @jax.jit
    def sums(variables: Any, split: Lines, indices: Array) -> tuple[Array, Array]:
        """Sum the predictions (V, V) and count the positions (V,) of each current token."""
        inputs, targets, _ = data.take_below(split, indices, size)
        is_current = jax.nn.one_hot(inputs, V) * (targets != -1)[..., None]  # (B, T, V)
        probs = jax.nn.softmax(read_lines(lm.model, variables, inputs))
        return jnp.einsum("btc,btn->cn", is_current, probs), is_current.sum(axis=(0, 1))

    parts = [
        sums(lm.variables, split, start + jnp.arange(batch_size))
        for start in range(0, size, batch_size)
    ]
    totals, counts = (
        np.sum(np.stack(part), axis=0, dtype=np.float64) for part in zip(*parts, strict=True)
    )
    return _normalize_rows(totals, counts)


def counted_bigrams(split: Lines, vocab_size: int) -> np.ndarray:
    """Return the relative frequencies of all pairs of tokens in a split. (V, V)"""
    stream = np.asarray(split.stream)
    counts = np.zeros((vocab_size, vocab_size))
    np.add.at(counts, (stream[:-1], stream[1:]), 1)
    return _normalize_rows(counts, counts.sum(axis=1))


def _normalize_rows(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return totals / counts[:, None]  # 0 / 0 is nan: the token never occurs

"""A network whose predictions are mixed with those of counted n-grams.

    P(token | context) = (1 - w) * P_network + w * P_ngrams        (linear interpolation)

A network generalizes, and a table remembers. Their errors differ, so the mixture predicts better
than either of them (Mikolov et al., "Empirical evaluation and combination of advanced language
modeling techniques", 2011, section 3). The network is trained alone, because a table knows the
lines that it was counted on by heart. Evaluation, scores and samples use the mixture.

The table is part of the model's variables, and therefore of its checkpoints: the smoothed
distribution after every context of up to ORDER - 1 tokens that occurs in the training lines.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.config import Config
from makemore_jax.data import Split
from makemore_jax.data.lines import Lines
from makemore_jax.errors import UserError
from makemore_jax.models.layers import Positions
from makemore_jax.models.modern import Modern
from makemore_jax.ngrams import counting
from makemore_jax.training.step import GradientFn, Sums

COLLECTION = "ngrams"  # the table among the variables of a model
MAX_ORDER = 6
UNUSED = np.iinfo(np.int32).max  # a context that does not occur


def ngram_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield the rules about the fields of n-grams."""
    model, data = config.model, config.data
    if model.ngram_contexts is None:
        yield "model.ngram_weight", model.ngram_weight == 0, "0 without model.ngram_contexts"
    else:
        is_lines = data.kind == "lines"
        yield "model.ngram_contexts", is_lines, f"null for data.kind={data.kind}"


def order_of(vocab_size: int) -> int:
    """Return the largest order, at most MAX_ORDER, for which contexts fit in an int32."""
    fits = [n for n in range(1, MAX_ORDER + 1) if (vocab_size + 1) ** (n - 1) < UNUSED]
    return max(fits)


class NgramTable(nn.Module):
    """The distributions after `num_contexts` contexts.

    Tokens plus one are digits of base V + 1, so a context of any length is a number. The empty
    context is 0. Before it is filled, the table has only the empty context and is uniform.
    """

    vocab_size: int  # V
    num_contexts: int  # R, rows of the table

    def setup(self):
        shape = self.num_contexts, self.vocab_size
        contexts = jnp.full(self.num_contexts, UNUSED, jnp.int32).at[0].set(0)
        self.contexts = self.variable(COLLECTION, "contexts", lambda: contexts)  # sorted
        self.probs = self.variable(COLLECTION, "probs", jnp.full, shape, 1 / self.vocab_size)

    def __call__(self, history: Array) -> Array:
        """Return the distribution after the longest known context. (..., ORDER - 1) -> (..., V)

        `history` has the last tokens plus one, the newest first, and 0 before the line starts.
        """
        base, row, context = self.vocab_size + 1, 0, 0
        for k in range(history.shape[-1]):
            context = context + history[..., k] * base**k
            index = jnp.searchsorted(self.contexts.value, context)
            row = jnp.where(self.contexts.value[index] == context, index, row)
        return self.probs.value[row]


class ModernMixture(Modern):
    """The family modern, mixed with n-grams if `ngram_contexts` is not None."""

    ngram_contexts: int | None = None  # rows of the table
    ngram_weight: float = 0.0  # w

    def setup(self):
        super().setup()
        if self.ngram_contexts:
            self.table = NgramTable(self.vocab_size, self.ngram_contexts)

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        logits = super().__call__(tokens, train=train, positions=positions)  # (B, T, V)
        if train or not self.ngram_contexts:
            return logits
        positions = jnp.arange(tokens.shape[1]) if positions is None else positions
        history = [
            jnp.where(positions >= k, jnp.roll(tokens, k, axis=1) + 1, 0)
            for k in range(order_of(self.vocab_size) - 1)
        ]
        return self.mix(logits, jnp.stack(history, axis=-1))

    def mix(self, logits: Array, history: Array) -> Array:
        """Return the logarithms of the mixture. (..., V), (..., ORDER - 1) -> (..., V)"""
        probs, weight = self.table(history).astype(logits.dtype), self.ngram_weight
        return jnp.log((1 - weight) * jax.nn.softmax(logits) + weight * probs)

    def init_carry(self, batch_size: int) -> Any:
        """Return the carry of the network and, with n-grams, an empty history."""
        carry = super().init_carry(batch_size)
        if not self.ngram_contexts:
            return carry
        return carry, jnp.zeros((batch_size, order_of(self.vocab_size) - 1), jnp.int32)

    def step(self, carry: Any, token: Array) -> tuple[Any, Array]:
        if not self.ngram_contexts:
            return super().step(carry, token)
        carry, history = carry
        carry, logits = super().step(carry, token)
        history = jnp.roll(history, 1, axis=1).at[:, 0].set(token + 1)
        return (carry, history), self.mix(logits, history)


def count(model: nn.Module, split: Split) -> dict[str, Any]:
    """Return the variables of the table of a model for its training lines; {} without a table.

    UserError if there are more contexts than rows.
    """
    num_rows = getattr(model, "ngram_contexts", None)
    if num_rows is None:
        return {}
    contexts, probs = smoothed_distributions(split, model.vocab_size)
    num_unused = num_rows - len(contexts)
    if num_unused < 0:
        raise UserError(
            f"model.ngram_contexts: {num_rows} must be at least {len(contexts)}, "
            "the number of contexts in the training lines"
        )
    contexts = np.pad(contexts, (0, num_unused), constant_values=UNUSED)
    probs = np.pad(probs, [(0, num_unused), (0, 0)])
    table = {"contexts": contexts.astype(np.int32), "probs": probs.astype(np.float32)}
    return {COLLECTION: {"table": jax.tree.map(jnp.asarray, table)}}


def smoothed_distributions(split: Lines, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all contexts of a split as sorted numbers (R,), and their distributions (R, V)."""
    model = counting.count(split, order_of(vocab_size), vocab_size)
    contexts, probs = [], []
    for k, table in enumerate(model.tables):  # contexts of k tokens
        tokens = table.contexts[:, None] // vocab_size ** np.arange(k) % vocab_size
        contexts.append((tokens + 1) @ (vocab_size + 1) ** np.arange(k))
        grams = table.contexts[:, None] * vocab_size + np.arange(vocab_size)
        shorter = model._replace(tables=model.tables[: k + 1])
        probs.append(counting.probabilities(shorter, grams))
    contexts, probs = np.concatenate(contexts), np.concatenate(probs)
    by_number = np.argsort(contexts)
    return contexts[by_number], probs[by_number]


def without_table(gradient_fn: GradientFn) -> GradientFn:
    """Hide the table from the gradient function: training does not read it.

    Wrappers for several devices would add up tables.
    """

    def with_network(variables: dict[str, Any], split: Split, indices: Array, key: Array) -> Sums:
        table = {name: tree for name, tree in variables.items() if name == COLLECTION}
        network = {name: tree for name, tree in variables.items() if name != COLLECTION}
        sums = gradient_fn(network, split, indices, key)
        return sums._replace(model_state=sums.model_state | table)

    return with_network

"""From logits to one token: temperature, top-k, top-p and the draw; what it needs and gives."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError


class LanguageModel(NamedTuple):
    """A model with its parameters, and what turns its tokens into text."""

    model: nn.Module
    variables: Any  # what it is applied to: {"params": ...}
    vocab: Vocab
    max_len: int  # tokens of the longest line that is drawn or scored, its end included; of texts
    # how many characters are drawn
    block_size: int = 0  # tokens of the context; of texts, which may be longer


@dataclass(frozen=True)
class Decoding:
    """How logits are bent before a token is drawn, in this order."""

    temperature: float = 1.0  # logits are divided by it; 0: always the likeliest token
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the likeliest tokens that together reach probability p

    def check(self) -> None:
        """UserError if a field is out of its range."""
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature: {self.temperature} must be a number, 0 or above")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top_k: {self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top_p: {self.top_p} must be above 0 and at most 1")


AS_IT_IS = Decoding()


def filter_logits(logits: Array, decoding: Decoding) -> Array:
    """(B, V) -> (B, V), with -inf for what must not be drawn, for a temperature above 0."""
    logits = logits / decoding.temperature
    if decoding.top_k is not None:
        logits = jnp.where(_rank(logits) < decoding.top_k, logits, -jnp.inf)
    if decoding.top_p is not None:
        probs = -jnp.sort(-jax.nn.softmax(logits), axis=-1)
        mass_before = jnp.cumsum(probs, axis=-1) - probs  # of the tokens likelier than each
        keep = jnp.take_along_axis(mass_before, _rank(logits), axis=-1) < decoding.top_p
        logits = jnp.where(keep, logits, -jnp.inf)
    return logits


def _rank(logits: Array) -> Array:
    """The place of each token by falling logit, 0 for the likeliest; of equals the first leads."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)


def draw_token(keys: Array, logits: Array, decoding: Decoding) -> Array:
    """One token for each row of logits (B, V), with a key for each row (B,). -> (B,)"""
    if decoding.temperature == 0:
        return _likeliest(logits)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
    return _likeliest(filter_logits(logits, decoding) + noise)  # as jax.random.categorical draws


def _likeliest(logits: Array) -> Array:
    """The first of the largest in each row. (B, V) -> (B,)"""
    # Not argmax, which on CPU takes 180 us for 1,000 rows where a maximum and a minimum take 20.
    is_largest = logits == logits.max(axis=-1, keepdims=True)
    V = logits.shape[-1]
    return jnp.where(is_largest, jnp.arange(V), V - 1).min(axis=-1)


def check_prompt(vocab: Vocab, prompt: str) -> None:
    """UserError for characters that training never saw."""
    if unknown := vocab.unknown(prompt):
        raise UserError(f"--prompt: training never saw {', '.join(map(repr, unknown))}")


class Sample(NamedTuple):
    """One drawn line, or text."""

    text: str
    log_prob: float  # natural log under the model itself; of a line with its end
    is_cut: bool = False  # whether the line reached the maximum length before its end

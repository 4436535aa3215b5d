"""From logits to one token: temperature, top-k, nucleus sampling, and the random choice."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.data.vocabulary import Vocab


class LanguageModel(NamedTuple):
    """A model with its parameters and its vocabulary."""

    model: nn.Module
    variables: Any  # {"params": ...}, and batch statistics if the model has any
    vocab: Vocab
    max_len: int  # maximum tokens of a line, its end included; characters of a text
    block_size: int = 0  # tokens of the context; needed for texts only


class Sample(NamedTuple):
    """One sampled line or text."""

    text: str
    log_prob: float  # natural log of its probability; the end of a line counts too
    is_cut: bool = False  # whether the line reached the maximum length before its end


@dataclass(frozen=True)
class Decoding:
    """How logits become a token: temperature, then top-k, then top-p."""

    temperature: float = 1.0  # softmax temperature; 0 is greedy
    top_k: int | None = None  # sample from the k most probable tokens
    top_p: float | None = None  # sample from the fewest tokens with this total probability


DEFAULT_DECODING = Decoding()
MIN_TEMPERATURE = 1e-6  # lower counts as 0: the largest two logits rarely differ by less


def sample_token(keys: Array, logits: Array, decoding: Decoding) -> Array:
    """Sample one token for each row of logits (B, V) with its own key (B,). -> (B,)"""
    if decoding.temperature < MIN_TEMPERATURE:
        return _argmax(logits)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
    return _argmax(filter_logits(logits, decoding) + noise)  # as in jax.random.categorical


def filter_logits(logits: Array, decoding: Decoding) -> Array:
    """Return logits (B, V) with -inf for excluded tokens. The temperature is not 0."""
    logits = logits / decoding.temperature
    if decoding.top_k is not None and decoding.top_k < logits.shape[-1]:
        logits = jnp.where(_rank(logits) < decoding.top_k, logits, -jnp.inf)
    if decoding.top_p is not None and decoding.top_p < 1:
        probs = -jnp.sort(-jax.nn.softmax(logits), axis=-1)
        mass_before = jnp.cumsum(probs, axis=-1) - probs  # of all tokens that are more probable
        top_p = max(decoding.top_p, jnp.finfo(jnp.float32).tiny)  # XLA flushes smaller numbers to 0
        is_kept = jnp.take_along_axis(mass_before, _rank(logits), axis=-1) < top_p
        logits = jnp.where(is_kept, logits, -jnp.inf)
    return logits


def _rank(logits: Array) -> Array:
    """Return the rank of each token, 0 for the most probable. Ties go to the lowest index."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)


def _argmax(logits: Array) -> Array:
    """Return the index of the maximum of each row. Ties go to the lowest index. (B, V) -> (B,)"""
    # jnp.argmax takes 180 us for 1,000 rows on XLA:CPU, a maximum and a minimum take 20.
    is_max = logits == logits.max(axis=-1, keepdims=True)
    V = logits.shape[-1]
    return jnp.where(is_max, jnp.arange(V), V - 1).min(axis=-1)

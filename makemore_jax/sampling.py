"""Sample lines in a compiled loop.

The loop calls `init_carry` and `step` of any model. Line i depends only on the key and on i, so
the first ten of fifty lines are the lines of a call for ten.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.decoding import DEFAULT_DECODING, Decoding, LanguageModel, Sample, sample_token
from makemore_jax.losses import token_losses

MAX_BATCH = 1024  # lines in one compiled call


class LoopState(NamedTuple):
    """The state of the sampling loop for B lines of at most T tokens."""

    t: Array  # () int32: position of the next token
    carry: Any  # of the model
    keys: Array  # (B,) random keys of the lines
    token: Array  # (B,) the previous token
    tokens: Array  # (T, B) sampled so far, 0 after the end; T is first: contiguous writes
    log_probs: Array  # (B,)
    ended: Array  # (B,) bool
    is_cut: Array  # (B,) bool: whether the maximum length ended the line


def init_state(model: nn.Module, variables: Any, keys: Array, max_len: int) -> LoopState:
    """Return the state before the first token of the lines with these keys (B,)."""
    B = len(keys)
    return LoopState(
        t=jnp.zeros((), jnp.int32),
        carry=model.apply(variables, B, method="init_carry"),
        keys=keys,
        token=jnp.zeros(B, jnp.int32),
        tokens=jnp.zeros((max_len, B), jnp.int32),
        log_probs=jnp.zeros(B),
        ended=jnp.zeros(B, bool),
        is_cut=jnp.zeros(B, bool),
    )


def advance(
    model: nn.Module, variables: Any, prompt: Array, decoding: Decoding, state: LoopState
) -> LoopState:
    """Sample one token of each line. `prompt` (T,) has -1 at positions to sample."""
    carry, logits = model.apply(variables, state.carry, state.token, method="step")
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.t)
    token = sample_token(keys, logits, decoding).astype(jnp.int32)
    token = jnp.where(prompt[state.t] >= 0, prompt[state.t], token)
    is_last = state.t == len(prompt) - 1  # the last position is reserved for the end of a line
    is_cut = is_last & ~state.ended & (token != 0)
    token = jnp.where(state.ended | is_last, 0, token)
    log_prob = jnp.where(state.ended, 0.0, -token_losses(logits, token))
    return LoopState(
        t=state.t + 1,
        carry=carry,
        keys=state.keys,
        token=token,
        tokens=state.tokens.at[state.t].set(token),
        log_probs=state.log_probs + log_prob,
        ended=state.ended | (token == 0),
        is_cut=state.is_cut | is_cut,
    )


@partial(jax.jit, static_argnames=("model", "decoding"))
def generate(
    model: nn.Module, variables: Any, key: Array, numbers: Array, prompt: Array, decoding: Decoding
) -> tuple[Array, Array, Array]:
    """Sample the lines with these numbers (B,). -> tokens (B, T), log-probs (B,), is_cut (B,)"""
    state = init_state(model, variables, line_keys(key, numbers), len(prompt))
    step = partial(advance, model, variables, prompt, decoding)
    state = jax.lax.while_loop(lambda state: ~state.ended.all(), step, state)
    return state.tokens.T, state.log_probs, state.is_cut


def line_keys(key: Array, numbers: Array) -> Array:
    """Return the random key of each line. (B,) -> (B,)"""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = DEFAULT_DECODING,
    first: int = 0,
) -> list[Sample]:
    """Sample `num` lines, numbered from `first` on. Each starts with `prompt`.

    A line depends only on the key and its number. The log-probability is that of the whole line
    with its prompt, before `decoding` changes the logits. The prompt must be shorter than
    `lm.max_len`, of known characters.
    """
    generate_batch = partial(generate, lm.model, lm.variables, key, decoding=decoding)
    numbers = range(first, first + num)
    return sample_batches(lm, generate_batch, prompt, numbers, min(num, MAX_BATCH))


def sample_batches(
    lm: LanguageModel, generate_batch: Callable, prompt: str, numbers: range, batch_size: int
) -> list[Sample]:
    """Sample the lines with these numbers. `generate_batch` is (numbers, prompt) -> outputs."""
    prompt_tokens, samples = np.full(lm.max_len, -1, np.int32), []  # -1: to sample
    prompt_tokens[: len(prompt)] = lm.vocab.encode(prompt)
    for start in numbers[:: max(batch_size, 1)]:
        batch = np.arange(start, start + batch_size, dtype=np.int32)
        tokens, log_probs, is_cut = jax.device_get(generate_batch(batch, prompt_tokens))
        texts = lm.vocab.decode_rows(tokens)
        samples += map(Sample, texts, log_probs.tolist(), is_cut.tolist())
    return samples[: len(numbers)]

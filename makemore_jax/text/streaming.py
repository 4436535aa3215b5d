"""Sample text, which has no end.

Each token is sampled from the model's distribution after the last `block_size` tokens. Until this
context is full, the model reads each token once and keeps its carry. After that, each new token
drops the first token of the context, so all positions change and the carry is invalid. The model
then reads the whole context for each token, at a constant cost per token.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.cli import sample_rules
from makemore_jax.decoding import (
    DEFAULT_DECODING,
    Decoding,
    LanguageModel,
    Sample,
    sample_token,
)
from makemore_jax.errors import UserError
from makemore_jax.losses import token_losses
from makemore_jax.sampling import line_keys
from makemore_jax.windows.whole_lines import read_lines

TOKENS_PER_CALL = 16  # maximum in one compiled call
MAX_CONTEXT_TOKENS = 16_384  # in the contexts of all texts of one batch


class _LoopState(NamedTuple):
    """The state of the loop in one compiled call."""

    context: Any  # the carry of the model and the last token (B,), or the last tokens (B, T)
    tokens: Array  # (TOKENS_PER_CALL, B) sampled so far
    log_probs: Array  # (TOKENS_PER_CALL, B) of each token


@partial(jax.jit, static_argnames=("model", "decoding", "is_cached"), donate_argnames="context")
def _decode(
    model: nn.Module,
    variables: Any,
    keys: Array,
    context: Any,
    start: Array,
    count: Array,
    decoding: Decoding,
    is_cached: bool,
) -> tuple[Any, Array, Array]:
    """Sample tokens number `start` to `start + count - 1` of each text.

    Return the new context, the tokens and their log-probabilities. The last two are
    (TOKENS_PER_CALL, B) each; only the first `count` rows are valid.
    """

    def body(i: Array, state: _LoopState) -> _LoopState:
        if is_cached:
            carry, logits = model.apply(variables, *state.context, method="step")
        else:
            logits = read_lines(model, variables, state.context)[:, -1]
        row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, start + i)
        token = sample_token(row_keys, logits, decoding).astype(jnp.int32)
        log_probs = state.log_probs.at[i].set(-token_losses(logits, token))
        if is_cached:
            context = carry, token
        else:
            context = jnp.concatenate([state.context[:, 1:], token[:, None]], axis=1)
        return _LoopState(context, state.tokens.at[i].set(token), log_probs)

    shape = (TOKENS_PER_CALL, len(keys))
    state = _LoopState(context, jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    return tuple(jax.lax.fori_loop(0, count, body, state))


@partial(jax.jit, static_argnames=("model", "num_texts"))
def _prefill(
    model: nn.Module, variables: Any, tokens: Array, count: Array, num_texts: int
) -> tuple[Any, Array]:
    """Read the first `count - 1` of the tokens (T,). Return the carry and the next token (B,)."""
    apply = partial(model.apply, variables)

    def body(i: Array, carry: Any) -> Any:
        token = jnp.broadcast_to(tokens[i], num_texts)
        return apply(carry, token, method="step")[0]

    carry = jax.lax.fori_loop(0, count - 1, body, apply(num_texts, method="init_carry"))
    return carry, jnp.broadcast_to(tokens[count - 1], num_texts)


def stream(
    lm: LanguageModel, key: Array, numbers: np.ndarray, prompt: str, decoding: Decoding
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens of endless texts, one text for each of `numbers` (B,).

    Each item has some tokens (B, n) and their log-probabilities (B, n). A text depends only on the
    key, its number and the prompt. Without a prompt it starts as if after the end of a line.
    This call, not the iterator, raises UserError if the vocabulary lacks a character of the prompt.
    """
    sample_rules.check_prompt(lm.vocab, prompt)
    sample_rules.check_decoding(decoding)
    prompt = prompt or ("\n" if not lm.vocab.unknown("\n") else lm.vocab.chars[0])
    keys = line_keys(key, jnp.asarray(numbers))
    return _generate(lm, keys, lm.vocab.encode(prompt), decoding)


def _generate(
    lm: LanguageModel, keys: Array, prompt_tokens: list[int], decoding: Decoding
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the items of `stream`, for texts with these keys (B,)."""
    T, B = lm.block_size, len(keys)
    last = np.tile(np.array(prompt_tokens, np.int32), (B, 1))[:, -T:]  # the context
    # A copy: the context is donated, and jax.numpy.asarray may share memory with NumPy.
    is_cached, context = last.shape[1] < T, jnp.array(last)
    if is_cached:
        padded = np.pad(last[0], (0, T - last.shape[1]))
        context = _prefill(lm.model, lm.variables, padded, last.shape[1], B)
    start = 0
    while True:
        capacity = T + 1 - last.shape[1] if is_cached else TOKENS_PER_CALL
        count = min(TOKENS_PER_CALL, capacity)
        args = (lm.variables, keys, context, start, count, decoding, is_cached)
        context, tokens, log_probs = _decode(lm.model, *args)
        new_tokens = np.asarray(tokens)[:count].T
        yield new_tokens, np.asarray(log_probs)[:count].T
        start += count
        last = np.concatenate([last, new_tokens], axis=1)[:, -T:]
        if is_cached and count == capacity:
            is_cached, context = False, jnp.array(last)


def num_new_chars(prompt: str, max_len: int) -> int:
    """Return the number of characters to sample after a prompt.

    Raise UserError if there are none.
    """
    if len(prompt) >= max_len:
        raise UserError(
            f"--prompt: {len(prompt)} characters must be fewer than --max_len={max_len}"
        )
    return max_len - len(prompt)


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = DEFAULT_DECODING,
    first: int = 0,
    check: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Sample texts number `first` to `first + num - 1` of a key, `lm.max_len` characters each.

    These characters include the prompt; the log-probability does not. `check` is called before each
    compiled call; it may raise an exception to end the sampling.
    """
    num_chars = num_new_chars(prompt, lm.max_len)
    samples: list[Sample] = []
    batch_size = max(1, min(num, MAX_CONTEXT_TOKENS // lm.block_size))
    for start in range(first, first + num, batch_size):
        parts = stream(lm, key, np.arange(start, start + batch_size), prompt, decoding)
        arrays: list[tuple[np.ndarray, np.ndarray]] = []
        num_sampled = 0
        while num_sampled < num_chars:
            check()
            arrays.append(next(parts))
            num_sampled += arrays[-1][0].shape[1]
        tokens, log_probs = (
            np.concatenate(part, axis=1)[:, :num_chars] for part in zip(*arrays, strict=True)
        )
        texts = lm.vocab.decode_rows(tokens)
        sums = log_probs.sum(axis=1).tolist()
        samples += [
            Sample(prompt + text, log_prob) for text, log_prob in zip(texts, sums, strict=True)
        ]
    return samples[:num]

"""Drawing text, which has no end.

Each token is drawn from what the model says after the last `block_size` tokens. As long as there
are no more than these, they are read through the carry, each once. From then on the context loses
its first token with every step, so that every position changes, and what a model has remembered
of them with it: the whole context is read for each token, which costs the same for all that follow.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax import models
from makemore_jax.decoding import (
    AS_IT_IS,
    Decoding,
    LanguageModel,
    Sample,
    check_prompt,
    draw_token,
)
from makemore_jax.errors import UserError
from makemore_jax.losses import token_losses

AT_ONCE = 16  # tokens drawn in one compiled call
MOST_READ_AT_ONCE = 16_384  # tokens of context of all texts that are drawn together


class _Loop(NamedTuple):
    """What the drawing of `AT_ONCE` tokens carries."""

    context: Any  # the carry of the model and the last token (B,), or the last tokens (B, T)
    tokens: Array  # (AT_ONCE, B) those drawn so far
    log_probs: Array  # (AT_ONCE, B) of each


@partial(jax.jit, static_argnames=("model", "decoding", "is_cached"), donate_argnames="context")
def _draw(
    model: nn.Module,
    variables: Any,
    keys: Array,
    context: Any,
    start: Array,
    count: Array,
    decoding: Decoding,
    is_cached: bool,
) -> tuple[Any, Array, Array]:
    """Tokens number `start` to `start + count - 1` of each text, behind its context.

    -> the context after them, they themselves (AT_ONCE, B) and their log-probabilities, likewise.
    """

    def body(i: Array, loop: _Loop) -> _Loop:
        if is_cached:
            carry, logits = model.apply(variables, *loop.context, method="step")
        else:
            logits = models.read_lines(model, variables, loop.context)[:, -1]
        row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, start + i)
        token = draw_token(row_keys, logits, decoding).astype(jnp.int32)
        log_probs = loop.log_probs.at[i].set(-token_losses(logits, token))
        if is_cached:
            context = carry, token
        else:
            context = jnp.concatenate([loop.context[:, 1:], token[:, None]], axis=1)
        return _Loop(context, loop.tokens.at[i].set(token), log_probs)

    shape = (AT_ONCE, len(keys))
    loop = _Loop(context, jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    return tuple(jax.lax.fori_loop(0, count, body, loop))


@partial(jax.jit, static_argnames=("model", "num_texts"))
def _read(
    model: nn.Module, variables: Any, tokens: Array, count: Array, num_texts: int
) -> tuple[Any, Array]:
    """The carry after the first `count - 1` of some tokens (T,), and the one after them. (B,)"""
    apply = partial(model.apply, variables)

    def body(i: Array, carry: Any) -> Any:
        token = jnp.broadcast_to(tokens[i], num_texts)
        return apply(carry, token, method="step")[0]

    carry = jax.lax.fori_loop(0, count - 1, body, apply(num_texts, method="init_carry"))
    return carry, jnp.broadcast_to(tokens[count - 1], num_texts)


def stream(
    lm: LanguageModel, key: Array, numbers: np.ndarray, prompt: str, decoding: Decoding
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Texts with these numbers (B,), without end: some tokens (B, n) and their log-probabilities.

    What follows depends on the key, the number and the prompt alone. Without a prompt a text begins
    as if behind the end of a line. UserError, at once, for a prompt that training never saw.
    """
    check_prompt(lm.vocab, prompt)
    decoding.check()
    before = prompt or ("\n" if not lm.vocab.unknown("\n") else lm.vocab.chars[0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
    return _draw_on(lm, keys, lm.vocab.encode(before), decoding)


def _draw_on(
    lm: LanguageModel, keys: Array, before: list[int], decoding: Decoding
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `stream` gives, by the key of each text and the tokens before all of them."""
    T, B = lm.block_size, len(keys)
    last = np.tile(np.array(before, np.int32), (B, 1))[:, -T:]  # the context
    # Copied: it is donated, and jax.numpy.asarray may leave it in NumPy's memory.
    is_cached, context = last.shape[1] < T, jnp.array(last)
    if is_cached:
        padded = np.pad(last[0], (0, T - last.shape[1]))
        context = _read(lm.model, lm.variables, padded, last.shape[1], B)
    start = 0
    while True:
        room = T + 1 - last.shape[1] if is_cached else AT_ONCE  # tokens until it reaches too far
        count = min(AT_ONCE, room)
        given = (lm.variables, keys, context, start, count, decoding, is_cached)
        context, tokens, log_probs = _draw(lm.model, *given)
        drawn = np.asarray(tokens)[:count].T
        yield drawn, np.asarray(log_probs)[:count].T
        start += count
        last = np.concatenate([last, drawn], axis=1)[:, -T:]
        if is_cached and count == room:
            is_cached, context = False, jnp.array(last)


def num_to_draw(prompt: str, max_len: int) -> int:
    """How many characters of a text are to be drawn behind its prompt. UserError for none."""
    if len(prompt) >= max_len:
        raise UserError(f"--prompt: {len(prompt)} characters leave none of {max_len} to draw")
    return max_len - len(prompt)


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = AS_IT_IS,
    first: int = 0,
) -> list[Sample]:
    """Draw texts number `first` to `first + num - 1` of a key, `lm.max_len` characters each.

    The prompt is the first of them. The log-probability is that of all behind it.
    """
    wanted = num_to_draw(prompt, lm.max_len)
    samples: list[Sample] = []
    at_once = min(num, max(1, MOST_READ_AT_ONCE // lm.block_size))
    for start in range(first, first + num, at_once):
        parts = stream(lm, key, np.arange(start, start + at_once), prompt, decoding)
        some = list(itertools.islice(parts, -(-wanted // AT_ONCE) + 1))
        tokens, log_probs = (np.concatenate(a, axis=1)[:, :wanted] for a in zip(*some, strict=True))
        texts = lm.vocab.decode_rows(tokens)
        sums = log_probs.sum(axis=1).tolist()
        samples += [Sample(prompt + text, total) for text, total in zip(texts, sums, strict=True)]
    return samples[:num]

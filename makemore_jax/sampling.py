"""From logits to tokens: drawing one, the compiled loop that draws many, and scoring given lines.

A line is drawn by `init_carry` and `step` of any model. Line i of a call depends on the key and
on i alone, so the first ten of fifty are the ten that a call for ten gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.data.lines import Dataset, Lines
from makemore_jax.data.text_file import Vocab
from makemore_jax.errors import UserError
from makemore_jax.training.step import token_losses

MOST_AT_ONCE = 1024  # lines in one compiled call


@dataclass(frozen=True)
class Filter:
    """How logits are bent before a token is drawn, in this order."""

    temperature: float = 1.0  # logits are divided by it; 0: always the likeliest token
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the likeliest tokens that together reach probability p

    def check(self) -> None:
        """UserError if a field is out of its range."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature: {self.temperature} must be a number, 0 or above")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top_k: {self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top_p: {self.top_p} must be above 0 and at most 1")

    def __call__(self, logits: Array) -> Array:
        """(..., V) -> (..., V), with -inf for what must not be drawn. temperature is above 0."""
        logits = logits / self.temperature
        if self.top_k is not None:
            k = min(self.top_k, logits.shape[-1])
            logits = jnp.where(_rank(logits) < k, logits, -jnp.inf)
        if self.top_p is not None:
            probs = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
            likelier = jnp.cumsum(probs, axis=-1) - probs  # the mass of the tokens before each
            keep = jnp.take_along_axis(likelier, _rank(logits), axis=-1) < self.top_p
            logits = jnp.where(keep, logits, -jnp.inf)
        return logits


def _rank(logits: Array) -> Array:
    """The place of each token when they are sorted by logit: 0 for the likeliest. No ties."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)


def draw_token(keys: Array, logits: Array, bend: Filter) -> Array:
    """One token for each row of logits (B, V), with a key for each row (B,). -> (B,)"""
    if bend.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return jax.vmap(jax.random.categorical)(keys, bend(logits))


class _Loop(NamedTuple):
    """What the sampling loop carries."""

    t: Array  # () int32: the position being filled
    carry: Any  # of the model
    token: Array  # (B,) the token before it
    tokens: Array  # (T, B) those drawn so far; time leads, so that a row is written in place
    log_probs: Array  # (B,)
    ended: Array  # (B,) bool


@partial(jax.jit, static_argnames=("model", "block_size", "bend"))
def _sample_lines(
    model: nn.Module,
    params: Any,
    keys: Array,
    prompt: Array,
    prompt_size: Array,
    block_size: int,
    bend: Filter,
) -> tuple[Array, Array]:
    """A line for each key: tokens (B, T), 0 after their end, and log-probabilities (B,)."""
    apply = partial(model.apply, {"params": params})
    B, T = keys.shape[0], block_size

    def body(loop: _Loop) -> _Loop:
        carry, logits = apply(loop.carry, loop.token, method="step")
        row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, loop.t)
        token = draw_token(row_keys, logits, bend).astype(jnp.int32)
        token = jnp.where(loop.t < prompt_size, prompt[loop.t], token)
        token = jnp.where(loop.ended | (loop.t == T - 1), 0, token)  # no line is longer than T - 1
        log_prob = jnp.where(loop.ended, 0.0, -token_losses(logits, token))
        return _Loop(
            t=loop.t + 1,
            carry=carry,
            token=token,
            tokens=loop.tokens.at[loop.t].set(token),
            log_probs=loop.log_probs + log_prob,
            ended=loop.ended | (token == 0),
        )

    first = _Loop(
        t=jnp.zeros((), jnp.int32),
        carry=apply(B, method="init_carry"),
        token=jnp.zeros(B, jnp.int32),
        tokens=jnp.zeros((T, B), jnp.int32),
        log_probs=jnp.zeros(B),
        ended=jnp.zeros(B, bool),
    )
    last = jax.lax.while_loop(lambda loop: ~loop.ended.all(), body, first)
    return last.tokens.T, last.log_probs


class Sample(NamedTuple):
    """One drawn line."""

    text: str
    log_prob: float  # natural log under the model itself, the end included


def check_prompt(prompt: str, vocab: Vocab, block_size: int) -> None:
    """UserError if no line can begin with this prompt."""
    if unknown := vocab.unknown(prompt):
        raise UserError(f"--prompt: training never saw {', '.join(map(repr, unknown))}")
    if len(prompt) >= block_size:
        raise UserError(
            f"--prompt: {len(prompt)} characters are too long; "
            f"the model's lines have at most {block_size - 1}"
        )


def sample(
    model: nn.Module,
    params: Any,
    vocab: Vocab,
    block_size: int,
    key: Array,
    num: int,
    prompt: str = "",
    bend: Filter = Filter(),  # noqa: B008  (frozen)
    first: int = 0,
) -> list[Sample]:
    """Draw lines number `first` to `first + num - 1` of a key, each beginning with `prompt`.

    The log-probability is that of the whole line, its prompt included, under the model as it is,
    whatever the filter. UserError for a prompt with which no line can begin.
    """
    check_prompt(prompt, vocab, block_size)
    tokens = np.zeros(block_size, np.int32)
    tokens[: len(prompt)] = vocab.encode(prompt)
    samples: list[Sample] = []
    batch_size = min(num, MOST_AT_ONCE)
    for start in range(first, first + num, MOST_AT_ONCE):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(batch_size))
        drawn, log_probs = _sample_lines(
            model, params, keys, jnp.asarray(tokens), len(prompt), block_size, bend
        )
        texts = map(vocab.decode, np.asarray(drawn).tolist())
        samples += map(Sample, texts, np.asarray(log_probs).tolist())
    return samples[:num]


def sample_new(
    dataset: Dataset, most_tries: int = 100, **arguments: Any
) -> Iterator[Sample]:
    """Draw until `num` lines are in no split of the data, or `most_tries` times as many are drawn.

    Takes the keyword arguments of `sample`.
    """
    num, wanted = arguments["num"], arguments["num"]
    for i in range(most_tries):
        samples = sample(**arguments, first=i * num)
        found = dataset.found_in([s.text for s in samples])
        for drawn in (s for s, where in zip(samples, found, strict=True) if where == "new"):
            yield drawn
            wanted -= 1
            if not wanted:
                return


@partial(jax.jit, static_argnames="model")
def _line_losses(model: nn.Module, params: Any, split: Lines, indices: Array) -> Array:
    inputs, targets = split.take(indices)
    return token_losses(model.apply({"params": params}, inputs), targets).sum(axis=1)


def score(model: nn.Module, params: Any, split: Lines) -> np.ndarray:
    """The log-probability of each line of a split, the end included. -> (N,) float32"""
    batch_size = min(split.size, MOST_AT_ONCE)
    losses = [
        _line_losses(
            model, params, split, jnp.minimum(start + jnp.arange(batch_size), split.size - 1)
        )
        for start in range(0, split.size, batch_size)
    ]
    return -np.concatenate(losses)[: split.size]

"""Drawing lines, in a compiled loop, and scoring given ones.

A line is drawn by `init_carry` and `step` of any model. Line i of a call depends on the key and
on i alone, so the first ten of fifty are the ten that a call for ten gives. Texts, which have no
end, are drawn by `streaming`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax import models
from makemore_jax.data.lines import Dataset, Lines, encode
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
from makemore_jax.parallel import mesh as meshes
from makemore_jax.parallel import shardings
from makemore_jax.text import streaming

MOST_AT_ONCE = 1024  # lines in one compiled call on a CPU
ACCELERATOR_BYTES = 2**30  # of the carries of all lines in one compiled call on a GPU or TPU
FEWEST_AT_ONCE = 128  # of fewer lines those that have ended go on with the others


class _Loop(NamedTuple):
    """What the sampling loop carries."""

    t: Array  # () int32: the position being filled
    carry: Any  # of the model
    keys: Array  # (B,) of the lines
    token: Array  # (B,) the token before it
    tokens: Array  # (T, B) those drawn so far; time leads, so that a row is written in place
    log_probs: Array  # (B,)
    ended: Array  # (B,) bool
    is_cut: Array  # (B,) bool: whether the end was forced at the maximum length


@partial(jax.jit, static_argnames=("model", "max_len", "decoding", "mesh"))
def _sample_lines(
    model: nn.Module,
    variables: Any,
    key: Array,
    numbers: Array,
    prompt: Array,
    prompt_size: Array,
    max_len: int,
    decoding: Decoding,
    mesh: Mesh,
) -> tuple[Array, Array, Array]:
    """The lines with these numbers (B,): tokens (B, T), 0 after their end; log-probabilities;
    whether they were cut.

    Each device of the mesh draws its own part of them, without a word to the others.
    """
    draw = partial(_draw_lines, model, max_len, decoding)
    arguments = (P(), P(), P("data"), P(), P())
    spread = jax.shard_map(
        draw, mesh=mesh, in_specs=arguments, out_specs=P("data"), check_vma=False
    )
    return spread(variables, key, numbers, prompt, prompt_size)


def _draw_lines(
    model: nn.Module,
    max_len: int,
    decoding: Decoding,
    variables: Any,
    key: Array,
    numbers: Array,
    prompt: Array,
    prompt_size: Array,
) -> tuple[Array, Array, Array]:
    """As _sample_lines, on one device."""
    apply = partial(model.apply, variables)
    T = max_len

    def begin(keys: Array) -> _Loop:
        B = len(keys)
        return _Loop(
            t=jnp.zeros((), jnp.int32),
            carry=apply(B, method="init_carry"),
            keys=keys,
            token=jnp.zeros(B, jnp.int32),
            tokens=jnp.zeros((T, B), jnp.int32),
            log_probs=jnp.zeros(B),
            ended=jnp.zeros(B, bool),
            is_cut=jnp.zeros(B, bool),
        )

    def body(loop: _Loop) -> _Loop:
        carry, logits = apply(loop.carry, loop.token, method="step")
        row_keys = jax.vmap(jax.random.fold_in, (0, None))(loop.keys, loop.t)
        token = draw_token(row_keys, logits, decoding).astype(jnp.int32)
        token = jnp.where(loop.t < prompt_size, prompt[loop.t], token)
        is_last = loop.t == T - 1  # no line is longer than T - 1
        is_cut = is_last & ~loop.ended & (token != 0)
        token = jnp.where(loop.ended | is_last, 0, token)
        log_prob = jnp.where(loop.ended, 0.0, -token_losses(logits, token))
        return _Loop(
            t=loop.t + 1,
            carry=carry,
            keys=loop.keys,
            token=token,
            tokens=loop.tokens.at[loop.t].set(token),
            log_probs=loop.log_probs + log_prob,
            ended=loop.ended | (token == 0),
            is_cut=loop.is_cut | is_cut,
        )

    def finish(loop: _Loop) -> tuple[Array, Array, Array]:
        """Run all lines to their end: tokens (T, B), log-probabilities, whether they were cut."""
        B = len(loop.keys)
        # Where half of the lines have ended, only the others go on: names have 6 characters, the
        # longest 14, and a loop over all of them would draw ends most of the time.
        half = B // 2 if B >= 2 * FEWEST_AT_ONCE else 0
        loop = jax.lax.while_loop(lambda loop: (~loop.ended).sum() > half, body, loop)
        if not half:
            return loop.tokens, loop.log_probs, loop.is_cut
        rows = jnp.argsort(loop.ended)[:half]  # of equals the first leads
        tokens, log_probs, is_cut = finish(_take_rows(begin, loop, rows))
        return (
            loop.tokens.at[:, rows].set(tokens),
            loop.log_probs.at[rows].set(log_probs),
            loop.is_cut.at[rows].set(is_cut),
        )

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    tokens, log_probs, is_cut = finish(begin(keys))
    return tokens.T, log_probs, is_cut


def _take_rows(begin: Callable[[Array], _Loop], loop: _Loop, rows: Array) -> _Loop:
    """The loop of the lines at `rows` alone. Which axis of an array is that of the lines shows in
    how its shape changes with their number."""
    one, two = (jax.eval_shape(begin, loop.keys[:n]) for n in (1, 2))

    def take(array: Array, one: Array, two: Array) -> Array:
        axes = [i for i in range(array.ndim) if one.shape[i] != two.shape[i]]
        # Clipped, as Colab's jax can't fill in a key for a row that is not there.
        return jnp.take(array, rows, axis=axes[0], mode="clip") if axes else array

    return jax.tree.map(take, loop, one, two)


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = AS_IT_IS,
    first: int = 0,
) -> list[Sample]:
    """Draw lines number `first` to `first + num - 1` of a key, each beginning with `prompt`.

    The log-probability is that of the whole line, its prompt included, under the model as it is,
    however the logits are bent. UserError for a prompt with which no line can begin.
    """
    if not lm.vocab.has_end:
        return streaming.sample(lm, key, num, prompt, decoding, first)
    check_prompt(lm.vocab, prompt)
    if len(prompt) >= lm.max_len:
        raise UserError(
            f"--prompt: {len(prompt)} characters are too many; "
            f"the lines of this model have at most {lm.max_len - 1}"
        )
    decoding.check()
    tokens = np.zeros(lm.max_len, np.int32)
    tokens[: len(prompt)] = lm.vocab.encode(prompt)
    samples: list[Sample] = []
    at_once = min(num, _max_lines(lm))
    mesh = meshes.make_lines_mesh(at_once)
    at_once = -(-at_once // mesh.size) * mesh.size
    variables = jax.device_put(lm.variables, shardings.replicated(mesh))
    for start in range(first, first + num, at_once):
        numbers = np.arange(start, start + at_once, dtype=np.int32)
        given = (variables, key, numbers, tokens, len(prompt))
        drawn, log_probs, is_cut = _sample_lines(lm.model, *given, lm.max_len, decoding, mesh)
        texts = lm.vocab.decode_rows(np.asarray(drawn))
        samples += map(Sample, texts, np.asarray(log_probs).tolist(), np.asarray(is_cut).tolist())
    return samples[:num]


def _max_lines(lm: LanguageModel) -> int:
    """Return how many lines are sampled in one compiled call.

    On an accelerator a call takes longer than its lines, so it has as many as fit in memory.
    """
    if jax.default_backend() == "cpu":
        return MOST_AT_ONCE
    init_carry = partial(lm.model.apply, lm.variables, 1, method="init_carry")
    carry = jax.tree.leaves(jax.eval_shape(init_carry))
    num_bytes = sum(a.size * a.dtype.itemsize for a in carry) + lm.max_len * 4  # and the tokens
    return max(MOST_AT_ONCE, ACCELERATOR_BYTES // num_bytes)


def sample_new(
    lm: LanguageModel,
    dataset: Dataset,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = AS_IT_IS,
    most_rounds: int = 100,
) -> list[Sample]:
    """As `sample`, but only the lines that are in no split of the data, and are not cut.

    Gives fewer than `num` when `most_rounds * num` draws hold no more.
    """
    new: list[Sample] = []
    for i in range(most_rounds):
        samples = sample(lm, key, num, prompt, decoding, first=i * num)
        places = dataset.found_in([s.text for s in samples], [s.is_cut for s in samples])
        new += [line for line, place in zip(samples, places, strict=True) if place == "new"]
        if len(new) >= num or decoding.temperature == 0:  # all further lines would be the same
            break
    return new[:num]


@partial(jax.jit, static_argnames="model")
def _log_probs(model: nn.Module, variables: Any, split: Lines, indices: Array) -> Array:
    inputs, targets, _ = split.take(indices)
    return -token_losses(models.read_lines(model, variables, inputs), targets).sum(axis=1)


def score(
    lm: LanguageModel, words: list[str], track: Callable[[range], Iterable[int]] = iter
) -> list[float]:
    """The log-probability of each line, its end included, in nats.

    `track` wraps the range of the batches, as `progress.track` does. UserError for a
    line that is too long or has a character that training never saw.
    """
    for word in words:
        if unknown := lm.vocab.unknown(word):
            raise UserError(f"--score: training never saw {unknown[0]!r}, which is in {word!r}")
        if len(word) >= lm.max_len:
            raise UserError(
                f"--score: {word[:40]!r} has {len(word)} characters; "
                f"the lines of this model have at most {lm.max_len - 1}"
            )
    split = encode(words, lm.vocab, lm.max_len)
    batch_size = min(len(words), split.batch_size())
    found = [
        _log_probs(
            lm.model,
            lm.variables,
            split,
            jnp.minimum(start + jnp.arange(batch_size), len(words) - 1),
        )
        for start in track(range(0, len(words), batch_size))
    ]
    return np.concatenate(found)[: len(words)].tolist()

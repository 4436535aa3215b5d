"""The sampling loop as one function of arrays, which jax.export can serialize."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array, export

from makemore_jax.decoding import MIN_TEMPERATURE, Decoding, LanguageModel, sample_token
from makemore_jax.losses import token_losses
from makemore_jax.windows.whole_lines import read_lines

PLATFORMS = ("cpu", "cuda", "tpu")


class _Inputs(NamedTuple):
    """The constants of the sampling loop."""

    variables: Any
    keys: Array  # (B,) one per row
    tokens: Array  # (L,); every row starts with the first num_given
    num_given: Array  # () int32
    temperature: Array  # () float32


class _Loop(NamedTuple):
    """State of the sampling loop."""

    t: Array  # () int32: index of the newest token
    carry: Any  # of the model, with a leading axis of rows
    tokens: Array  # (B, L) int32
    log_probs: Array  # (B,)
    is_ended: Array  # (B,) bool: the row contains the end of its line


def decode(
    lm: LanguageModel,
    variables: dict[str, Array],
    seed: Array,
    rows: Array,
    tokens: Array,
    num_given: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """Return the same samples as `sampling.sample`: tokens (B, L), log-probabilities (B,).

    Rows are independent (`vmap`), so the exported function has a symbolic B. For a text L is
    symbolic, too.

    Args:
        variables: the variables of the model, by path.
        seed: () uint32.
        rows: (B,) int32 row numbers. A row depends only on the seed and its number.
        tokens: (L,) int32. Every row starts with the first `num_given`; the others are ignored. A
            line starts with token 0 and has L = max_len + 1.
        num_given: () int32, at least 1.
        temperature: () float32; 0 is greedy.

    Returns:
        Tokens, which are 0 after the end of a line, and natural log-probabilities at temperature 1
        of the whole line, or of the text after the given tokens.
    """
    is_lines, block_size = lm.vocab.has_end, lm.block_size
    variables = traverse_util.unflatten_dict(variables, sep=".")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)
    inputs = _Inputs(variables, keys, tokens, num_given, temperature)
    apply = partial(lm.model.apply, variables)
    B, L = rows.shape[0], tokens.shape[0]

    def step(carry: Any, token: Array) -> tuple[Any, Array]:
        carry, logits = apply(carry, token[None], method="step")
        return carry, logits[0]

    def use_carry(loop: _Loop) -> _Loop:
        return _append(lm, inputs, loop, *jax.vmap(step)(loop.carry, loop.tokens[:, loop.t]))

    def read(context: Array) -> Array:
        return read_lines(lm.model, variables, context[None])[0, -1]

    def use_context(loop: _Loop) -> _Loop:
        """Process the last tokens again, since each new token shifts their positions."""
        context = loop.tokens[:, loop.t + 1 - block_size + jnp.arange(block_size)]
        return _append(lm, inputs, loop, loop.carry, jax.vmap(read)(context))

    loop = _Loop(
        t=jnp.zeros((), jnp.int32),
        carry=jax.vmap(lambda _: apply(1, method="init_carry"))(rows),
        tokens=jnp.zeros((B, L), jnp.int32) + jnp.where(jnp.arange(L) < num_given, tokens, 0),
        log_probs=jnp.zeros(B),
        is_ended=jnp.zeros(B, bool),
    )
    last = L - 1 if is_lines else jnp.minimum(L - 1, block_size)
    loop = jax.lax.while_loop(lambda loop: (loop.t < last) & ~loop.is_ended.all(), use_carry, loop)
    if not is_lines:
        loop = loop._replace(t=jnp.maximum(loop.t, num_given - 1))  # skip the rest of the prompt
        loop = jax.lax.while_loop(lambda loop: loop.t < L - 1, use_context, loop)
    return loop.tokens, loop.log_probs


def _append(lm: LanguageModel, inputs: _Inputs, loop: _Loop, carry: Any, logits: Array) -> _Loop:
    """Sample the token after position t from `logits` (B, V) and write it."""
    is_lines, L = lm.vocab.has_end, loop.tokens.shape[1]
    is_given = loop.t + 1 < inputs.num_given
    keys_index = loop.t if is_lines else loop.t + 1 - inputs.num_given
    keys = jax.vmap(jax.random.fold_in, (0, None))(inputs.keys, keys_index)
    is_greedy = inputs.temperature < MIN_TEMPERATURE
    sampled = sample_token(keys, logits / jnp.where(is_greedy, 1, inputs.temperature), Decoding())
    most_probable = sample_token(keys, logits, Decoding(temperature=0))
    token = jnp.where(is_greedy, most_probable, sampled).astype(jnp.int32)
    token = jnp.where(is_given, loop.tokens[:, loop.t + 1], token)
    if is_lines:  # the last token is always an end
        token = jnp.where(loop.is_ended | (loop.t == L - 2), 0, token)
    is_counted = ~loop.is_ended & (is_lines | ~is_given)
    return _Loop(
        t=loop.t + 1,
        carry=carry,
        tokens=loop.tokens.at[:, loop.t + 1].set(token),
        log_probs=loop.log_probs + jnp.where(is_counted, -token_losses(logits, token), 0.0),
        is_ended=loop.is_ended | (is_lines & (token == 0)),
    )


def serialize_decode(lm: LanguageModel, variables: dict[str, np.ndarray]) -> bytes:
    """Return `decode` of a model as jax.export serializes it, for PLATFORMS."""
    batch, *length = export.symbolic_shape("batch" if lm.vocab.has_end else "batch, length")
    shape = jax.ShapeDtypeStruct
    exported = export.export(jax.jit(partial(decode, lm)), platforms=PLATFORMS)(
        {name: shape(array.shape, array.dtype) for name, array in variables.items()},
        shape((), jnp.uint32),
        shape((batch,), jnp.int32),
        shape(tuple(length) or (lm.max_len + 1,), jnp.int32),
        shape((), jnp.int32),
        shape((), jnp.float32),
    )
    return bytes(exported.serialize())

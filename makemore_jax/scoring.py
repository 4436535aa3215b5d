"""Score lines: their log-probability under a model."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.cli import sample_rules
from makemore_jax.data.lines import Lines, encode
from makemore_jax.decoding import LanguageModel
from makemore_jax.losses import token_losses
from makemore_jax.windows.whole_lines import read_lines


@partial(jax.jit, static_argnames="model")
def _log_probs(model: nn.Module, variables: Any, split: Lines, indices: Array) -> Array:
    inputs, targets, _ = split.take(indices)
    return -token_losses(read_lines(model, variables, inputs), targets).sum(axis=1)


def score(
    lm: LanguageModel, words: list[str], track: Callable[[range], Iterable[int]] = iter
) -> list[float]:
    """Return the log-probability of each line, its end included, in nats.

    `track` wraps the range of the batches to show progress. Raise UserError if a line is too long
    or has an unknown character.
    """
    sample_rules.check_lines(words, lm.vocab, lm.max_len, "--score")
    if not words:
        return []
    split = encode(words, lm.vocab, lm.max_len)
    batch_size = min(len(words), split.eval_batch_size())
    log_probs = []
    for start in track(range(0, len(words), batch_size)):
        indices = jnp.minimum(start + jnp.arange(batch_size), len(words) - 1)
        log_probs.append(_log_probs(lm.model, lm.variables, split, indices))
    return np.concatenate(log_probs)[: len(words)].tolist()

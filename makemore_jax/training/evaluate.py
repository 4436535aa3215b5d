"""The exact loss over a split: every target once, weighted by tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.data import Batch, Split, take_below
from makemore_jax.losses import sum_losses


def evaluate_batch(model: nn.Module, variables: Any, batch: Batch) -> Array:
    """Return the sum of the losses of a batch in nats, and the number of its targets. (2,)"""
    return jnp.stack(sum_losses(model.apply(variables, batch.inputs), batch.targets))


def make_evaluate(model: nn.Module, track: Callable[..., Any] = iter) -> Callable[..., float]:
    """Return the function (variables, split, maximum number of examples) -> nats per token.

    The model is compiled once for all splits, because all batches have one shape. The host adds
    their sums in float64. `track` wraps the range of the batches to show progress.
    """
    take, sum_batch = jax.jit(take_below), jax.jit(partial(evaluate_batch, model))

    def evaluate(variables: Any, split: Split, max_examples: int | None = None) -> float:
        split, sums = split.for_evaluation(), []
        size = min(split.size, max_examples or split.size)
        batch = np.arange(split.eval_batch_size(), dtype=np.int32)
        for start in track(range(0, size, len(batch))):
            part = split.load(lambda start=start: np.minimum(start + batch, size - 1))
            sums.append(sum_batch(variables, take(part, start + batch, size)))
        loss, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        return float(loss / count)

    return evaluate

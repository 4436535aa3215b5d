"""The exact loss over a split: every target once, weighted by tokens."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.data import Batch, Split, take_below
from makemore_jax.losses import token_losses

# (variables, split, indices (B,), size) -> sums of losses and of targets of each device (D, 2).
# Indices of `size` or more do not count.
BatchSums = Callable[[Any, Split, np.ndarray, int], Array]


def sum_losses(model: nn.Module, variables: Any, batch: Batch) -> Array:
    """Return the sum of the losses of a batch in nats, and the number of its targets. (2,)"""
    losses = token_losses(model.apply(variables, batch.inputs), batch.targets)
    return jnp.stack([losses.sum(), (batch.targets != -1).sum().astype(losses.dtype)])


def make_batch_sums(model: nn.Module) -> BatchSums:
    """Return the compiled function that evaluates one batch on one device.

    The model is compiled once for all splits, because all batches have one shape.
    """
    take = jax.jit(take_below)
    sum_batch = jax.jit(lambda variables, batch: sum_losses(model, variables, batch)[None])

    def batch_sums(variables: Any, split: Split, indices: np.ndarray, size: int) -> Array:
        part = split.load(lambda: np.minimum(indices, size - 1))
        return sum_batch(variables, take(part, indices, size))

    return batch_sums


def fetch_sum(arrays: list[Array]) -> np.ndarray:
    """Return the sum of arrays (D, ...) over all of them and over D, in float64. (...)"""
    return np.sum(jax.device_get(arrays), axis=(0, 1), dtype=np.float64)


def make_evaluate(
    batch_sums: BatchSums,
    num_devices: int = 1,
    fetch_sum: Callable[[list[Array]], np.ndarray] = fetch_sum,
    track: Callable[[range], Iterable[int]] = iter,
) -> Callable[..., float]:
    """Return the function (variables, split, maximum number of examples) -> nats per token.

    Batch sizes are multiples of `num_devices`. The host adds the sums of the batches in float64.
    `track` wraps the range of the batches, as `progress.track` does.
    """

    def evaluate(variables: Any, split: Split, max_examples: int | None = None) -> float:
        split = split.for_evaluation()
        size = min(split.size, max_examples or split.size)
        batch_size = -(-split.batch_size() // num_devices) * num_devices
        batch = np.arange(batch_size, dtype=np.int32)
        sums = [
            batch_sums(variables, split, start + batch, size)
            for start in track(range(0, size, batch_size))
        ]
        loss, count = fetch_sum(sums)
        return float(loss / count)

    return evaluate

"""The exact loss over a split, every example once, weighted by tokens; and batch statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from makemore_jax import sharding
from makemore_jax.data import Split, at_hand, each_once, take_below
from makemore_jax.losses import token_losses


def sum_losses(model: nn.Module, variables: Any, inputs: Array, targets: Array) -> Array:
    """The sum of the losses of a batch in nats, and over how many tokens it is. (2,)"""
    losses = token_losses(model.apply(variables, inputs), targets)
    return jnp.stack([losses.sum(), (targets != -1).sum().astype(losses.dtype)])


def make_evaluate(model: nn.Module, mesh: Mesh | None = None) -> Callable[..., float]:
    """The function (variables, split, most examples to use) -> loss in nats per token.

    Batches are spread over the `data` axis of the mesh, if one is given.

    All batches have one shape, so the model is compiled once for all splits; the sums of the
    batches are added up on the host, in float64.
    """
    num_parts = mesh.shape["data"] if mesh else 1
    place = sharding.batch(mesh) if mesh else None
    everywhere = sharding.replicated(mesh) if mesh else None

    take = jax.jit(take_below)
    sum_batch = jax.jit(partial(sum_losses, model), out_shardings=everywhere)

    def evaluate(variables: Any, split: Split, max_examples: int | None = None) -> float:
        split = each_once(split)
        size = min(split.size, max_examples or split.size)
        batch_size = -(-split.batch_size() // num_parts) * num_parts

        def sums(start: int) -> Array:
            indices = start + np.arange(batch_size, dtype=np.int32)
            part = at_hand(split, np.minimum(indices, size - 1))
            part = part if part is split else sharding.put(part, everywhere)
            return sum_batch(variables, *take(part, sharding.put(indices, place), size))

        found = jax.device_get([sums(start) for start in range(0, size, batch_size)])
        loss, count = np.sum(found, axis=0, dtype=np.float64)
        return float(loss / count)

    return evaluate


MOST_CALIBRATED = 200_000  # examples that go through the model at once


def make_calibrate(model: nn.Module) -> Callable[[Any, Split], Any]:
    """The compiled function (variables, split) -> batch statistics over a whole split, at once.

    They are those of its first 200,000 examples (Ioffe and Szegedy 2015, algorithm 2, has the mean
    over batches). Each layer sees what the layers before it give with statistics of these examples.
    """

    @jax.jit
    def calibrate(variables: Any, split: Split) -> Any:
        whole = model.clone(momentum=1.0)  # the new statistics are those of the batch alone
        inputs, _ = split.take(jnp.arange(min(split.size, MOST_CALIBRATED)))
        _, updated = whole.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    return calibrate

"""The exact loss over a split: every example once, weighted by tokens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from makemore_jax import sharding
from makemore_jax.data.lines import Lines
from makemore_jax.losses import token_losses


def make_evaluate(model: nn.Module, mesh: Mesh | None = None) -> Callable[..., float]:
    """The function (params, split, most examples to use) -> loss in nats per token.

    Batches are spread over the `data` axis of the mesh, if one is given.

    All batches have one shape, so the model is compiled once for all splits; the sums of the
    batches are added up on the host, in float64.
    """
    num_parts = mesh.shape["data"] if mesh else 1
    place = sharding.batch(mesh) if mesh else None

    @jax.jit
    def take(split: Lines, indices: Array, size: Array) -> tuple[Array, Array]:
        """The examples at `indices`, with no targets where an index is not below `size`."""
        inputs, targets = split.take(jnp.minimum(indices, size - 1))
        return inputs, jnp.where((indices < size)[:, None], targets, -1)

    @jax.jit
    def sum_losses(params: Any, inputs: Array, targets: Array) -> Array:
        losses = token_losses(model.apply({"params": params}, inputs), targets)
        return jnp.stack([losses.sum(), (targets != -1).sum().astype(losses.dtype)])

    def evaluate(params: Any, split: Lines, max_examples: int | None = None) -> float:
        size = min(split.size, max_examples or split.size)
        batch_size = -(-split.batch_size() // num_parts) * num_parts
        indices = np.arange(batch_size)
        sums = [
            sum_losses(params, *take(split, jax.device_put(start + indices, place), size))
            for start in range(0, size, batch_size)
        ]
        loss, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        return float(loss / count)

    return evaluate

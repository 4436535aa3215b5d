"""Batch statistics of the training split, to use a model with batch norm after training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from makemore_jax.data import Split

MAX_EXAMPLES = 200_000  # in one forward pass


def make_calibrate(model: nn.Module) -> Callable[[Any, Split], dict[str, Any]]:
    """Return the compiled function (variables, split) -> model state for the whole split.

    The statistics are those of the first 200,000 examples in one batch (Ioffe and Szegedy 2015,
    algorithm 2, averages over batches). Each layer sees the output of calibrated layers.
    """

    @jax.jit
    def calibrate(variables: Any, split: Split) -> dict[str, Any]:
        whole = model.clone(momentum=1.0)  # the new statistics are those of this batch alone
        inputs = split.take(jnp.arange(min(split.size, MAX_EXAMPLES))).inputs
        _, updated = whole.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return dict(updated)

    return calibrate

"""Recompute batch-norm statistics from the first examples of the training split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from makemore_jax.data import Split

MAX_EXAMPLES = 200_000  # in one forward pass


def make_calibrate(model: nn.Module) -> Callable[[Any, Split], dict[str, Any]]:
    """Return the compiled function (variables, split) -> model state.

    Compute the statistics of the first 200,000 examples in one batch. (Ioffe and Szegedy 2015,
    algorithm 2, average over several batches.) Each layer reads the output of calibrated layers.
    """

    @jax.jit
    def calibrate(variables: Any, split: Split) -> dict[str, Any]:
        one_batch_model = model.clone(momentum=1.0)  # use the statistics of this batch only
        inputs = split.take(jnp.arange(min(split.size, MAX_EXAMPLES))).inputs
        _, updated = one_batch_model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return dict(updated)

    return calibrate

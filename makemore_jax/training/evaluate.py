"""The exact loss over a split: every example once, weighted by tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.data.lines import Lines
from makemore_jax.training.step import token_losses

TOKENS_PER_BATCH = 16_384  # keeps the memory of an evaluation the same for every context length


def make_evaluate(model: nn.Module) -> Callable[[Any, Lines, int], float]:
    """The function (params, split, most examples to use) -> loss in nats per token."""

    @partial(jax.jit, static_argnames="num_examples")
    def batch_sums(params: Any, split: Lines, num_examples: int) -> tuple[Array, Array]:
        batch_size = max(1, min(num_examples, TOKENS_PER_BATCH // split.block_size))
        num_batches = -(-num_examples // batch_size)

        def body(_: None, i: Array) -> tuple[None, tuple[Array, Array]]:
            indices = i * batch_size + jnp.arange(batch_size)
            inputs, targets = split.take(jnp.minimum(indices, num_examples - 1))
            targets = jnp.where((indices < num_examples)[:, None], targets, -1)
            losses = token_losses(model.apply({"params": params}, inputs), targets)
            return None, (losses.sum(), (targets != -1).sum())

        return jax.lax.scan(body, None, jnp.arange(num_batches))[1]

    def evaluate(params: Any, split: Lines, max_examples: int = 2**31 - 1) -> float:
        sums, counts = batch_sums(params, split, min(split.size, max_examples))
        # The sums of the batches are added up on the host, in float64.
        return float(np.asarray(sums, np.float64).sum() / np.asarray(counts, np.int64).sum())

    return evaluate

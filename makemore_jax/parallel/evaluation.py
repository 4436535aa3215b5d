"""Evaluate on several devices. Each device sums the losses of its part, without collectives."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax.data import Batch, Split, take_below
from makemore_jax.parallel import shardings
from makemore_jax.training.evaluate import evaluate_batch

MAX_IN_FLIGHT = 2  # batches that are dispatched and not yet computed

# (variables, split, indices (B,), size) -> sums of losses and of targets of each device (D, 2).
# Indices of `size` or more do not count.
BatchSums = Callable[[Any, Split, np.ndarray, int], Array]


def compile_take_and_sum(model: nn.Module, mesh: Mesh) -> tuple[Any, Any]:
    """Return two compiled functions: `take_below`, and (variables, batch) -> device sums (D, 2)."""

    def sum_part(variables: Any, batch: Batch) -> Array:
        return evaluate_batch(model, variables, batch)[None]

    def per_device(function: Any, *in_specs: P) -> Any:
        axes = {"in_specs": in_specs, "out_specs": P("data"), "axis_names": {"data"}}
        return jax.jit(jax.shard_map(function, mesh=mesh, **axes, check_vma=False))

    return per_device(take_below, P(), P("data"), P()), per_device(sum_part, P(), P("data"))


def make_batch_sums(model: nn.Module, mesh: Mesh) -> BatchSums:
    """Return the function that evaluates a batch over the `data` axis of the mesh."""
    replicated, batch_sharding = shardings.replicated(mesh), shardings.batch(mesh)
    take, sum_batch = compile_take_and_sum(model, mesh)
    # With sharded parameters the program has collectives, so its calls must not overlap on CPU.
    sum_serialized = shardings.serialize_on_cpu(sum_batch, mesh)

    def batch_sums(variables: Any, split: Split, indices: np.ndarray, size: int) -> Array:
        part = split.load(lambda: np.minimum(indices, size - 1))
        part = part if part is split else shardings.to_global_arrays(part, replicated)
        batch = take(part, shardings.to_global_arrays(indices, batch_sharding), size)
        sums = sum_batch if shardings.is_replicated(variables) else sum_serialized
        return sums(variables, batch)

    return batch_sums


def make_evaluate(
    model: nn.Module, mesh: Mesh, check: Callable[[], None] = lambda: None
) -> Callable[..., float]:
    """Return `training.evaluate.make_evaluate(model)` for the devices of the mesh.

    `check` is called before each batch; it may raise an exception to end the evaluation.
    """
    batch_sums, num_devices = make_batch_sums(model, mesh), mesh.shape["data"]

    def evaluate(variables: Any, split: Split, max_examples: int | None = None) -> float:
        split = split.for_evaluation()
        size = min(split.size, max_examples or split.size)
        batch_size = -(-split.eval_batch_size() // num_devices) * num_devices
        batch = np.arange(batch_size, dtype=np.int32)
        sums: list[Array] = []
        for start in range(0, size, batch_size):
            if len(sums) >= MAX_IN_FLIGHT:
                sums[-MAX_IN_FLIGHT].block_until_ready()
            check()
            sums.append(batch_sums(variables, split, start + batch, size))
        loss, count = shardings.fetch_sum(sums)
        return float(loss / count)

    return evaluate

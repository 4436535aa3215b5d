"""The exact loss over a split, every example once, weighted by tokens; and batch statistics."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax.data import Split, take_below
from makemore_jax.losses import token_losses
from makemore_jax.parallel import sharding


def sum_losses(model: nn.Module, variables: Any, inputs: Array, targets: Array) -> Array:
    """The sum of the losses of a batch in nats, and over how many tokens it is. (2,)"""
    losses = token_losses(model.apply(variables, inputs), targets)
    return jnp.stack([losses.sum(), (targets != -1).sum().astype(losses.dtype)])


def make_batch_programs(model: nn.Module, mesh: Mesh | None) -> tuple[Callable, Callable]:
    """Return the two compiled functions that evaluate a batch.

    The first is `take_below`: (split, indices (B,), size) -> inputs, targets. The second is
    (variables, inputs, targets) -> sums of losses and tokens of each device (D, 2).
    """

    def sum_part(variables: Any, inputs: Array, targets: Array) -> Array:
        return sum_losses(model, variables, inputs, targets)[None]  # (1, 2), of one device

    def on_each_device(function: Callable, *in_specs: P) -> Callable:
        if mesh is None:
            return jax.jit(function)
        axes = {"in_specs": in_specs, "out_specs": P("data"), "axis_names": {"data"}}
        return jax.jit(jax.shard_map(function, mesh=mesh, **axes, check_vma=False))

    take = on_each_device(take_below, P(), P("data"), P())
    return take, on_each_device(sum_part, P(), P("data"), P("data"))


def make_evaluate(
    model: nn.Module, mesh: Mesh | None = None, track: Callable[[range], Iterable[int]] = iter
) -> Callable[..., float]:
    """The function (variables, split, most examples to use) -> loss in nats per token.

    Batches are sharded over the `data` axis of the mesh, if one is given. Each device sums the
    losses of its part, without a collective, so that all batches may be in flight at once. The host
    adds the sums in float64.

    All batches have one shape, so the model is compiled once for all splits. `track` wraps the
    range of the batches, as `progress.track` does: few are in flight at once on a CPU.
    """
    num_parts = mesh.shape["data"] if mesh else 1
    place = sharding.batch(mesh) if mesh else None
    everywhere = sharding.replicated(mesh) if mesh else None
    take, sum_batch = make_batch_programs(model, mesh)
    sum_sharded = sharding.serialize_on_cpu(sum_batch, mesh) if mesh else sum_batch

    def evaluate(variables: Any, split: Split, max_examples: int | None = None) -> float:
        split = split.for_evaluation()
        size = min(split.size, max_examples or split.size)
        batch_size = -(-split.batch_size() // num_parts) * num_parts
        # Parameters that are sharded, by fsdp or over `model`, do need collectives.
        sum_losses_of = sum_batch if sharding.is_replicated(variables) else sum_sharded

        def sums(start: int) -> Array:
            indices = start + np.arange(batch_size, dtype=np.int32)
            part = split.load(lambda: np.minimum(indices, size - 1))
            part = part if part is split else sharding.put(part, everywhere)
            return sum_losses_of(variables, *take(part, sharding.put(indices, place), size)[:2])

        loss, count = sharding.fetch_sum(sums(start) for start in track(range(0, size, batch_size)))
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
        inputs, *_ = split.take(jnp.arange(min(split.size, MOST_CALIBRATED)))
        _, updated = whole.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    return calibrate

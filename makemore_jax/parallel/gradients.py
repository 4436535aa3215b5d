"""Wrappers of a gradient function (`training.step.GradientFn`) for several devices."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax.data import Split
from makemore_jax.parallel.shardings import StateShardings
from makemore_jax.training.step import GradientFn, Sums, TrainStep


def in_microbatches(gradient_fn: GradientFn, num: int) -> GradientFn:
    """Process a batch in `num` microbatches, one after the other: gradient accumulation."""

    def accumulated(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        def microbatch(indices: Array, key: Array) -> Sums:
            return gradient_fn(variables, split, indices, key)

        microbatches = indices.reshape(num, -1), jax.random.split(key, num)
        first = tuple(a[0] for a in microbatches)
        if num == 1:
            return microbatch(*first)
        # The loop starts from zeros. A first microbatch before it would be compiled twice.
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(microbatch, *first))
        return jax.lax.scan(
            lambda sums, args: (jax.tree.map(jnp.add, sums, microbatch(*args)), None),
            zeros,
            microbatches,
        )[0]

    return accumulated


def over_devices(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """Split a batch over the `data` axis of the mesh and sum the results of the devices."""
    is_flat = mesh.shape["model"] == 1 and mesh.devices.flat[0].platform == "cpu"

    def per_device(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        sums = gradient_fn(variables, split, indices, key)
        return all_reduce_as_vector(sums) if is_flat else jax.lax.psum(sums, "data")

    # The axis `model` stays automatic: XLA partitions the computation over it.
    return jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(P(), P(), P("data"), P()),
        out_specs=P(),
        axis_names={"data"},
        check_vma=False,
    )


def all_reduce_as_vector(tree: Any) -> Any:
    """Return the sum of trees over `data`, computed as one vector.

    On CPU, one all-reduce for each array would be slower: each takes 60 us on two devices. On
    accelerators XLA combines them itself; the vector would only add two copies of the gradients.
    """
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, "data"))


def with_index_sharding(
    gradient_fn: GradientFn, sharding: jax.sharding.NamedSharding
) -> GradientFn:
    """Constrain the sharding of the indices of a batch.

    If they are sharded over `data`, XLA partitions the computation over the devices, and batch norm
    uses the statistics of the global batch.
    """

    def constrained(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        indices = jax.lax.with_sharding_constraint(indices, sharding)
        return gradient_fn(variables, split, indices, key)

    return constrained


def gathered(gradient_fn: GradientFn, state_shardings: StateShardings) -> GradientFn:
    """All-gather parameters to their compute shardings before a step."""
    compute = state_shardings.compute

    def with_gathered(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        params = jax.lax.with_sharding_constraint(variables["params"], compute)
        return gradient_fn(variables | {"params": params}, split, indices, key)

    return with_gathered


def with_gradient_shardings(
    optimizer: optax.GradientTransformation, state_shardings: StateShardings
) -> optax.GradientTransformation:
    """Constrain gradients to the compute shardings before the optimizer uses them.

    Without this, XLA:TPU in jax 0.7 reshards gradients of recurrent models (collective-permute).
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grads = jax.lax.with_sharding_constraint(grads, state_shardings.compute)
        return optimizer.update(grads, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def stored_sharded(train_step: TrainStep, state_shardings: StateShardings) -> TrainStep:
    """Constrain the state after a training step to its stored shardings."""

    def step(state: Any, split: Split, keys: Array) -> tuple[Any, dict[str, Array]]:
        state, metrics = train_step(state, split, keys)
        return jax.lax.with_sharding_constraint(state, state_shardings.stored), metrics

    return step

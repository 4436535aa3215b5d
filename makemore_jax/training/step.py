"""The training step, pure, and many of them in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax import data
from makemore_jax.data import Batch
from makemore_jax.kernels.layouts import Layout, count_chunks, first_that_fits
from makemore_jax.losses import token_losses
from makemore_jax.models import dropout_rngs
from makemore_jax.parallel import sharding
from makemore_jax.parallel.sharding import Spread
from makemore_jax.training.state import TrainState

Metrics = dict[str, Array]


def make_loss(model: nn.Module) -> Callable[..., tuple[Array, Any]]:
    """The pure function (params, batch stats, batch, dropout key) -> loss, new stats.

    The stats are {} for all families but those that norm by the batch.
    """

    def loss_fn(
        params: Any, batch_stats: Any, batch: Batch, dropout_key: Array
    ) -> tuple[Array, Any]:
        loss, (count, batch_stats) = _sum_losses(model, params, batch_stats, batch, dropout_key)
        return loss / count, batch_stats

    return loss_fn


def make_loss_and_grads(model: nn.Module) -> Callable[..., tuple[tuple[Array, Any], Any]]:
    """The pure function with the same arguments -> (loss, new stats), gradients."""
    return jax.value_and_grad(make_loss(model), has_aux=True)


def _sum_losses(
    model: nn.Module, params: Any, batch_stats: Any, batch: Batch, dropout_key: Array
) -> tuple[Array, tuple[Array, Any]]:
    """The sum of the losses of a batch; over how many tokens, and the new batch statistics."""
    inputs, targets, *_ = batch
    positions = batch[2] if len(batch) > 2 else None
    packing = {} if positions is None else {"positions": positions}
    logits, updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        inputs,
        train=True,
        rngs=dropout_rngs(model, dropout_key),
        mutable=["batch_stats"],
        **packing,
    )
    count = jnp.maximum((targets != -1).sum(), 1).astype(logits.dtype)
    return token_losses(logits, targets).sum(), (count, updated.get("batch_stats", {}))


def apply_gradients(
    state: TrainState, grads: Any, batch_stats: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state one step on."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, batch_stats)


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The pure function (state, batch, dropout key) -> (state, metrics)."""
    loss_and_grads = make_loss_and_grads(model)

    def train_step(
        state: TrainState, batch: Batch, dropout_key: Array
    ) -> tuple[TrainState, Metrics]:
        given = (state.params, state.batch_stats, batch, dropout_key)
        (loss, batch_stats), grads = loss_and_grads(*given)
        return apply_gradients(state, grads, batch_stats, optimizer), {"train_loss": loss}

    return train_step


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    layouts: list[Layout],
    mesh: Mesh,
    accumulate: int = 1,
    spread: Spread | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled function (state, split, key, num_steps) -> (state, metrics of each step).

    The state that goes in is donated: its memory is used for the one that comes out. A call returns
    at once, except on several CPU devices (`sharding.serialize_on_cpu`). Each device
    of the mesh's `data` axis computes the gradient of its part of the batch; `layouts` are what
    `data.layouts.choose` gives for it. Where the state is `spread` over devices, its parameters are
    put together for each step as far as `spread.used` says, and XLA divides what is left in parts.
    """
    num_devices = mesh.shape["data"]
    loss_and_grads = make_loss_and_grads(model)

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def train_steps(
        state: TrainState, split: data.Split, key: Array, num_steps: int
    ) -> tuple[TrainState, Metrics]:
        data_key, dropout_key = jax.random.split(key)
        as_one = bool(state.batch_stats)  # which are those of all devices' parts together
        num_chunks = 1
        if not as_one:
            platform = mesh.devices.flat[0].platform
            num_lines = batch_size // num_devices
            num_chunks = count_chunks(num_lines, split.block_size, accumulate, platform)

        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            key = jax.random.fold_in(data_key, state.step)
            indices = data.draw_indices(split, key, batch_size)
            key = jax.random.fold_in(dropout_key, state.step)
            params = state.params
            if spread:
                params = jax.lax.with_sharding_constraint(params, spread.used)

            def branch(layout: Layout) -> tuple[tuple[Array, Any], Any]:
                if as_one or num_devices * num_chunks == 1:
                    drawn = layout.take(split, indices)
                    return loss_and_grads(params, state.batch_stats, drawn, key)
                part = jax.shard_map(
                    partial(_add_up, model, num_chunks, layout, mesh.shape["model"] == 1),
                    mesh=mesh,
                    in_specs=(P(), P(), P("data"), P()),
                    out_specs=P(),
                    axis_names={"data"},  # what lies over `model` is XLA's to divide
                    check_vma=False,
                )
                loss, grads = part(params, split, indices, key)
                return (loss, {}), grads

            # Every device looks at all lengths: to ask the others would take longer.
            lies = sharding.batch(mesh) if as_one else sharding.replicated(mesh)
            indices = jax.lax.with_sharding_constraint(indices, lies)
            which = 0
            if len(layouts) > 1:
                lengths = split.lengths(indices).reshape(num_devices * num_chunks, -1)
                which = first_that_fits(layouts, lengths)
            branches = [partial(branch, layout) for layout in layouts]
            (loss, batch_stats), grads = jax.lax.switch(which, branches)
            if spread:
                grads = jax.lax.with_sharding_constraint(grads, spread.used)
            state = apply_gradients(state, grads, batch_stats, optimizer)
            if spread:
                state = jax.lax.with_sharding_constraint(state, spread.kept)
            return state, {"train_loss": loss}

        if num_steps > 1:
            return jax.lax.scan(body, state, length=num_steps)
        # XLA writes out a loop that it knows to have one step, and rounds differently there. Of
        # this one it does not know, so that wherever a run is cut, its steps are the same code.
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(body, state, None)[1])
        one = jax.lax.optimization_barrier(jnp.int32(1))
        state, metrics = jax.lax.fori_loop(0, one, lambda _, c: body(c[0], None), (state, nothing))
        return state, jax.tree.map(lambda a: a[None], metrics)

    return sharding.serialize_on_cpu(train_steps, mesh)


def _add_up(
    model: nn.Module,
    num_chunks: int,
    layout: Layout,
    as_vector: bool,
    params: Any,
    split: data.Split,
    indices: Array,
    dropout_key: Array,
) -> tuple[Array, Any]:
    """Loss and gradients of a batch of which this device has its part, chunk by chunk."""
    value_and_grad = jax.value_and_grad(partial(_sum_losses, model), has_aux=True)

    def chunk(indices: Array, key: Array) -> tuple[Array, Array, Any]:
        (loss, (count, _)), grads = value_and_grad(params, {}, layout.take(split, indices), key)
        return count, loss, grads

    key = jax.random.fold_in(dropout_key, jax.lax.axis_index("data"))
    chunks = indices.reshape(num_chunks, -1), jax.random.split(key, num_chunks)
    sums = chunk(*(a[0] for a in chunks))
    if num_chunks > 1:
        rest = tuple(a[1:] for a in chunks)
        sums, _ = jax.lax.scan(
            lambda sums, given: (jax.tree.map(jnp.add, sums, chunk(*given)), None), sums, rest
        )
    if not as_vector:
        count, loss, grads = jax.lax.psum(sums, "data")
        return loss / count, jax.tree.map(lambda a: a / count, grads)
    # As one vector: on CPU adding up over devices costs 60 us each time.
    flat, unravel = ravel_pytree(sums)
    flat = jax.lax.psum(flat, "data")
    _, loss, grads = unravel(flat / flat[0])
    return loss, grads

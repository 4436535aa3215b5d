"""The training step, pure, and many of them in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from makemore_jax import data
from makemore_jax.losses import mean_loss
from makemore_jax.training.state import TrainState

Batch = tuple[Array, Array]  # inputs (B, T), targets (B, T) with -1 where there is nothing
Metrics = dict[str, Array]


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The pure function (state, batch, dropout key) -> (state, metrics)."""

    def loss_fn(params: Any, batch: Batch, dropout_key: Array) -> Array:
        inputs, targets = batch
        rngs = {"dropout": dropout_key}
        logits = model.apply({"params": params}, inputs, train=True, rngs=rngs)
        return mean_loss(logits, targets)

    def train_step(
        state: TrainState, batch: Batch, dropout_key: Array
    ) -> tuple[TrainState, Metrics]:
        loss, grads = jax.value_and_grad(loss_fn)(state.params, batch, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), {"train_loss": loss}

    return train_step


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    batch_sharding: jax.sharding.Sharding,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled function (state, split, key, num_steps) -> (state, metrics of each step).

    The state that goes in is donated: its memory is used for the one that comes out.
    """
    train_step = make_train_step(model, optimizer)

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def train_steps(
        state: TrainState, split: data.lines.Lines, key: Array, num_steps: int
    ) -> tuple[TrainState, Metrics]:
        data_key, dropout_key = jax.random.split(key)

        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            batch = data.draw(split, jax.random.fold_in(data_key, state.step), batch_size)
            batch = jax.lax.with_sharding_constraint(batch, batch_sharding)
            return train_step(state, batch, jax.random.fold_in(dropout_key, state.step))

        if num_steps > 1:
            return jax.lax.scan(body, state, length=num_steps)
        # XLA writes out a loop that it knows to have one step, and rounds differently there. Of
        # this one it does not know, so that wherever a run is cut, its steps are the same code.
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(body, state, None)[1])
        one = jax.lax.optimization_barrier(jnp.int32(1))
        state, metrics = jax.lax.fori_loop(0, one, lambda _, c: body(c[0], None), (state, nothing))
        return state, jax.tree.map(lambda a: a[None], metrics)

    return train_steps

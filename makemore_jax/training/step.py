"""The training step: a pure function that takes a state and data and returns the next state.

A gradient function computes the loss and gradients of a batch. Packing, microbatches, devices and
sharded parameters are wrappers around it with the same signature, composed in `assemble`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from makemore_jax.data import Batch, Split, draw_indices
from makemore_jax.losses import sum_losses
from makemore_jax.training.state import TrainState

StepMetrics = dict[str, Array]  # of one step, () each; `metrics.Metrics` writes their means
TrainStep = Callable[[TrainState, Split, Array], tuple[TrainState, StepMetrics]]


class Sums(NamedTuple):
    """Loss and gradients, summed over the targets of a batch."""

    loss: Array  # () nats
    count: Array  # () number of targets
    grads: Any  # gradients of `loss`, a tree like the parameters
    model_state: Any  # the variables other than parameters after this batch


# (variables, split, indices (B,), dropout key) -> Sums
GradientFn = Callable[[dict[str, Any], Split, Array, Array], Sums]


def sum_loss(
    model: nn.Module, params: Any, model_state: Any, batch: Batch, dropout_key: Array
) -> tuple[Array, tuple[Array, Any]]:
    """Return the loss summed over the targets of a batch, and (their number, new model state)."""
    logits, model_state = model.apply(
        {"params": params, **model_state},
        batch.inputs,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=list(model_state),
        **batch.options,
    )
    loss, count = sum_losses(logits, batch.targets)
    return loss, (count, model_state)


def gradients(model: nn.Module) -> GradientFn:
    """Return the plain gradient function of a model."""

    def gradient_fn(
        variables: dict[str, Any], split: Split, indices: Array, dropout_key: Array
    ) -> Sums:
        state = dict(variables)
        params = state.pop("params")
        grad_fn = jax.value_and_grad(partial(sum_loss, model), has_aux=True)
        (loss, (count, state)), grads = grad_fn(params, state, split.take(indices), dropout_key)
        return Sums(loss, count, grads, state)

    return gradient_fn


def step_keys(keys: Array, step: Array | int) -> tuple[Array, Array]:
    """Return the keys of one step, for its batch and for dropout, from the keys of the run (2,)."""
    return jax.random.fold_in(keys[0], step), jax.random.fold_in(keys[1], step)


def make_train_step(
    gradient_fn: GradientFn, optimizer: optax.GradientTransformation, batch_size: int
) -> TrainStep:
    """Return the pure function (state, split, keys) -> (state, metrics).

    `keys` (2,) are the data key and the dropout key of the run. Each step folds `state.step` into
    them.
    """

    def train_step(state: TrainState, split: Split, keys: Array) -> tuple[TrainState, StepMetrics]:
        data_key, dropout_key = step_keys(keys, state.step)
        indices = draw_indices(split, data_key, batch_size)
        sums = gradient_fn(state.variables, split, indices, dropout_key)
        count = jnp.maximum(sums.count, 1)
        grads = jax.tree.map(lambda g: g / count, sums.grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state, sums.model_state)
        return state, {"train_loss": sums.loss / count}

    return train_step


def make_train_steps(train_step: TrainStep) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Return the compiled function (state, split, key, num_steps) -> (state, metrics of each step).

    The input state is donated: its memory is reused for the output. Calls are asynchronous.
    """

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def train_steps(
        state: TrainState, split: Split, key: Array, num_steps: int
    ) -> tuple[TrainState, StepMetrics]:
        keys = jax.random.split(key)  # inside the loop it takes up to 4% of a step

        def body(state: TrainState, _: None) -> tuple[TrainState, StepMetrics]:
            return train_step(state, split, keys)

        if num_steps > 1:
            return jax.lax.scan(body, state, length=num_steps)
        # XLA unrolls a loop with a known trip count of one and rounds differently; hiding the count
        # keeps a resumed run bit-exact.
        empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(body, state, None)[1])
        num = jax.lax.optimization_barrier(jnp.int32(1))
        state, metrics = jax.lax.fori_loop(0, num, lambda _, c: body(c[0], None), (state, empty))
        return state, jax.tree.map(lambda a: a[None], metrics)

    return train_steps

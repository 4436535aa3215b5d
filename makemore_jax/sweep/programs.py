"""The compiled functions of a group: the functions of one run under `vmap`, split over devices.

Every argument and result has a leading axis of length M, one entry per run.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from makemore_jax.config import Config, OptimizerConfig
from makemore_jax.data import Split, take_below
from makemore_jax.training.evaluate import evaluate_batch
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import gradients, make_train_step
from makemore_jax.windows.calibrate import make_calibrate


class Programs(NamedTuple):
    """The compiled functions of a group."""

    # (number of steps, state, values, split, key data) -> state, losses (M, steps); donates state
    train_steps: Callable[..., tuple[TrainState, Array]]
    evaluate: Callable[[Any, Split], np.ndarray]  # (variables, split) -> nats per token (M,)
    calibrate: Callable[[Any, Split], Any]  # (variables, split) -> model state
    select: Callable[..., Any]  # (is_first (M,), first tree, second tree) -> tree


def make_programs(config: Config, model: nn.Module, mesh: Mesh, dev_split: Split) -> Programs:
    """Return the compiled functions. `dev_split` is the split of any run; only its size is used."""
    return Programs(
        _make_train_steps(config, model, mesh),
        _make_evaluate(model, mesh, dev_split, config.train.eval_examples),
        jax.jit(_over_members(make_calibrate(model), mesh)),
        jax.jit(jax.vmap(_select)),
    )


def _over_members(function: Callable, mesh: Mesh) -> Callable:
    """Return the function of one run as a function of all runs."""
    return jax.shard_map(
        jax.vmap(function),
        mesh=mesh,
        in_specs=P("member"),
        out_specs=P("member"),
        check_vma=False,
    )


def _make_train_steps(
    config: Config, model: nn.Module, mesh: Mesh
) -> Callable[..., tuple[TrainState, Array]]:
    def train_one(
        num_steps: int, state: TrainState, values: dict[str, Array], split: Split, key_data: Array
    ) -> tuple[TrainState, Array]:
        optimizer = make_optimizer(_with_arrays(config.optimizer, values), config.train.steps)
        train_step = make_train_step(gradients(model), optimizer, config.train.batch_size)
        keys = jax.random.split(jax.random.wrap_key_data(key_data))

        def body(state: TrainState, _: None) -> tuple[TrainState, Array]:
            state, metrics = train_step(state, split, keys)
            return state, metrics["train_loss"]

        return jax.lax.scan(body, state, length=num_steps)

    @partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def train_steps(
        num_steps: int, state: TrainState, values: dict[str, Array], split: Split, key_data: Array
    ) -> tuple[TrainState, Array]:
        train_all = _over_members(partial(train_one, num_steps), mesh)
        return train_all(state, values, split, key_data)

    return train_steps


def _with_arrays(config: OptimizerConfig, values: dict[str, Array]) -> OptimizerConfig:
    """Return the optimizer's config with arrays as the values of some fields."""
    config = copy.copy(config)
    for name, value in values.items():
        setattr(config, name.removeprefix("optimizer."), value)
    return config


def _make_evaluate(
    model: nn.Module, mesh: Mesh, template: Split, max_examples: int | None
) -> Callable[[Any, Split], np.ndarray]:
    """Return the exact evaluation. `template` is a split of the same size as each run's."""
    size = min(template.size, max_examples or template.size)
    batch_size = template.eval_batch_size()

    def sum_batch(variables: Any, split: Split, indices: Array) -> Array:
        return evaluate_batch(model, variables, take_below(split, indices, size))

    sum_batches = jax.jit(_over_members(sum_batch, mesh))

    def evaluate(variables: Any, split: Split) -> np.ndarray:
        num_members = len(jax.tree.leaves(split)[0])
        sums = [
            sum_batches(
                variables, split, jnp.tile(start + jnp.arange(batch_size), (num_members, 1))
            )
            for start in range(0, size, batch_size)
        ]
        loss, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64).T
        return loss / count

    return evaluate


def _select(is_first: Array, first: Any, second: Any) -> Any:
    """Return one of two trees."""
    return jax.tree.map(partial(jnp.where, is_first), first, second)

"""The compiled programs of a run: layouts, microbatches, devices and sharded parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from makemore_jax import models
from makemore_jax.assemble.components import create_model
from makemore_jax.assemble.stacked_state import stacked_sizes, with_stacked_state
from makemore_jax.config import Config
from makemore_jax.data import Dataset, Split
from makemore_jax.kernels import layouts
from makemore_jax.kernels.layouts import Layout, with_layouts
from makemore_jax.mixture import table
from makemore_jax.mixture.gradients import each_network
from makemore_jax.mixture.model import Mixture
from makemore_jax.model_forms import with_dropout_rng
from makemore_jax.parallel import evaluation, processes, shardings
from makemore_jax.parallel.gradients import (
    gathered,
    in_microbatches,
    over_devices,
    stored_sharded,
    with_gradient_shardings,
    with_index_sharding,
)
from makemore_jax.parallel.mesh import make_mesh, unroll_layers
from makemore_jax.parallel.shardings import StateShardings
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.programs import Programs
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import GradientFn, gradients, make_train_step, make_train_steps


def make_gradient_fn(
    model: nn.Module,
    mesh: Mesh,
    batch_layouts: list[Layout],
    num_microbatches: int = 1,
    state_shardings: StateShardings | None = None,
) -> GradientFn:
    """Return the gradient function of a model with all wrappers that its run needs.

    `num_microbatches` is the number on each device.
    """
    num_devices = mesh.shape["data"]
    if isinstance(model, Mixture):
        network = model.network(parent=None)
        gradient_fn = make_gradient_fn(network, mesh, batch_layouts, num_microbatches)
        gradient_fn = each_network(gradient_fn, model.networks)
    elif getattr(model, "batch_norm", "none") != "none":  # statistics of the whole batch
        gradient_fn = with_index_sharding(gradients(model), shardings.batch(mesh))
    else:
        gradient_fn = with_dropout_rng(gradients(model), model)
        if num_devices * num_microbatches > 1:
            gradient_fn = over_devices(in_microbatches(gradient_fn, num_microbatches), mesh)
        gradient_fn = with_layouts(gradient_fn, batch_layouts, num_devices * num_microbatches)
        gradient_fn = with_index_sharding(gradient_fn, shardings.replicated(mesh))
    return gathered(gradient_fn, state_shardings) if state_shardings else gradient_fn


def compile_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    batch_layouts: list[Layout],
    mesh: Mesh,
    num_microbatches: int = 1,
    state_shardings: StateShardings | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Return the compiled training steps (`make_train_steps`) with all wrappers."""
    sizes = stacked_sizes(model)
    if state_shardings:
        state_shardings = shardings.stack_shardings(state_shardings, sizes)
    gradient_fn = make_gradient_fn(model, mesh, batch_layouts, num_microbatches, state_shardings)
    if state_shardings:
        optimizer = with_gradient_shardings(optimizer, state_shardings)
    train_step = make_train_step(gradient_fn, optimizer, batch_size)
    if state_shardings:
        train_step = stored_sharded(train_step, state_shardings)
    train_steps = make_train_steps(train_step)
    if sizes:
        train_steps = with_stacked_state(train_steps, sizes)
    return shardings.serialize_on_cpu(train_steps, mesh)


def choose_layouts(
    split: Split, model: nn.Module, batch_size: int, num_devices: int, accumulate: int = 1
) -> tuple[list[Layout], int]:
    """Return the layouts of a batch and the number of microbatches on each device."""
    num = layouts.num_microbatches(batch_size // num_devices, split.block_size, accumulate)
    return layouts.choose(split, batch_size, model, num_devices * num), num


def make_programs(
    config: Config, dataset: Dataset, check: Callable[[], None] = lambda: None
) -> Programs:
    """Return the programs of a run on its mesh.

    Raise UserError if the devices or the batch do not divide evenly. `check` is called before each
    batch of an evaluation, which it can end with an exception.
    """
    block_size = dataset.block_size
    model = unroll_layers(create_model(config.model, dataset.vocab.size, block_size), config)
    num_params = state_lib.num_params(models.variable_shapes(model, block_size)["params"])
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    networks = getattr(model, "networks", 1)  # each reads a part of the batch
    network_batch = batch_size // networks
    mesh = make_mesh(config.mesh, network_batch, num_params, accumulate, block_size, networks)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    state_shardings = None
    if shardings.shards_state(mesh, config.mesh):
        shapes = state_lib.shapes(model, optimizer, block_size)
        state_shardings = shardings.infer_state_shardings(mesh, config.mesh, shapes)
    put = functools.partial(shardings.to_global_arrays, shardings=shardings.replicated(mesh))

    tables = table.fill(model, dataset.splits["train"])

    def create_state(key: jax.Array) -> TrainState:
        stored = state_shardings.stored if state_shardings else None
        state = state_lib.create(model, optimizer, key, block_size, stored)
        # A copy for each state, because the training steps delete the arrays of their input.
        copies = jax.tree.map(jnp.array, tables)
        if stored:
            table_shardings = {name: stored.model_state[name] for name in copies}
            copies = shardings.to_global_arrays(copies, table_shardings)
        state = state.replace(model_state=state.model_state | copies)
        return state if stored else put(state)

    def fetch(variables: Any) -> Any:
        is_whole = not state_shardings and not processes.is_distributed()
        return variables if is_whole else shardings.fetch_replicated(variables, mesh)

    chosen, num_microbatches = choose_layouts(
        dataset.splits["train"], model, network_batch, mesh.shape["data"], accumulate
    )
    train_steps = compile_steps(
        model, optimizer, batch_size, chosen, mesh, num_microbatches, state_shardings
    )
    evaluate = evaluation.make_evaluate(model, mesh, check)
    return Programs(model, create_state, train_steps, evaluate, put, fetch)

"""The devices as a mesh with two axes.

A batch is split over the axis `data`, wide matrices over the axis `model`.
"""

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh

from makemore_jax.config import Config, MeshConfig
from makemore_jax.errors import UserError
from makemore_jax.model_forms import unrolled

# Measured on two cores (docs/performance.md). Below these sizes a second core costs more time than
# it saves.
MIN_PARAMS_FOR_CORES = 100_000
MIN_TOKENS_PER_CORE = 100
MIN_LINES_PER_SAMPLER = 64


def make_mesh(
    config: MeshConfig,
    batch_size: int,
    num_params: int,
    accumulate: int = 1,
    block_size: int = 16,
    networks: int = 1,
) -> Mesh:
    """Return the mesh of a config. `batch_size` is the number of examples for each network.

    Raise UserError if the devices or the batch do not divide evenly.

    `mesh.data=-1` means all devices. On CPU it means as many cores as speed up training.
    """
    available = len(jax.devices())
    data = available // config.model if config.data == -1 else config.data
    is_single_process = jax.process_count() == 1
    is_cpu = jax.default_backend() == "cpu"
    if config.data == -1 and config.model == 1 and is_cpu and is_single_process:
        tokens = batch_size * block_size
        data = num_useful_cores(available, batch_size, tokens, num_params, accumulate)
    if config.data == -1 and available > config.model and available % config.model:
        raise UserError(f"mesh.model: {config.model} does not divide the {available} devices")
    if data * config.model > available or data < 1:
        requested = f"{max(data, 1)} x {config.model}" if config.model > 1 else f"{data}"
        field = "mesh.data x mesh.model" if config.model > 1 else "mesh.data"
        raise UserError(f"{field}: {requested} devices are requested, {available} are available")
    if data * config.model != available and not is_single_process:
        raise UserError(
            f"mesh.data: {data} x mesh.model={config.model} leaves some of the {available} devices "
            f"of {jax.process_count()} processes without work; mesh.data=-1 uses all"
        )
    if batch_size % (data * accumulate):
        parts = f" x {accumulate} microbatches" if accumulate > 1 else ""
        parts += f" x {networks} networks" if networks > 1 else ""
        raise UserError(
            f"mesh.data: a batch of {batch_size * networks} is not divisible by {data} "
            f"devices{parts}; change train.batch_size or mesh.data"
        )
    return _mesh(data, config.model, jax.devices())


def num_useful_cores(
    available: int, batch_size: int, num_tokens: int, num_params: int, accumulate: int
) -> int:
    """Return the largest number of cores that speeds up training and divides the batch."""
    if num_params < MIN_PARAMS_FOR_CORES:
        return 1
    max_cores = max(1, min(available, num_tokens // MIN_TOKENS_PER_CORE))
    return max(n for n in range(1, max_cores + 1) if n == 1 or batch_size % (n * accumulate) == 0)


def unroll_layers(model: nn.Module, config: Config) -> nn.Module:
    """Return the model with unrolled layers if it is sharded over `model` and the config allows it.

    In a loop over layers, XLA:TPU also shards the residual stream over `model`, and communicates it
    at each norm.
    """
    is_sharded = config.mesh.model > 1 and config.model.layer_loop == "auto"
    return unrolled(model) if is_sharded else model


def make_lines_mesh(num_lines: int) -> Mesh:
    """Return a mesh of the local devices that share the sampling of `num_lines` lines."""
    devices = jax.local_devices()
    return _mesh(max(1, min(len(devices), num_lines // MIN_LINES_PER_SAMPLER)), 1, devices)


def _mesh(data: int, model: int, devices: list) -> Mesh:
    axis_types = (AxisType.Auto, AxisType.Auto)
    devices = devices[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types, devices=devices)

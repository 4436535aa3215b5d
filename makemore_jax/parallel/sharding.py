"""The devices as a mesh, and which array lies where.

Batches lie over the mesh's axis `data`. Parameters and what the optimizer knows of them lie
everywhere, but for the wide matrices, which lie over `model` where it has more than one device, and
with `fsdp` all lie over `data` too. Models and step know nothing of it: from these shardings XLA
itself divides what they compute, and sends what must be sent (Xu et al. 2021, GSPMD).

One rule holds for the whole project: on CPU devices at most one program with collectives is in
flight. Each device's part of a program blocks a thread of XLA's pool until all parts have reached
the collective. When several programs are in flight, their parts can take all threads while they
wait for each other, and XLA aborts the process after a minute. Therefore:

- A program with collectives runs through `serialize_on_cpu`, or its caller reads the result before
  it dispatches another program with collectives.
- Where sums of each device suffice, there is no collective: `fetch_sum` adds them on the host. Any
  number of such programs may be in flight.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from makemore_jax.config import Config, MeshConfig, ModelConfig
from makemore_jax.errors import UserError
from makemore_jax.parallel import processes

# A step of fewer parameters is over before two cores have added up their gradients (measured on
# two: docs/performance.md), and each core should have this many tokens to work on.
CORES_PAY_FROM_PARAMS = 100_000
TOKENS_A_CORE = 100
LINES_A_SAMPLER = 64

# The axis of each wide matrix that lies over `model`: of the first of two what comes out, of the
# second what goes in, so that between them nothing is sent (Shoeybi et al. 2019, Megatron-LM,
# section 3).
OVER_MODEL = {
    r"h_\d+/attn/c_proj/kernel": 0,
    r"h_\d+/mlp/c_fc/(kernel|bias)": -1,
    r"h_\d+/mlp/c_proj/kernel": 0,
}
# These are put together for each step. Of queries, keys and values side by side no device would
# have what belongs to its heads; and a recurrent state in parts would be sent at every character.
OVER_MODEL_KEPT = {
    r"h_\d+/attn/c_attn/kernel": -1,
    r"cell/xh_to_\w+/kernel": -1,
}


def make_mesh(
    config: MeshConfig, batch_size: int, num_params: int, accumulate: int = 1, block_size: int = 16
) -> Mesh:
    """The mesh of a config. UserError where devices or batch do not divide.

    `mesh.data=-1` is all devices; of a CPU's cores it is as many as make the model faster.
    """
    here = len(jax.devices())
    wanted = here // config.model if config.data == -1 else config.data
    is_one = jax.process_count() == 1
    if config.data == -1 and config.model == 1 and jax.default_backend() == "cpu" and is_one:
        pays = num_params >= CORES_PAY_FROM_PARAMS
        most = min(here, batch_size * block_size // TOKENS_A_CORE) if pays else 1
        parts = range(1, max(most, 1) + 1)
        wanted = max(n for n in parts if batch_size % (n * accumulate) == 0)
    if config.data == -1 and here > config.model and here % config.model:
        raise UserError(f"mesh.model: {config.model} does not divide the {here} devices here")
    if wanted * config.model > here or wanted < 1:
        asked = f"{max(wanted, 1)} x {config.model}" if config.model > 1 else f"{wanted}"
        field = "mesh.data x mesh.model" if config.model > 1 else "mesh.data"
        raise UserError(f"{field}: {asked} devices are asked for, {here} are here")
    if wanted * config.model != here and not is_one:
        raise UserError(
            f"mesh.data: {wanted} x mesh.model={config.model} leaves some of the {here} devices "
            f"of {jax.process_count()} processes without work; mesh.data=-1 takes all"
        )
    if batch_size % (wanted * accumulate):
        parts = f", each {accumulate} parts after each other" if accumulate > 1 else ""
        raise UserError(
            f"mesh.data: a batch of {batch_size} does not divide over {wanted} devices{parts}; "
            "change train.batch_size or mesh.data"
        )
    return _mesh(wanted, config.model, jax.devices())


def model_config(config: Config) -> ModelConfig:
    """Return the config of the model to train on the config's mesh.

    Over `model`, layers are unrolled by default: in a loop, XLA:TPU also shards the residual stream
    over `model`, and sends it at each norm.
    """
    if config.mesh.model == 1 or config.model.layer_loop != "auto":
        return config.model
    return replace(config.model, layer_loop="unroll")


def make_lines_mesh(num_lines: int) -> Mesh:
    """Devices that each draw their own of so many lines: one, where there is too little to do."""
    devices = jax.local_devices()
    return _mesh(max(1, min(len(devices), num_lines // LINES_A_SAMPLER)), 1, devices)


def _mesh(data: int, model: int, devices: list) -> Mesh:
    axis_types = (AxisType.Auto, AxisType.Auto)
    devices = devices[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: parameters, optimizer state, data."""
    return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
    """The first axis spread over `data`."""
    return NamedSharding(mesh, P("data"))


def is_spread(mesh: Mesh, config: MeshConfig) -> bool:
    """Whether a part of the state lies on some devices alone."""
    return mesh.shape["model"] > 1 or (config.fsdp and mesh.shape["data"] > 1)


class Spread(NamedTuple):
    """The sharding of each array: of a state between steps, and of its parameters in a step."""

    kept: Any
    used: Any


def spread(mesh: Mesh, config: MeshConfig, state: Any) -> Spread:
    """How a state lies over the devices; its shapes suffice."""
    kept = jax.tree_util.tree_map_with_path(
        partial(_place, mesh, OVER_MODEL | OVER_MODEL_KEPT, config.fsdp), state
    )
    used = jax.tree_util.tree_map_with_path(partial(_place, mesh, OVER_MODEL, False), state.params)
    return Spread(kept, used)


def _place(mesh: Mesh, over_model: dict[str, int], fsdp: bool, path: tuple, leaf: Any) -> Any:
    """Where an array lies; an axis that does not divide stays whole."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    axes: list[str | None] = [None] * leaf.ndim
    for pattern, axis in over_model.items() if mesh.shape["model"] > 1 else ():
        if re.search(pattern + "$", name) and leaf.shape[axis] % mesh.shape["model"] == 0:
            axes[axis] = "model"
    if fsdp:
        num = mesh.shape["data"]
        sizes = {i: n for i, n in enumerate(leaf.shape) if axes[i] is None and n % num == 0}
        if sizes:
            axes[max(sizes, key=sizes.get)] = "data"
    return NamedSharding(mesh, P(*axes))


def put(tree: Any, where: Any) -> Any:
    """Arrays that every process has whole, as arrays over the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)
    shardings = (
        where if not isinstance(where, NamedSharding) else jax.tree.map(lambda _: where, tree)
    )

    def one(array: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(one, tree, shardings)


def gather(tree: Any, mesh: Mesh) -> Any:
    """The arrays whole, on the host, in every process."""
    all_gather = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    return jax.device_get(serialize_on_cpu(all_gather, mesh)(tree))


def serialize_on_cpu(program: Callable, mesh: Mesh) -> Callable:
    """Return `program`, waiting for its outputs in each call if the mesh has several CPU devices.

    For a compiled function with collectives (see the rule at the top of this module). On one
    device and on accelerators, which run programs in order, calls stay asynchronous.
    """
    if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
        return program

    @wraps(program)
    def call(*args: Any, **kwargs: Any) -> Any:
        return jax.block_until_ready(program(*args, **kwargs))

    call.lower = program.lower  # tests and benchmarks read the compiled program
    return call


def is_replicated(tree: Any) -> bool:
    """Whether every device holds the whole of each array; host arrays count as replicated."""
    return all(getattr(leaf, "is_fully_replicated", True) for leaf in jax.tree.leaves(tree))


def fetch_sum(arrays: Iterable[jax.Array]) -> np.ndarray:
    """The sum of arrays (D, ...) over all of them and over D, on the host in float64. (...)

    The first axis may be sharded over devices, also those of other processes.
    """
    arrays = list(arrays)
    shards = [s.data for a in arrays for s in a.addressable_shards if s.replica_id == 0]
    sums = [np.sum(shard, axis=0, dtype=np.float64) for shard in jax.device_get(shards)]
    return processes.sum_over_processes(np.sum(sums, axis=0))

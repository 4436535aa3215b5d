"""The devices as a mesh, and which array lies where: batches over `data`, all else everywhere."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from makemore_jax.config import MeshConfig
from makemore_jax.errors import UserError

# A step of fewer parameters is over before two cores have added up their gradients (measured on
# two: docs/performance.md), and each core should have this many lines to work on.
CORES_PAY_FROM_PARAMS = 100_000
LINES_A_CORE = 8
LINES_A_SAMPLER = 64


def make_mesh(config: MeshConfig, batch_size: int, num_params: int) -> Mesh:
    """The mesh of a config. UserError where devices or batch do not divide.

    `mesh.data=-1` is all devices; of a CPU's cores it is as many as make the model faster.
    """
    if config.model != 1:
        raise UserError(f"mesh.model: {config.model} must be 1; only batches are spread as yet")
    here = len(jax.devices())
    wanted = here if config.data == -1 else config.data
    if config.data == -1 and jax.default_backend() == "cpu":
        most = min(here, batch_size // LINES_A_CORE) if num_params >= CORES_PAY_FROM_PARAMS else 1
        wanted = max(n for n in range(1, max(most, 1) + 1) if batch_size % n == 0)
    if wanted > here:
        raise UserError(f"mesh.data: {wanted} devices are asked for, {here} are here")
    if batch_size % wanted:
        raise UserError(
            f"mesh.data: a batch of {batch_size} does not divide over {wanted} devices; change "
            "train.batch_size or mesh.data"
        )
    return _mesh_of_first(wanted)


def make_lines_mesh(num_lines: int) -> Mesh:
    """Devices that each draw their own of so many lines: one, where there is too little to do."""
    return _mesh_of_first(max(1, min(len(jax.devices()), num_lines // LINES_A_SAMPLER)))


def _mesh_of_first(num: int) -> Mesh:
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((num, 1), ("data", "model"), axis_types, devices=jax.devices()[:num])


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: parameters, optimizer state, data."""
    return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
    """The first axis spread over `data`."""
    return NamedSharding(mesh, P("data"))

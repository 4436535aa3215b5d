"""The devices as a mesh, and which array lies where: batches over `data`, all else everywhere."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from makemore_jax.config import MeshConfig
from makemore_jax.errors import UserError


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh of a config. UserError where devices or batch do not divide."""
    if config.model != 1:
        raise UserError(f"mesh.model: {config.model} must be 1; only batches are spread as yet")
    here = len(jax.devices())
    wanted = here if config.data == -1 else config.data
    if wanted > here:
        raise UserError(f"mesh.data: {wanted} devices are asked for, {here} are here")
    if batch_size % wanted:
        raise UserError(
            f"mesh.data: a batch of {batch_size} does not divide over {wanted} devices; change "
            "train.batch_size or mesh.data"
        )
    shape, names = (wanted, 1), ("data", "model")
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, names, axis_types, devices=jax.devices()[:wanted])


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: parameters, optimizer state, data."""
    return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
    """The first axis spread over `data`."""
    return NamedSharding(mesh, P("data"))

"""How arrays are sharded over the mesh.

Batches are sharded over the axis `data`. Parameters and optimizer state are replicated, with two
exceptions. If the axis `model` has more than one device, wide matrices are sharded over it. With
`fsdp`, all arrays with an axis that can be divided evenly are also sharded over `data`. XLA
partitions the computation accordingly and inserts the collectives (Xu et al. 2021, GSPMD).

One rule holds for the whole project: on CPU devices at most one program with collectives is in
flight. Each device's part of a program blocks a thread of XLA's pool until all parts have reached
the collective. When several programs are in flight, their parts can take all threads while they
wait for each other, and XLA aborts the process after a minute. Therefore:

- A program with collectives runs through `serialize_on_cpu`, or its caller reads the result before
  it dispatches another program with collectives.
- If each device only computes a sum, no collective is needed: `fetch_sum` adds the sums on the
  host. Any number of such programs may be in flight.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from makemore_jax.config import MeshConfig
from makemore_jax.kernels.layer_loop import stack
from makemore_jax.parallel import processes

# The axis of each wide matrix that is sharded over `model`. In an MLP, the first matrix is sharded
# along its outputs and the second along its inputs, so that nothing is communicated between them
# (Shoeybi et al. 2019, Megatron-LM, section 3).
COMPUTED_SHARDED = {
    r"h_\d+/attn/c_proj/kernel": 0,
    r"h_\d+/mlp/c_fc/(kernel|bias)": -1,
    r"h_\d+/mlp/c_proj/kernel": 0,
}
# These are stored sharded, but all-gathered for each step. A shard of c_attn would have
# queries, keys and values of different heads. A sharded recurrent state would be communicated at
# each character.
STORED_SHARDED = {
    r"h_\d+/attn/c_(attn|[qkv])/kernel": -1,
    r"cell/xh_to_\w+/kernel": -1,
}


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device stores completely."""
    return NamedSharding(mesh, P())


def put_if_needed(tree: Any, sharding: NamedSharding) -> Any:
    """Return the arrays of a tree with this sharding.

    If all have it already, return the tree: jax.device_put takes time even then, 0.1 ms per array
    on the host of a GPU (H200).
    """
    leaves = jax.tree.leaves(tree)
    is_put = (
        isinstance(a, jax.Array) and a.sharding.is_equivalent_to(sharding, a.ndim) for a in leaves
    )
    return tree if all(is_put) else jax.device_put(tree, sharding)


def batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array with its first axis over `data`."""
    return NamedSharding(mesh, P("data"))


def shards_state(mesh: Mesh, config: MeshConfig) -> bool:
    """Return whether some part of the training state is sharded."""
    return mesh.shape["model"] > 1 or (config.fsdp and mesh.shape["data"] > 1)


class StateShardings(NamedTuple):
    """Shardings of a training state between steps and of its parameters during a step."""

    stored: Any  # tree like the state
    compute: Any  # tree like the parameters


def infer_state_shardings(mesh: Mesh, config: MeshConfig, state: Any) -> StateShardings:
    """Return the shardings of a state, given its shapes."""
    stored = jax.tree_util.tree_map_with_path(
        partial(_infer_sharding, mesh, COMPUTED_SHARDED | STORED_SHARDED, config.fsdp), state
    )
    compute = jax.tree_util.tree_map_with_path(
        partial(_infer_sharding, mesh, COMPUTED_SHARDED, False), state.params
    )
    return StateShardings(stored, compute)


def stack_shardings(shardings: StateShardings, names: Iterable[str]) -> StateShardings:
    """Return the shardings of a state whose layers are stacked (`assemble/stacked_state.py`)."""

    def merge(first: NamedSharding, *_: NamedSharding) -> NamedSharding:
        return NamedSharding(first.mesh, P(None, *first.spec))

    trees = tuple(shardings)
    for name in names:
        trees = tuple(stack(tree, name, merge) for tree in trees)
    return StateShardings(*trees)


def _infer_sharding(
    mesh: Mesh, over_model: dict[str, int], fsdp: bool, path: tuple, leaf: Any
) -> NamedSharding:
    """Return the sharding of an array. An axis that can't be divided evenly is replicated."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    axes: list[str | None] = [None] * leaf.ndim
    for pattern, axis in over_model.items() if mesh.shape["model"] > 1 else ():
        if re.search(pattern + "$", name) and leaf.shape[axis] % mesh.shape["model"] == 0:
            axes[axis] = "model"
    if fsdp and not name.endswith("ns_coeffs"):  # assemble/stacked_state.py changes its shape
        num = mesh.shape["data"]
        sizes = {i: n for i, n in enumerate(leaf.shape) if axes[i] is None and n % num == 0}
        if sizes:
            axes[max(sizes, key=sizes.get)] = "data"
    return NamedSharding(mesh, P(*axes))


def to_global_arrays(tree: Any, shardings: Any) -> Any:
    """Shard arrays over the devices of all processes. Every process passes the whole arrays.

    `shardings` is one sharding for all arrays or a tree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        sharding = shardings
        shardings = jax.tree.map(lambda _: sharding, tree)

    def to_global(array: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(to_global, tree, shardings)


def fetch_replicated(tree: Any, mesh: Mesh) -> Any:
    """Return sharded arrays as whole arrays on the host, in every process."""
    all_gather = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    return jax.device_get(serialize_on_cpu(all_gather, mesh)(tree))


def serialize_on_cpu(program: Callable, mesh: Mesh) -> Callable:
    """Make each call of `program` wait for its outputs if the mesh has several CPU devices.

    Use this for compiled functions with collectives (see the rule at the top of this module). On
    one device and on accelerators, which run programs in order, calls stay asynchronous.
    """
    if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
        return program

    @wraps(program)
    def call(*args: Any, **kwargs: Any) -> Any:
        return jax.block_until_ready(program(*args, **kwargs))

    call.lower = program.lower  # tests and benchmarks read the compiled program
    return call


def is_replicated(tree: Any) -> bool:
    """Return whether every device stores all arrays completely; True for host arrays."""
    return all(getattr(leaf, "is_fully_replicated", True) for leaf in jax.tree.leaves(tree))


def fetch_sum(arrays: list[jax.Array]) -> np.ndarray:
    """Sum a list of arrays (D, ...) over the list and over D, in float64. -> (...)

    The first axis may be sharded over devices, including those of other processes.
    """
    shards = [s.data for a in arrays for s in a.addressable_shards if s.replica_id == 0]
    sums = [np.sum(shard, axis=0, dtype=np.float64) for shard in jax.device_get(shards)]
    return processes.sum_over_processes(np.sum(sums, axis=0))

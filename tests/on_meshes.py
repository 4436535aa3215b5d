"""Train families on meshes of eight devices and print what tests/test_meshes.py checks as JSON.

JAX_NUM_CPU_DEVICES=8 python tests/on_meshes.py "FAMILY:MESH" ...

MESH is DATAxMODEL, followed by " fsdp" to shard parameters over `data`, or "alone" for one device.
"""

import json
import re
import sys

import jax
import numpy as np
from conftest import set_sizes, small_config

from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.config import Config, MeshConfig
from makemore_jax.kernels.layouts import choose
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

COLLECTIVE = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
BATCH_SIZE = 16


def config_of(kind: str) -> Config:
    """Return a small config. Eight divides the sizes of its wide matrices."""
    config = small_config(kind)
    num_layers = 2 if kind == "modern" else 1
    set_sizes(config.model, n_layer=num_layers, n_head=8, n_embd=16, n_embd2=24)
    if kind == "modern":
        config.model.layer_loop = "scan"  # trains on a stacked state
    if kind == "window_mlp":
        config.data.kind, config.data.block_size = "windows", 3
        config.model.batch_norm = "running"
    return config


def train(config: Config, mesh_config: MeshConfig) -> dict:
    """Train 20 steps on a mesh. Return losses, collectives, and bytes on each device."""
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer, key = make_optimizer(config.optimizer, 100), jax.random.key(config.seed)
    mesh, state_shardings = make_mesh(mesh_config, BATCH_SIZE, num_params=10**6), None
    if shardings.shards_state(mesh, mesh_config):
        shapes = state_lib.shapes(model, optimizer, dataset.block_size)
        state_shardings = shardings.infer_state_shardings(mesh, mesh_config, shapes)
    state = state_lib.create(
        model, optimizer, key, dataset.block_size, state_shardings and state_shardings.stored
    )
    state = (
        state if state_shardings else shardings.to_global_arrays(state, shardings.replicated(mesh))
    )
    split = shardings.to_global_arrays(dataset.splits["train"], shardings.replicated(mesh))
    layouts = choose(split, BATCH_SIZE, model, mesh.shape["data"])[-1:]
    steps = programs.compile_steps(model, optimizer, BATCH_SIZE, layouts, mesh, 1, state_shardings)
    program = steps.lower(state, split, key, 20).compile()
    leaves = jax.tree.leaves(state)
    held = {
        jax.tree_util.keystr(path, simple=True, separator="/"): [
            leaf.shape,
            leaf.nbytes,
            [shard.data.nbytes for shard in leaf.addressable_shards],
        ]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    before = [leaf.sharding for leaf in leaves]
    state, metrics = program(state, split, key)
    pairs = zip(before, jax.tree.leaves(state), strict=True)
    return {
        "losses": np.asarray(metrics["train_loss"], np.float64).tolist(),
        "collectives": sorted(set(re.findall(COLLECTIVE, program.as_text()))),
        "num_all_reduce": len(re.findall(r" all-reduce(?:-start)?\(", program.as_text())),
        "held": held,
        "keeps_sharding": all(a.is_equivalent_to(leaf.sharding, leaf.ndim) for a, leaf in pairs),
    }


def parse_mesh(name: str) -> MeshConfig:
    """Return the mesh config of a name such as "4x2 fsdp"."""
    if name == "alone":
        return MeshConfig(data=1)
    num_data, num_model = map(int, name.removesuffix(" fsdp").split("x"))
    return MeshConfig(data=num_data, model=num_model, fsdp=name.endswith(" fsdp"))


if __name__ == "__main__":
    measured: dict[str, dict] = {}
    for argument in sys.argv[1:]:
        kind, mesh = argument.split(":")
        measured.setdefault(kind, {})[mesh] = train(config_of(kind), parse_mesh(mesh))
    print(json.dumps(measured))

"""Train every family on meshes of eight devices: JSON of what tests/test_meshes.py asks for.

JAX_NUM_CPU_DEVICES=8 python tests/on_meshes.py FAMILY ...
"""

import json
import re
import sys

import jax
import numpy as np
from conftest import small_config

from makemore_jax import data, models, sharding
from makemore_jax.config import Config, MeshConfig
from makemore_jax.data.layouts import choose
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import make_train_steps

MESHES = [(8, 1, False), (8, 1, True), (4, 2, False), (4, 2, True), (1, 8, False)]
COLLECTIVE = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
BATCH_SIZE = 16


def config_of(kind: str) -> Config:
    """A small config whose wide matrices divide by eight."""
    config = small_config(kind)
    config.model.n_layer, config.model.n_head = 1, 8
    config.model.n_embd, config.model.n_embd2 = 16, 24
    if kind == "window_mlp":
        config.data.kind, config.data.block_size = "windows", 3
        config.model.batch_norm = "running"
    return config


def train(config: Config, mesh_config: MeshConfig) -> dict:
    """20 steps on a mesh: their losses, the program's collectives, the bytes on each device."""
    dataset = data.load(config.data, config.seed)
    model = models.create(config.model, dataset.vocab.size, dataset.block_size)
    optimizer, key = make_optimizer(config.optimizer, 100), jax.random.key(config.seed)
    mesh, spread = sharding.make_mesh(mesh_config, BATCH_SIZE, num_params=10**6), None
    if sharding.is_spread(mesh, mesh_config):
        shapes = state_lib.shapes(model, optimizer, dataset.block_size)
        spread = sharding.spread(mesh, mesh_config, shapes)
    state = state_lib.create(model, optimizer, key, dataset.block_size, spread and spread.kept)
    state = state if spread else sharding.put(state, sharding.replicated(mesh))
    split = sharding.put(dataset.splits["train"], sharding.replicated(mesh))
    layouts = choose(split, BATCH_SIZE, model, mesh.shape["data"])[-1:]
    steps = make_train_steps(model, optimizer, BATCH_SIZE, layouts, mesh, 1, spread)
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
    lies = zip(before, jax.tree.leaves(state), strict=True)
    return {
        "losses": np.asarray(metrics["train_loss"], np.float64).tolist(),
        "collectives": sorted(set(re.findall(COLLECTIVE, program.as_text()))),
        "num_all_reduce": len(re.findall(r" all-reduce(?:-start)?\(", program.as_text())),
        "held": held,
        "stays": all(a.is_equivalent_to(leaf.sharding, leaf.ndim) for a, leaf in lies),
    }


if __name__ == "__main__":
    found = {}
    for kind in sys.argv[1:]:
        config = config_of(kind)
        found[kind] = {"alone": train(config, MeshConfig(data=1))}
        for d, m, fsdp in MESHES:
            name = f"{d}x{m}{' fsdp' if fsdp else ''}"
            found[kind][name] = train(config, MeshConfig(data=d, model=m, fsdp=fsdp))
    print(json.dumps(found))

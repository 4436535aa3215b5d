"""Compile programs for a TPU and print what tests/test_tpu.py checks as JSON.

python tests/on_tpu.py "FAMILY:MESH:PROGRAM" ...

MESH is as in tests/on_meshes.py. PROGRAM is a method of `benchmarks.tpu.Programs`.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
from conftest import set_sizes, small_config
from on_meshes import parse_mesh

from benchmarks import tpu
from makemore_jax.config import Config, MeshConfig


def config_of(kind: str, mesh: str, program: str) -> Config:
    """Return a small config with sizes that four divides."""
    config = small_config(kind, batch_size=8)
    # Two layers in one program of each family; one layer compiles faster.
    num_layers = 2 if (mesh, program) == ("alone", "train_steps") else 1
    set_sizes(config.model, n_layer=num_layers, n_head=4, n_embd=16, n_embd2=24)
    config.mesh = parse_mesh(mesh)
    if kind == "window_mlp":
        config.data.kind, config.data.block_size = "windows", 3
        config.model.batch_norm = "running"
    if program in ("text_decoding", "streaming"):
        config.data.kind, config.data.block_size = "text", 8
    if kind == "transformer" and mesh == "alone":
        config.model.dropout, config.model.dropout_rng = 0.1, "rbg"
        config.model.dtype = "bfloat16"
    if kind == "mixture":
        config.model.networks, config.optimizer.name = 2, "muon"
    if kind in ("modern", "mixture"):
        config.model.dropout, config.model.dropout_rng = 0.1, "rbg"
    return config


def compile_for_tpu(case: str) -> dict:
    """Compile one program. Return what the compiler says about it."""
    kind, mesh, program = case.split(":")
    config = config_of(kind, mesh, program)
    programs = tpu.Programs(config, tpu.make_mesh("v5e:2x2", config.mesh))
    compiled = getattr(programs, program.removeprefix("text_"))().compile()
    leaves = jax.tree.leaves(programs.state)
    return {
        "collectives": tpu.collectives(compiled),
        "host_transfers": sorted(tpu.host_transfers(compiled)),
        "dtypes": sorted(set(re.findall(r"\b([a-z]+\d+)\[", compiled.as_text()))),
        "memory": tpu.memory(compiled),
        "arguments": compiled.memory_analysis().argument_size_in_bytes,
        "state": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    }


if __name__ == "__main__":
    os.environ.update(tpu.ENVIRONMENT)
    tpu.make_mesh("v5e:2x2", MeshConfig(data=1))  # jax 0.7 can't load libtpu in two threads at once
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(compile_for_tpu, sys.argv[1:]))
    print(json.dumps(dict(zip(sys.argv[1:], results, strict=True))))

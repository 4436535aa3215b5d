"""At most one program with collectives may be in flight on CPU devices, or XLA deadlocks.

The programs run on two virtual devices in separate processes.
"""

import pytest
from conftest import on_devices, start

TIMEOUT = 50  # seconds; XLA aborts a deadlocked process after 60

SETUP = """
import re, sys
sys.path.insert(0, "tests")
import jax
import numpy as np
from conftest import small_config
from makemore_jax.assemble import programs
from makemore_jax.config import MeshConfig
from makemore_jax import assemble
from makemore_jax.assemble import create_model, load_data
from makemore_jax.parallel import evaluation, sampling, shardings
from makemore_jax.parallel.mesh import make_lines_mesh, make_mesh
from makemore_jax.kernels.layouts import choose
from makemore_jax.decoding import DEFAULT_DECODING
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer

config = small_config("transformer")
dataset = load_data(config.data, config.seed)
model = create_model(config.model, dataset.vocab.size, dataset.block_size)
optimizer = make_optimizer(config.optimizer, 100)
state = state_lib.create(model, optimizer, jax.random.key(0), dataset.block_size)
mesh = make_mesh(config.mesh, 32, num_params=10**6)
assert mesh.shape["data"] == 2
state = shardings.to_global_arrays(state, shardings.replicated(mesh))
split = shardings.to_global_arrays(dataset.splits["train"], shardings.replicated(mesh))
"""

MANY_EVALUATIONS = """
evaluate = evaluation.make_evaluate(model, mesh)
for i in range(2):
    print(i, evaluate(state.variables, split), flush=True)
"""

TRAINING_WAITS = """
layouts = choose(split, 32, model, 2)[-1:]
train_steps = programs.compile_steps(model, optimizer, 32, layouts, mesh)
key = jax.random.key(0)
assert "all-reduce" in train_steps.lower(state, split, key, 30).compile().as_text()
for _ in range(3):
    state, metrics = train_steps(state, split, key, 30)
    assert all(array.is_ready() for array in jax.tree.leaves((state, metrics)))
"""

SHARDED_PARAMETERS = """
dev = dataset.splits["dev"]
expected = make_evaluate(model)(jax.device_get(state.variables), dev)
for mesh_config in (MeshConfig(data=1, model=2), MeshConfig(data=2, fsdp=True)):
    mesh = make_mesh(mesh_config, 32, num_params=10**6)
    stored = shardings.infer_state_shardings(mesh, mesh_config, state).stored
    sharded = jax.device_put(state, stored)
    assert not shardings.is_replicated(sharded)
    on_mesh = shardings.to_global_arrays(dev, shardings.replicated(mesh))
    loss = evaluation.make_evaluate(model, mesh)(sharded.variables, on_mesh)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
"""

SAMPLING_HAS_NO_COLLECTIVES = """
mesh = make_lines_mesh(128)
assert mesh.shape["data"] == 2
prompt = np.full(dataset.max_len, -1, np.int32)
arguments = (state.variables, jax.random.key(0), np.arange(128, dtype=np.int32), prompt)
program = sampling.generate.lower(model, *arguments, DEFAULT_DECODING, mesh)
found = re.findall(r"(all-\\w+|collective-\\w+|reduce-scatter)\\(", program.compile().as_text())
assert not found, found
"""


def run_on_two_devices(code: str) -> str:
    with start("-c", SETUP + code, **on_devices(2)) as process:
        printed, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    return printed


@pytest.mark.versions
def test_evaluation_with_many_batches_does_not_deadlock():
    """Each evaluation dispatches 113 batches before it reads one."""
    first, second = (line.split()[1] for line in run_on_two_devices(MANY_EVALUATIONS).splitlines())
    assert first == second


@pytest.mark.slow
def test_sharded_parameters_are_evaluated():
    run_on_two_devices(SHARDED_PARAMETERS)


@pytest.mark.slow
def test_training_waits_for_each_call_and_sampling_has_no_collectives():
    run_on_two_devices(TRAINING_WAITS + SAMPLING_HAS_NO_COLLECTIVES)

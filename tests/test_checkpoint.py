"""Saving and restoring: the latest and the best checkpoint, damage, and wrong shapes."""

import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import BLOCK, assert_same, on_devices, run, small_model

from makemore_jax.assemble import open_checkpoints
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import OptimizerConfig
from makemore_jax.errors import UserError
from makemore_jax.integrity import manifest
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

pytestmark = pytest.mark.versions
ADAM = optax.adam(0.1)


def state_at(step: int, optimizer=None) -> state_lib.TrainState:
    """Return a state whose arrays depend on its step."""
    state = created(optimizer or ADAM)
    arrays = jax.tree.map(lambda array: array + step, (state.params, state.opt_state))
    return state.replace(step=jnp.int32(step), params=arrays[0], opt_state=arrays[1])


@functools.cache  # each call compiles a program
def created(optimizer) -> state_lib.TrainState:
    model, _ = small_model("rnn")
    return state_lib.create(model, optimizer, jax.random.key(0), BLOCK)


def saved(folder, *losses, open_folder=open_checkpoints) -> Checkpoints:
    """Save checkpoints at steps 10, 20, ... with these dev losses."""
    checkpoints = open_folder(folder)
    for i, loss in enumerate(losses, start=1):
        checkpoints.save(state_at(10 * i), loss)
    return checkpoints


def test_restore_is_bit_exact(tmp_path):
    saved(tmp_path, 2.0)
    restored = open_checkpoints(tmp_path).restore("latest", state_at(0))
    assert_same(restored, state_at(10))
    assert restored.step.dtype == jnp.int32


def test_the_state_of_muon_is_restored(tmp_path):
    """It has one part for matrices and one for all other parameters."""
    optimizer = make_optimizer(OptimizerConfig("muon"), steps=20)
    state = state_at(10, optimizer)
    noise = np.random.RandomState(3)
    state = jax.tree.map(lambda a: jnp.asarray(noise.uniform(1, 9, a.shape), a.dtype), state)
    open_checkpoints(tmp_path).save(state, 2.0)
    assert_same(open_checkpoints(tmp_path).restore("latest", state_at(0, optimizer)), state)


def test_only_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = saved(tmp_path, 3.0, 2.0, None, 2.5, 2.2)
    assert checkpoints.steps() == {"latest": 50, "best": 20}
    assert checkpoints.best_dev_loss() == 2.0
    kept = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(kept) == ["20", "50"]
    again = open_checkpoints(tmp_path)
    assert again.steps() == {"latest": 50, "best": 20}
    assert_same(again.restore("best", state_at(0)), state_at(20))
    assert_same(again.restore("latest", state_at(0)), state_at(50))


def test_a_checkpoint_is_renamed_before_it_is_deleted(tmp_path, monkeypatch):
    """No process reads a checkpoint that is partly deleted."""
    deleted = []
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: deleted.append(folder.name))
    saved(tmp_path, 3.0, 2.0, open_folder=Checkpoints)
    assert deleted == ["10.partial"]


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path):
    checkpoints = saved(tmp_path, 2.0, math.nan, 3.0)
    assert checkpoints.steps() == {"latest": 30, "best": 10}


def test_restoring_only_parameters(tmp_path):
    saved(tmp_path, 2.0, 1.0, 3.0)
    model, _ = small_model("rnn")
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, BLOCK), jnp.int32))
    restored = open_checkpoints(tmp_path, read_only=True).restore_items("best", template)
    assert_same(restored, {"params": state_at(20).params})


def test_one_flipped_bit_is_detected(tmp_path):
    saved(tmp_path, 2.0)
    folder = tmp_path / "checkpoints" / "10"
    hashes = json.loads((folder / "manifest.json").read_text("utf-8"))
    arrays = [name for name in hashes if name.startswith("params/d/")]
    assert arrays
    for name in arrays:
        intact = (folder / name).read_bytes()
        damaged = bytearray(intact)
        damaged[len(damaged) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"10 is damaged: the sha256 of {name}"):
            open_checkpoints(tmp_path).restore("latest", state_at(0))
        (folder / name).write_bytes(intact)
    assert_same(Checkpoints(tmp_path).restore("latest", state_at(0)), state_at(10))


def test_the_core_saves_and_restores_without_a_manifest(tmp_path):
    checkpoints = saved(tmp_path, 2.0, 3.0, open_folder=Checkpoints)
    assert not list(tmp_path.rglob(manifest.NAME))
    inode = (checkpoints.folder / "20").stat().st_ino
    checkpoints.save(state_at(20))
    assert (checkpoints.folder / "20").stat().st_ino == inode  # not saved again
    assert checkpoints.steps() == {"latest": 20, "best": 10}
    assert_same(Checkpoints(tmp_path).restore("best", state_at(0)), state_at(10))


def test_the_core_adds_a_dev_loss_to_a_saved_step(tmp_path):
    checkpoints = saved(tmp_path, 2.0, None, open_folder=Checkpoints)
    assert checkpoints.steps() == {"latest": 20, "best": 10}
    checkpoints.save(state_at(20), 1.0)
    assert checkpoints.steps() == {"latest": 20, "best": 20}
    assert [folder.name for folder in checkpoints.folder.iterdir()] == ["20"]


def test_other_shapes_dtypes_and_optimizers_are_refused(tmp_path):
    """orbax would cast, cut or pad them without an error."""
    saved(tmp_path, 2.0)
    checkpoints = open_checkpoints(tmp_path)
    state = state_at(0)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state.params)
    with pytest.raises(UserError, match=r"was saved as float32\[.*needs bfloat16"):
        checkpoints.restore_items("latest", {"params": half})
    longer = jax.tree.map(lambda a: jnp.zeros((*a.shape[:-1], a.shape[-1] + 1)), state.params)
    with pytest.raises(UserError, match=r"was saved as .* needs"):
        checkpoints.restore_items("latest", {"params": longer})
    with pytest.raises(UserError, match=r"rest opt_state.*needs nothing"):
        checkpoints.restore("latest", state_at(0, optax.sgd(0.1)))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    checkpoints = open_checkpoints(tmp_path, read_only=True)
    assert checkpoints.steps() == {}
    assert checkpoints.best_dev_loss() == math.inf
    with pytest.raises(UserError, match="no checkpoint has been saved yet"):
        checkpoints.restore_items("best", {"params": {}})
    assert list(tmp_path.iterdir()) == []


ON_OTHER_DEVICES = """
import sys, jax
sys.path.insert(0, "tests")
from test_checkpoint import state_at, assert_same
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.assemble import open_checkpoints
from makemore_jax.config import MeshConfig

replicated = shardings.replicated(make_mesh(MeshConfig(data=int(sys.argv[2])), 32, 0))
restored = open_checkpoints(sys.argv[1]).restore("latest", jax.device_put(state_at(0), replicated))
assert_same(restored, state_at(10))
assert len(restored.step.sharding.device_set) == jax.device_count() == int(sys.argv[2])
open_checkpoints(sys.argv[1] + "/again").save(restored, 1.0)
"""


@pytest.mark.slow
def test_one_device_restores_a_checkpoint_of_eight_and_vice_versa(tmp_path):
    saved(tmp_path, 2.0)
    for folder, devices in ((tmp_path, 8), (tmp_path / "again", 1)):
        done = run("-c", ON_OTHER_DEVICES, folder, devices, **on_devices(devices))
        assert done.returncode == 0, done.stderr

"""Meshes: same losses as one device, memory per device, and collectives.

The programs run on eight virtual devices in a separate process.
"""

import json
import re
from functools import cache

import jax
import numpy as np
import pytest
from conftest import on_devices, run

from makemore_jax.config import MeshConfig
from makemore_jax.parallel import mesh as parallel_mesh
from makemore_jax.parallel.mesh import make_mesh

MESHES = ["8x1", "8x1 fsdp", "4x2", "4x2 fsdp", "1x8"]
# One family of each type on every mesh, and all other families on the mesh with all features. The
# GPTs and the recurrent families shard wide matrices over `model`; window_mlp has batch
# norm; all others follow the sharding rule of the mlp.
QUICK = [("transformer", "4x2 fsdp")]
ALL = [(kind, mesh) for kind in ("transformer", "gru", "window_mlp") for mesh in MESHES]
ALL += [(kind, "4x2 fsdp") for kind in ("bigram", "mlp", "cnn", "rnn", "lstm", "bow", "modern")]
ALL += [("rnn", "1x8"), ("lstm", "1x8")]
CASES = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ALL]
WIDE = {  # matrices that are sharded over `model`
    "transformer": r"c_attn/kernel$|attn/c_proj/kernel$|c_fc/(kernel|bias)$|mlp/c_proj/kernel$",
    "modern": r"attn/c_(q|k|v|proj)/kernel$|c_fc/kernel$|mlp/c_proj/kernel$",
    **dict.fromkeys(("rnn", "gru", "lstm"), r"cell/xh_to_\w+/kernel$"),
}


@pytest.fixture(scope="module")
def measured(request):
    """Return a function kind -> measurements of tests/on_meshes.py for the selected meshes."""
    cases = [
        item.callspec.params
        for item in request.session.items
        if item.path == request.path and "measured" in item.fixturenames
    ]

    @cache
    def measure(kind: str) -> dict:
        meshes = {case["mesh"] for case in cases if case["kind"] == kind} | {"alone"}
        command = [f"{kind}:{mesh}" for mesh in sorted(meshes)]
        done = run("tests/on_meshes.py", *command, PYTHONPATH=".", **on_devices(8))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])[kind]

    return measure


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "mesh"), CASES)
def test_losses_equal_those_of_one_device(measured, kind, mesh):
    alone, on_mesh = measured(kind)["alone"]["losses"], measured(kind)[mesh]["losses"]
    assert len(on_mesh) == 20
    np.testing.assert_allclose(on_mesh, alone, rtol=1e-5)


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "mesh"), CASES)
def test_memory_per_device(measured, kind, mesh):
    """Wide matrices are sharded over `model`; with fsdp, arrays are also sharded over `data`."""
    data, model = map(int, mesh.split()[0].split("x"))
    assert measured(kind)[mesh]["keeps_sharding"]
    for name, (shape, size, on_each) in measured(kind)[mesh]["held"].items():
        is_wide = model > 1 and re.search(WIDE.get(kind, "(?!)"), name)
        parts = model if is_wide else 1
        if "fsdp" in mesh and sum(n % data == 0 for n in shape) > bool(is_wide):
            parts *= data
        assert on_each == [size // parts] * (data * model), name


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "mesh"), [c for c in CASES if c.values[0] != "window_mlp"])
def test_collectives(measured, kind, mesh):
    """Gradients are all-reduced, sharded parameters all-gathered, and the transformer's sharded
    layers all-reduced. No array is resharded."""
    program = measured(kind)[mesh]
    data, model = map(int, mesh.split()[0].split("x"))
    expected = set()
    if data > 1 or (model > 1 and kind == "transformer"):
        expected.add("all-reduce")
    if model > 1 and kind in WIDE:
        expected.add("all-gather")
    if "fsdp" in mesh and (kind != "bigram"):
        expected.add("all-gather")
    assert set(program["collectives"]) == expected
    if model == 1:
        assert program["num_all_reduce"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mesh"), [(kind, "1x8") for kind in ("rnn", "gru", "lstm")])
def test_a_recurrent_model_on_the_model_axis_is_bit_exact(measured, kind, mesh):
    assert measured(kind)[mesh]["losses"] == measured(kind)["alone"]["losses"]


def test_small_models_stay_on_one_core(monkeypatch):
    """A small model or a small batch uses fewer CPU cores."""
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    monkeypatch.setattr(parallel_mesh, "_mesh", lambda num_data, num_model, devices: num_data)
    sizes = [(10**6, 32), (10**4, 32), (10**6, 16), (10**6, 5)]
    num_devices = [make_mesh(MeshConfig(), batch, params) for params, batch in sizes]
    assert num_devices == [4, 1, 2, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("mesh.model=3",), "mesh.model: 3 does not divide the 8 devices"),
        (("mesh.data=4", "mesh.model=4"), "mesh.data x mesh.model: 4 x 4 devices are requested, 8"),
        (("mesh.data=8", "train.batch_size=12"), "a batch of 12 is not divisible by 8 devices"),
        (
            ("mesh.data=2", "train.batch_size=12", "train.accumulate=4"),
            "a batch of 12 is not divisible by 2 devices x 4 microbatches",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused(flags, message, tmp_path):
    overrides = [f"--config.{flag}" for flag in flags]
    config = ("--config", "configs/bigram.py", "--workdir", tmp_path / "run")
    done = run("train.py", *config, *overrides, **on_devices(8))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()

"""Many devices compute what one computes, hold their share, and send what is expected.

Eight virtual devices, in a process of their own.
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
# A family of each kind on every mesh, and every other family on the mesh with all features: of
# the transformer and the recurrent families wide matrices are sharded over `model`; window_mlp
# has batch norm; all others are sharded by the same rule as the mlp.
QUICK = [("transformer", "4x2 fsdp")]
ALL = [(kind, mesh) for kind in ("transformer", "gru", "window_mlp") for mesh in MESHES]
ALL += [(kind, "4x2 fsdp") for kind in ("bigram", "mlp", "cnn", "rnn", "lstm", "bow")]
ALL += [("rnn", "1x8"), ("lstm", "1x8")]
CASES = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ALL]
WIDE = {  # matrices that are sharded over `model`
    "transformer": r"c_attn/kernel$|attn/c_proj/kernel$|c_fc/(kernel|bias)$|mlp/c_proj/kernel$",
    **dict.fromkeys(("rnn", "gru", "lstm"), r"cell/xh_to_\w+/kernel$"),
}


@pytest.fixture(scope="module")
def measured(request):
    """The function kind -> what tests/on_meshes.py measures on the meshes of the selected cases."""
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
def test_losses_are_those_of_one_device(measured, kind, mesh):
    alone, here = measured(kind)["alone"]["losses"], measured(kind)[mesh]["losses"]
    assert len(here) == 20
    np.testing.assert_allclose(here, alone, rtol=1e-5)


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "mesh"), CASES)
def test_each_device_holds_its_share(measured, kind, mesh):
    """Wide matrices are sharded over `model`; with fsdp, arrays are also sharded over `data`."""
    data, model = map(int, mesh.split()[0].split("x"))
    assert measured(kind)[mesh]["stays"]
    for name, (shape, size, on_each) in measured(kind)[mesh]["held"].items():
        is_wide = model > 1 and re.search(WIDE.get(kind, "(?!)"), name)
        parts = model if is_wide else 1
        if "fsdp" in mesh and sum(n % data == 0 for n in shape) > bool(is_wide):
            parts *= data
        assert on_each == [size // parts] * (data * model), name


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "mesh"), [c for c in CASES if c.values[0] != "window_mlp"])
def test_no_other_collectives_are_sent(measured, kind, mesh):
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
def test_over_the_model_axis_alone_a_recurrent_model_is_the_same_bit_for_bit(measured, kind, mesh):
    assert measured(kind)[mesh]["losses"] == measured(kind)["alone"]["losses"]


def test_small_models_stay_on_one_core(monkeypatch):
    """Of a CPU's cores, a small model or a small batch takes fewer."""
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    monkeypatch.setattr(parallel_mesh, "_mesh", lambda num_data, num_model, devices: num_data)
    sizes = [(10**6, 32), (10**4, 32), (10**6, 16), (10**6, 5)]
    found = [make_mesh(MeshConfig(), batch, params) for params, batch in sizes]
    assert found == [4, 1, 2, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("mesh.model=3",), "mesh.model: 3 does not divide the 8 devices here"),
        (("mesh.data=4", "mesh.model=4"), "mesh.data x mesh.model: 4 x 4 devices are asked for, 8"),
        (("mesh.data=8", "train.batch_size=12"), "a batch of 12 does not divide over 8 devices"),
        (
            ("mesh.data=2", "train.batch_size=12", "train.accumulate=4"),
            "a batch of 12 does not divide over 2 devices and 4 microbatches",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused(flags, message, tmp_path):
    given = [f"--config.{flag}" for flag in flags]
    config = ("--config", "configs/bigram.py", "--workdir", tmp_path / "run")
    done = run("train.py", *config, *given, **on_devices(8))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()

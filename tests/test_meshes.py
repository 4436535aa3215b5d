"""Many devices compute what one computes, hold their share, and send what is expected.

Eight virtual devices, in a process of their own; every family on every mesh.
"""

import json
import re

import numpy as np
import pytest
from conftest import on_devices, run

from makemore_jax import models

MESHES = ["8x1", "8x1 fsdp", "4x2", "4x2 fsdp", "1x8"]
WIDE = {  # matrices that lie over `model`
    "transformer": r"c_attn/kernel$|attn/c_proj/kernel$|c_fc/(kernel|bias)$|mlp/c_proj/kernel$",
    **dict.fromkeys(("rnn", "gru", "lstm"), r"cell/xh_to_\w+/kernel$"),
}


@pytest.fixture(scope="module")
def found():
    """What tests/on_meshes.py tells of every family."""

    done = run("tests/on_meshes.py", *models.MODELS, PYTHONPATH=".", **on_devices(8))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", models.MODELS)
@pytest.mark.parametrize("mesh", MESHES)
def test_losses_are_those_of_one_device(found, kind, mesh):
    alone, here = found[kind]["alone"]["losses"], found[kind][mesh]["losses"]
    assert len(here) == 20
    np.testing.assert_allclose(here, alone, rtol=1e-5)


@pytest.mark.parametrize("kind", models.MODELS)
@pytest.mark.parametrize("mesh", MESHES)
def test_each_device_holds_its_share(found, kind, mesh):
    """Of wide matrices a part by `model`, with fsdp of all that divides a part by `data`."""
    data, model = map(int, mesh.split()[0].split("x"))
    assert found[kind][mesh]["stays"]
    for name, (shape, size, on_each) in found[kind][mesh]["held"].items():
        is_wide = model > 1 and re.search(WIDE.get(kind, "(?!)"), name)
        parts = model if is_wide else 1
        if "fsdp" in mesh and sum(n % data == 0 for n in shape) > bool(is_wide):
            parts *= data
        assert on_each == [size // parts] * (data * model), name


@pytest.mark.parametrize("kind", [kind for kind in models.MODELS if kind != "window_mlp"])
@pytest.mark.parametrize("mesh", MESHES)
def test_nothing_else_is_sent(found, kind, mesh):
    """Gradients are added up; parameters in parts are put together; the transformer's layers in
    parts are added up. No array is dealt out anew."""
    of = found[kind][mesh]
    data, model = map(int, mesh.split()[0].split("x"))
    expected = set()
    if data > 1 or (model > 1 and kind == "transformer"):
        expected.add("all-reduce")
    if model > 1 and kind in WIDE:
        expected.add("all-gather")
    if "fsdp" in mesh and (kind != "bigram"):
        expected.add("all-gather")
    assert set(of["collectives"]) == expected
    if model == 1:
        assert of["num_all_reduce"] == 1


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_over_the_model_axis_alone_a_recurrent_model_is_the_same_bit_for_bit(found, kind):
    assert found[kind]["1x8"]["losses"] == found[kind]["alone"]["losses"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("mesh.model=3",), "mesh.model: 3 does not divide the 8 devices here"),
        (("mesh.data=4", "mesh.model=4"), "mesh.data x mesh.model: 4 x 4 devices are asked for, 8"),
        (("mesh.data=8", "train.batch_size=12"), "a batch of 12 does not divide over 8 devices"),
        (
            ("mesh.data=2", "train.batch_size=12", "train.accumulate=4"),
            "a batch of 12 does not divide over 2 devices, each 4 parts after each other",
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

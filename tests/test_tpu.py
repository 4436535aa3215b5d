"""The TPU compiler accepts every program. This needs libtpu but no TPU.

Skipped without libtpu: pip install "jax[tpu]". MAKEMORE_REQUIRE_LIBTPU=1 fails instead.
"""

import importlib.util
import json
import os
from functools import cache

import pytest
from conftest import ON_LINES, run

pytestmark = [pytest.mark.slow, pytest.mark.tpu]
MESHES = ["4x1", "4x1 fsdp", "2x2", "2x2 fsdp", "1x4"]  # fsdp has no effect on 1x4
MESH_KINDS = ["transformer", "gru"]  # their wide matrices are sharded over `model`
ALONE = [f"{kind}:alone:train_steps" for kind in [*ON_LINES, "window_mlp", "mixture"]]
ALONE += [f"{kind}:alone:decoding" for kind in ON_LINES]
ALONE += [f"{kind}:alone:evaluation" for kind in [*ON_LINES, "window_mlp"]]
ALONE += [f"transformer:alone:{program}" for program in ("text_decoding", "streaming")]
ON_MESHES = [f"{kind}:{mesh}:train_steps" for kind in MESH_KINDS for mesh in MESHES]


@pytest.fixture(scope="module")
def compiled(request):
    """Return a function case -> output of tests/on_tpu.py.

    One process compiles all cases of a program on one chip, or those of a model on meshes.
    """
    if importlib.util.find_spec("libtpu") is None:
        message = 'needs the TPU compiler: pip install "jax[tpu]"'
        if os.environ.get("MAKEMORE_REQUIRE_LIBTPU"):
            pytest.fail(message)
        pytest.skip(message)
    items = [item for item in request.session.items if item.path == request.path]
    selected = {item.callspec.params["case"] for item in items if hasattr(item, "callspec")}

    @cache
    def compile_group(group: str) -> dict[str, dict]:
        cases = [case for case in ALONE + ON_MESHES if case in selected and group_of(case) == group]
        done = run("tests/on_tpu.py", *cases, PYTHONPATH=".")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return lambda case: compile_group(group_of(case))[case]


def group_of(case: str) -> str:
    kind, mesh, program = case.split(":")
    return program if mesh == "alone" else f"{kind} on meshes"


@pytest.mark.parametrize("case", ALONE + ON_MESHES)
def test_the_compiler_accepts_each_program(compiled, case):
    """No program uses float64, which a TPU emulates, or transfers data to the host."""
    program = compiled(case)
    assert "f64" not in program["dtypes"] and "f32" in program["dtypes"]
    assert program["host_transfers"] == []
    if "alone" in case:
        assert program["collectives"] == {}


@pytest.mark.parametrize("case", ON_MESHES)
def test_collectives(compiled, case):
    """Gradients are all-reduced. Sharded parameters are all-gathered. In the transformer, the
    products of matrices sharded over `model` are all-reduced and the gradients of queries, keys and
    values are all-gathered. Nothing is resharded: no all-to-all, no collective-permute."""
    kind, mesh, _ = case.split(":")
    data, model = map(int, mesh.removesuffix(" fsdp").split("x"))
    collectives = compiled(case)["collectives"]
    expected = set()
    if data > 1 or kind == "transformer":
        expected.add("all-reduce")
    if model > 1 or "fsdp" in mesh:
        expected.add("all-gather")
    assert set(collectives) == expected
    if mesh == "4x1":
        assert collectives == {"all-reduce": 1}  # XLA combines those of all gradients


@pytest.mark.parametrize("case", ON_MESHES)
def test_memory_per_chip(compiled, case):
    """With fsdp the state is sharded over `data`; the other arguments are the training split."""
    _, mesh, _ = case.split(":")
    data, _ = map(int, mesh.removesuffix(" fsdp").split("x"))
    program = compiled(case)
    lines = 600_000  # bytes of the training split and of padding
    share = data if "fsdp" in mesh else 1
    assert program["arguments"] <= program["state"] / share + lines
    assert program["memory"] < 16 * 2**20

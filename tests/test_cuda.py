"""Every program can be lowered for CUDA. This needs neither a GPU nor CUDA."""

import jax
import jax.export
import pytest
from conftest import ON_LINES, ROOT, quick_of, small_config
from jax.sharding import AxisType

PROGRAMS = ("train_steps", "evaluation", "decoding", "streaming")
CASES = [f"{kind}:{program}" for kind in [*ON_LINES, "window_mlp"] for program in PROGRAMS[:3]]
CASES += ["transformer:streaming"]
QUICK = ["transformer:train_steps", "gru:decoding"]


def export(function, *args) -> jax.export.Exported:
    return jax.export.export(function, platforms=["cuda"])(*args)


@pytest.mark.versions
@pytest.mark.parametrize("case", quick_of(CASES, QUICK))
def test_each_program_lowers_for_cuda(case, monkeypatch):
    """Export refuses custom calls of other platforms. No program has a host callback."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import tpu

    kind, program = case.split(":")
    config = small_config(kind)
    if kind == "window_mlp":
        config.data.kind, config.data.block_size = "windows", 3
    if program == "streaming":
        config.data.kind, config.data.block_size = "text", 8
    axes = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((1, 1), ("data", "model"), axes, devices=jax.devices()[:1])
    exported = getattr(tpu.Programs(config, mesh, "gpu", export), program)()
    assert exported.platforms == ("cuda",)
    text = exported.mlir_module()
    assert "stablehlo.while" in text or program == "evaluation"
    assert "f64" not in text and "callback" not in text

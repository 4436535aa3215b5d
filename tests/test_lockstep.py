"""Parity with PyTorch: train each family in JAX and PyTorch and compare within tolerances.

Needs torch: pip install -e ".[parity]". If MAKEMORE_REQUIRE_TORCH is set, nothing is skipped.
"""

import json
import math
import os
import re

import pytest
from conftest import AS_USERS_RUN, FAMILIES, on_devices, run, small_config

from makemore_jax.config import Config, OptimizerConfig
from makemore_jax.errors import UserError

if not os.environ.get("MAKEMORE_REQUIRE_TORCH"):
    pytest.importorskip("torch", reason='needs torch: pip install -e ".[parity]"')

pytestmark = pytest.mark.slow
COMPARE = ("-m", "makemore_jax.torch_parity.compare")
# The program of train.py takes seconds to compile, so it is compared for three families: one that
# reads packed lines, one that reads rows, and the largest one.
COMPILED = ("mlp", "gru", "transformer")
STEPS = "50"  # docs/parity.md shows 200


def compare(config, *flags, **env):
    """Return the results of a comparison. The command exits with 1 if a tolerance is exceeded."""
    *flags, folder = flags
    command = (*COMPARE, *config, "--steps", STEPS, *flags, "--workdir", folder)
    done = run(*command, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "parity.json").read_text("utf-8"))["results"]


SOME_FAMILIES = """
import runpy
import sys
from makemore_jax.torch_parity import models

_, folder, steps, *excluded = sys.argv
models.MODELS = {kind: model for kind, model in models.MODELS.items() if kind not in excluded}
sys.argv = ["compare", "--all", "--nocompiled", "--steps", steps, "--workdir", folder]
runpy.run_module("makemore_jax.torch_parity.compare", run_name="__main__")
"""
OTHERS = [kind for kind in FAMILIES if kind not in COMPILED]


@pytest.fixture(scope="module")
def results_of_others(tmp_path_factory):
    """Return the results of OTHERS by family. One command compares them all, and window_mlp."""
    folder = tmp_path_factory.mktemp("all")
    done = run("-c", SOME_FAMILIES, folder, STEPS, *COMPILED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "parity.png").stat().st_size > 10_000
    results = json.loads((folder / "parity.json").read_text("utf-8"))["results"]
    assert [result["kind"] for result in results] == [*OTHERS, "window_mlp"]
    return {result["kind"]: result for result in results}


@pytest.mark.parametrize("kind", OTHERS)
def test_each_other_family_in_lockstep(kind, results_of_others):
    check(results_of_others[kind], "float32")
    check_float32(results_of_others[kind])


@pytest.mark.parametrize("kind", COMPILED)
def test_a_family_of_each_type_in_lockstep(kind, tmp_path):
    env = AS_USERS_RUN | on_devices(2)
    (result,) = compare(("--config", f"configs/{kind}.py"), tmp_path, **env)
    check(result, "float32")
    check_float32(result)
    for num_devices in (1, 2):
        assert result["differences"][f"compiled_gradients_{num_devices}"] <= 1e-4
        assert result["differences"][f"compiled_loss_curve_{num_devices}"] <= 1e-3


def check_float32(result):
    """Check the bounds of docs/parity.md in float32."""
    assert result["differences"]["logits"] <= 1e-5
    assert result["differences"]["loss"] <= 1e-6
    assert result["differences"]["gradients"] <= 1e-4
    assert result["differences"]["loss_curve"] <= 1e-3


def test_a_family_in_float64(tmp_path):
    """test_golden.py compares all families with stored arrays in float64, and two tests below
    compare transformers with PyTorch in float64."""
    (result,) = compare(("--config", "configs/gru.py"), "--float64", tmp_path)
    check(result, "float64")
    assert result["differences"]["logits"] <= 1e-12
    assert result["differences"]["gradients"] <= 1e-11
    assert result["differences"]["parameters"] <= 1e-9


def test_windows_with_batch_norm_in_lockstep(tmp_path):
    """Both sides also have the same running statistics, which their continuations use."""
    config = ("--config", "configs/lecture_wavenet.py", "--config.model.n_embd2=31")
    (result,) = compare(config, "--float64", tmp_path)
    check(result, "float64")
    assert {"norms.0.weight", "norms.2.bias"} < result["differences"]["gradient_of_each"].keys()


def check(result, dtype):
    """Check the properties of every comparison."""
    assert result["exceeded"] == []
    assert len(result["curves"]["jax"]) == len(result["curves"]["torch"]) == int(STEPS)
    assert result["curves"]["jax"][-1] < result["curves"]["jax"][0]  # both learned
    assert result["dtype"] == dtype
    assert len(result["continuations"]) == 10


PRIMES = ("--config.model.n_layer=3", "--config.model.n_head=1", "--config.model.n_embd=31")
SIZES = ("--config.model.n_layer=2", "--config.model.n_head=3", "--config.model.n_embd=33")
SGD = (
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=0.1",
    "--config.optimizer.schedule=step",
    "--config.optimizer.step_size=17",
)
COSINE = (
    "--config.optimizer.schedule=cosine",
    "--config.optimizer.warmup_steps=11",
    "--config.optimizer.min_learning_rate=1e-5",
)


@pytest.mark.parametrize(
    "flags",
    [(*PRIMES, *SGD, "--float64"), (*SIZES, *COSINE, "--config.train.batch_size=7")],
    ids=["sgd", "cosine"],
)
def test_other_sizes_and_optimizers_in_lockstep(flags, tmp_path):
    command = (*COMPARE, "--config", "configs/transformer.py", "--steps", STEPS, "--nocompiled")
    done = run(*command, "--workdir", tmp_path, *flags, **AS_USERS_RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d.\de-\d+  transformer.h.0.attn.c_attn.weight", done.stdout)
    assert done.stdout.count("(both)") == 10


# The config has no biases, tied embeddings, GPT-2's initial values, the cosine schedule, and weight
# decay of matrices only.
GPT = (
    *("--config", "configs/shakespeare_cpu.py", "--config.data.block_size=13"),
    *("--config.train.batch_size=7", "--config.model.n_layer=2"),
    *("--config.model.n_head=3", "--config.model.n_embd=33", "--config.model.activation=relu"),
    *("--config.optimizer.warmup_steps=11", "--config.optimizer.grad_clip=0.5"),
)


def test_nanogpt_settings_on_a_text_in_lockstep(tmp_path):
    """The model learns this text quickly, so its samples still vary beyond the first context."""
    (tmp_path / "text.txt").write_text(211 * "one two three four five six seven ", "utf-8")
    flags = (f"--config.data.path={tmp_path / 'text.txt'}", "--float64", "--steps", "100")
    done = run(*COMPARE, *GPT, *flags, "--workdir", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads((tmp_path / "parity.json").read_text("utf-8"))["results"]
    assert result["curves"]["jax"][-1] < result["curves"]["jax"][0]
    gradients = result["differences"]["gradient_of_each"]
    assert {"transformer.wte.weight", "lm_head.weight"} < gradients.keys()
    assert not any(name.endswith("bias") for name in gradients)
    for prompt, ours, theirs in result["continuations"]:
        assert len(prompt) <= 3 and len(ours) == 3 + 2 * 13 and ours.startswith(prompt)
        assert ours == theirs and len(set(ours[13:])) > 3
    assert len({prompt for prompt, _, _ in result["continuations"]}) > 5


def test_bfloat16_is_not_compared(tmp_path):
    flags = ("--config.data.path=names.txt", "--config.model.dtype=bfloat16")
    done = run(*COMPARE, *GPT, *flags, "--workdir", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "compare: model.dtype: must be float32; JAX and PyTorch round bfloat16 differently\n"
    )
    assert not (tmp_path / "run").exists()


def test_muon_is_not_compared():
    from makemore_jax.torch_parity.compare import check_comparable

    with pytest.raises(UserError, match=r"^optimizer.name: must be adamw or sgd"):
        check_comparable(Config(optimizer=OptimizerConfig("muon")))


def test_a_mixture_is_not_compared():
    from makemore_jax.torch_parity.compare import check_comparable

    config = Config()
    config.model.kind, config.model.n_embd, config.model.dropout = "mixture", 64, 0.1
    with pytest.raises(UserError, match=r"^model.kind: mixture has no counterpart in PyTorch"):
        check_comparable(config)


BROKEN = """
import runpy
import sys
import torch
from torch.nn import functional as F
from makemore_jax.torch_parity import models

erf_gelu = F.gelu
models.F.gelu = lambda x, approximate: erf_gelu(x)  # torch's default, not GPT-2's
models.MODELS = {kind: models.MODELS[kind] for kind in ("bigram", "transformer")}
flags = ["--all", "--steps", "3", "--nocompiled"]
config = ["--config", "configs/transformer.py", *flags]
sys.argv = ["compare", *config, "--workdir", sys.argv[1]]
runpy.run_module("makemore_jax.torch_parity.compare", run_name="__main__")
"""


BROKEN_ON_TWO = """
import runpy
import sys
import jax
from makemore_jax.assemble import programs
from makemore_jax.parallel import gradients

gradients.all_reduce_as_vector = lambda tree: tree  # each device keeps the sums of its own lines
config = ["--config", "configs/bigram.py", "--steps", "20"]
sys.argv = ["compare", *config, "--workdir", sys.argv[1]]
runpy.run_module("makemore_jax.torch_parity.compare", run_name="__main__")
"""


def test_a_difference_of_the_compiled_program_is_reported(tmp_path):
    done = run("-c", BROKEN_ON_TWO, tmp_path, **on_devices(2))
    assert done.returncode == 1
    (first, second) = done.stderr.splitlines()
    assert "bigram in float32: compiled, 2 devices: gradients differ by" in first
    assert "bigram in float32: compiled, 2 devices: loss curve differ by" in second


def test_a_difference_of_one_family_is_reported(tmp_path):
    done = run("-c", BROKEN, tmp_path)
    assert done.returncode == 1
    assert "compare: transformer in float32: logits differ by" in done.stderr
    assert "compare: bigram" not in done.stderr
    results = json.loads((tmp_path / "parity.json").read_text("utf-8"))["results"]
    assert [bool(result["exceeded"]) for result in results] == [False, True]


def test_a_difference_that_is_not_a_number_is_reported(monkeypatch):
    from makemore_jax.torch_parity import compare

    monkeypatch.setattr(compare, "worst", lambda values: math.nan)
    result = compare.compare(small_config("mlp"), steps=1, has_compiled=False)
    assert result["exceeded"] == ["gradients"]  # parameters have no tolerance in float32

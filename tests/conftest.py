"""What the tests share: small sizes, all of them prime so that a transposed axis fails."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Before jax is imported: no other device; and what one process of the tests has compiled is kept
# for the others, until the first of them ends.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time here goes into compiling what runs for a moment. Machine code that is not
# optimised is compiled twice as fast; what XLA makes of the program before it is the same. Where
# it matters that the code is the user's, a test runs with AS_USERS_RUN.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
AS_USERS_RUN = {"XLA_FLAGS": ""}
# PyTorch's threads wait for each other in a busy loop: where another process works on the same
# cores, as another of these tests, a step of two threads takes a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="makemore_jax_cache_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import numpy as np
import pytest

from makemore_jax import models
from makemore_jax.config import Config
from makemore_jax.data.download import SOURCES, locate
from makemore_jax.data.lines import Dataset, load

ROOT = Path(__file__).parent.parent
VOCAB, BLOCK = 13, 7  # V and T
FAMILIES = [kind for kind in models.MODELS if kind != "window_mlp"]  # makemore's, on lines


def small_config(kind: str, **train) -> Config:
    """A config of a model that trains in a blink."""
    config = Config(seed=11)
    config.data.path = str(ROOT / "names.txt")
    config.model.kind = kind
    config.model.n_layer, config.model.n_head = 2, 2
    config.model.n_embd, config.model.n_embd2 = 10, 11
    config.train.batch_size, config.train.num_samples = 5, 3
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


def small_model(kind: str, vocab_size: int = VOCAB, block_size: int = BLOCK):
    """A small model of a family and its parameters, moved away from any zeros they start with."""
    model = models.create(small_config(kind).model, vocab_size, block_size)
    tokens = np.zeros((1, block_size), np.int32)
    params = jax.jit(model.init)(jax.random.key(3), tokens)["params"]
    noise = np.random.RandomState(5)
    return model, jax.tree.map(lambda a: a + 0.1 * noise.randn(*a.shape).astype(a.dtype), params)


def assert_close(actual, expected, tolerance=1e-5):
    """Equal within `tolerance`, relative to the largest of the expected values or to 1."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def assert_same(actual, expected):
    """Two trees of arrays, equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def run(*command: str, cwd=ROOT, stdin: str | None = None, **env: str):
    """Run a script of the project as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=900,  # what takes a minute here takes many on a slow machine that does more besides
    )


def on_devices(count: int) -> dict[str, str]:
    """The environment of a process that sees so many virtual devices."""
    return {"JAX_NUM_CPU_DEVICES": str(count)}


def published(name: str) -> Path:
    """One of the course's texts, or a skip that says how to get it."""
    path = locate(name, ROOT / "data")
    if path is None:
        pytest.skip(
            f"needs {SOURCES[name].file}: python -m makemore_jax.data.download {name}, "
            "or name its folder in MAKEMORE_DATA"
        )
    return path


@pytest.fixture(scope="session")
def names() -> Dataset:
    """names.txt, loaded as train.py loads it."""
    return load(small_config("bigram").data, seed=11)

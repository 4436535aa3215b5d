"""Shared fixtures and helpers. Sizes are small primes, so that a transposed axis fails."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import forkserver

# Set these variables before jax is imported: use only the CPU, and do not optimize machine code,
# which makes compilation three times as fast. XLA's passes over the program stay the same. A test
# that depends on optimized machine code runs with AS_USERS_RUN.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    _FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"  # later versions have no such flag
os.environ.setdefault("XLA_FLAGS", _FAST_COMPILE)
AS_USERS_RUN = {"XLA_FLAGS": ""}
# PyTorch's threads wait for each other in a busy loop, which is a hundred times slower if another
# process uses the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The output of programs is read as UTF-8, which is not the encoding of a pipe on Windows.
os.environ.setdefault("PYTHONUTF8", "1")

# Background jobs of a shell ignore Ctrl-C and `nohup` ignores SIGHUP. Child processes inherit this.
# Reset both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest

from makemore_jax import assemble, models
from makemore_jax.assemble import create_model
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.cli import startup
from makemore_jax.config import Config, ModelConfig
from makemore_jax.data import Batch
from makemore_jax.download import SOURCES, locate
from makemore_jax.known_lines import KnownLines, load
from makemore_jax.training.step import gradients, make_train_step

ROOT = Path(__file__).parent.parent
# jax 0.7.2 has it in jax.experimental only.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
SECONDS = pytest.StashKey[float]()
STALLS = pytest.StashKey[float]()
VOCAB, BLOCK = 13, 7  # V and T
TIMEOUT = 300  # seconds per command, enough for a slow and busy machine
CACHE_MAX_BYTES = 2**30  # size limit of the tests' compilation cache
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows can't send SIGINT or SIGTERM")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and terminals")
# The models with stored arrays, a PyTorch counterpart and a config file.
FAMILIES = ["bigram", "mlp", "cnn", "rnn", "gru", "lstm", "bow", "transformer", "modern"]
# All models that read lines, including one that a user adds.
ON_LINES = [kind for kind in models.MODELS if kind != "window_mlp"]


def small_config(kind: str, **train) -> Config:
    """Return a config of a small model that trains quickly."""
    config = Config(seed=11)
    config.data.path = str(ROOT / "names.txt")
    config.model.kind = kind
    n_embd = 12 if kind in ("modern", "mixture") else 10  # even head sizes
    set_sizes(config.model, n_layer=2, n_head=2, n_embd=n_embd, n_embd2=11)
    config.train.batch_size, config.train.num_samples = 5, 3
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


def set_sizes(config: ModelConfig, **sizes: int) -> None:
    """Set the sizes that the kind of model has."""
    declared = (models.MODELS | EXTENSION_MODELS)[config.kind].__dataclass_fields__
    for name in sizes.keys() & declared.keys() & ModelConfig.__dataclass_fields__.keys():
        setattr(config, name, sizes[name])


def small_model(kind: str, vocab_size: int = VOCAB, block_size: int = BLOCK):
    """Return a small model and its initial parameters plus noise, so that none are zero."""
    model, params = _small_model(kind, vocab_size, block_size)
    return model, jax.tree.map(jnp.asarray, params)  # the tests may change the tree


@cache
def _small_model(kind: str, vocab_size: int, block_size: int):
    model = create_model(small_config(kind).model, vocab_size, block_size)
    tokens = np.zeros((1, block_size), np.int32)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(3), tokens)["params"])
    noise = np.random.RandomState(5)
    return model, jax.tree.map(lambda a: a + 0.1 * noise.randn(*a.shape).astype(a.dtype), params)


class FixedBatch:
    """A split that returns the same batch in every step."""

    def __init__(self, batch):
        self.batch, self.size = Batch(*batch), 1

    def take(self, indices):
        return self.batch


def make_batch_step(model, optimizer):
    """Return the training step as a function (state, batch, key) for a given batch."""
    train_step = make_train_step(gradients(model), optimizer, batch_size=1)
    return lambda state, batch, key: train_step(state, FixedBatch(batch), jax.random.split(key))


def make_loss_and_grads(model):
    """Return the function (params, model state, batch, key) -> (loss, model state), gradients."""
    gradient_fn = gradients(model)

    def loss_and_grads(params, model_state, batch, key):
        variables, split = {"params": params, **model_state}, FixedBatch(batch)
        sums = gradient_fn(variables, split, jnp.zeros(1, int), key)
        grads = jax.tree.map(lambda g: g / sums.count, sums.grads)
        return (sums.loss / sums.count, sums.model_state), grads

    return loss_and_grads


def quick_of(values: Iterable, quick: Iterable) -> list:
    """Return parameters of a test, with all but the `quick` ones marked as slow."""
    return [pytest.param(v, marks=() if v in quick else pytest.mark.slow) for v in values]


def assert_close(actual, expected, tolerance=1e-5):
    """Check equality within `tolerance`, relative to the largest expected value or to 1."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def assert_same(actual, expected):
    """Check that two trees of arrays are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def start(*command: str, cwd=ROOT, stdin: str | None = None, **env: str):
    """Start a script of the project as a user does, in a separate process."""
    command, env = [str(part) for part in command], os.environ | env
    program = forkserver.Process if forkserver.IS_AVAILABLE else forkserver.NewInterpreter
    return program(command, str(cwd), env, stdin)


def run(*command: str, cwd=ROOT, stdin: str | None = None, fresh: bool = False, **env: str):
    """Run a script of the project as a user does, and wait for it.

    `fresh` starts a new interpreter, which imports everything itself.
    """
    if forkserver.IS_AVAILABLE and not fresh:
        with start(*command, cwd=cwd, stdin=stdin, **env) as process:
            printed = process.communicate(timeout=TIMEOUT)
        return subprocess.CompletedProcess(command, process.returncode, *printed)
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | env,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )


def assert_one_line(done, program: str, message: str):
    """Check for a one-line error that starts with the program's name, exit code 2, no output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{program}: ")
    assert message in line


def read_metrics(folder: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def on_devices(count: int) -> dict[str, str]:
    """Return the environment of a process with `count` virtual devices."""
    return {"JAX_NUM_CPU_DEVICES": str(count)}


def published(name: str) -> Path:
    """Return the file of a published text, or skip the test and say how to get it."""
    path = locate(name, ROOT / "data")
    if path is None:
        pytest.skip(
            f"needs {SOURCES[name].file}: python -m makemore_jax.download {name}, "
            "or name its folder in MAKEMORE_DATA"
        )
    return path


@pytest.fixture(scope="session")
def names() -> KnownLines:
    """Load names.txt as train.py does."""
    return load(small_config("bigram").data, seed=11)


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory) -> Path:
    """Return a folder with runs on a few lines: bigram, bigram_inside and transformer.

    The last two record layer statistics.
    """
    folder = tmp_path_factory.mktemp("runs")
    words = (ROOT / "names.txt").read_text("utf-8").split()[:200]
    (folder / "few.txt").write_text("\n".join([*words, "élise"]), "utf-8")
    for name, every in (("bigram", None), ("bigram_inside", 10), ("transformer", 10)):
        config = small_config(name.removesuffix("_inside"), steps=20, log_every=5, eval_every=10)
        config.data.path, config.train.num_samples = str(folder / "few.txt"), 0
        config.train.diagnose_every = every
        assemble.train(config, str(folder / name))
    return folder


@pytest.fixture(scope="session")
def small_text_run(tmp_path_factory) -> Path:
    """Return a folder with few.txt, a text with newlines and markup, and a run of an MLP."""
    folder = tmp_path_factory.mktemp("text")
    lines = [f"line {i}: <b>to</b> be & not {i * 7 % 11}" for i in range(90)]
    (folder / "few.txt").write_text("\n".join(lines), "utf-8")
    config = small_config("mlp", steps=20, log_every=10, eval_every=10)
    config.data.path, config.data.kind = str(folder / "few.txt"), "text"
    config.data.block_size, config.train.num_samples = BLOCK, 0
    assemble.train(config, str(folder / "run"))
    return folder


@pytest.fixture(scope="session")
def overtrained(tmp_path_factory) -> Path:
    """Return the run of a bigram whose best step is not its last: the learning rate rises to 50."""
    config = small_config("bigram", steps=60, log_every=10, eval_every=10, num_samples=0)
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.0
    config.optimizer.warmup_steps, config.optimizer.learning_rate = 60, 50.0
    folder = tmp_path_factory.mktemp("overtrained") / "run"
    assert assemble.train(config, str(folder))["best_step"] < 60
    return folder


def checkpoint_of_bigram(folder: Path, name: str) -> np.ndarray:
    """Return the logits in the best or the latest checkpoint of a run."""
    checkpoints = assemble.open_checkpoints(folder, read_only=True)
    lm = assemble.restore_language_model(checkpoints, assemble.read_run(folder), name)
    return np.asarray(lm.variables["params"]["logits"])


def pytest_addoption(parser):
    help = "fail a test that takes longer; a notebook or the TPU compiler may take three times this"
    parser.addoption("--max-seconds", type=float, help=help)


def memory_stalls() -> float:
    """Return the seconds since boot in which all programs waited for memory, 0 if not known."""
    file = Path("/proc/pressure/memory")
    try:
        return int(file.read_text("utf-8").rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        return 0.0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Remember the stalls before a test."""
    item.stash[STALLS] = memory_stalls()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test whose set-up and call together take longer than --max-seconds.

    Time in which the whole machine waits for memory does not count.
    """
    report = yield
    limit = item.config.getoption("--max-seconds")
    if limit and (item.get_closest_marker("notebooks") or item.get_closest_marker("tpu")):
        limit *= 3
    item.stash[SECONDS] = item.stash.get(SECONDS, 0.0) + call.duration
    seconds = item.stash[SECONDS] - (memory_stalls() - item.stash[STALLS])
    if limit and report.when == "call" and report.passed and seconds > limit:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} took {seconds:.0f} s, more than {limit:.0f}"
    return report


def pytest_configure(config):
    """Keep the latest compiled programs for the next session, up to CACHE_MAX_BYTES."""
    if startup.CACHE_VARIABLE in os.environ or (folder := startup.cache_folder("tests-")) is None:
        return
    os.environ[startup.CACHE_VARIABLE] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if hasattr(config, "workerinput"):
        return  # the main process has cleaned up
    by_age = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)
    excess = sum(file.stat().st_size for file in by_age) - CACHE_MAX_BYTES
    for file in by_age:
        if excess <= 0:
            break
        excess -= file.stat().st_size
        file.unlink()

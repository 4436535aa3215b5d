"""The compilation cache, which is private to the user, and the number of CPU devices."""

import stat
from types import SimpleNamespace

import pytest
from conftest import ROOT, run

from makemore_jax.cli import startup

COMMAND = (
    *("train.py", "--config", "configs/bigram.py", "--config.train.steps=4"),
    *("--config.train.num_samples=0", "--workdir"),
)


@pytest.fixture(autouse=True)
def no_shared_cache(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


def test_the_second_run_compiles_nothing(tmp_path):
    cache = tmp_path / "cache"
    cached = []
    for name in ("first", "second"):
        done = run(*COMMAND, tmp_path / name, XDG_CACHE_HOME=str(cache))
        assert done.returncode == 0, done.stderr
        (folder,) = (cache / "makemore_jax").iterdir()
        cached.append({file.name for file in folder.iterdir() if file.name.endswith("-cache")})
    assert any("train_steps" in name for name in cached[0])
    assert cached[0] == cached[1]
    assert folder.name.startswith("jaxlib-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "second" in done.stdout
    first, second = (
        (tmp_path / n / "metrics.jsonl").read_text("utf-8") for n in ("first", "second")
    )
    assert first.split('"learning_rate"')[0] == second.split('"learning_rate"')[0]  # the same loss


@pytest.mark.slow
@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"])
def test_trains_without_a_cache(tmp_path, name):
    """The cache is disabled, or its folder can't be written."""
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    env[name] = "" if name == "JAX_COMPILATION_CACHE_DIR" else str(ROOT / "names.txt" / "nowhere")
    done = run(*COMMAND, tmp_path / "run", **env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (tmp_path / "cache").exists()


def test_a_number_of_devices_in_xla_flags_is_kept(monkeypatch):
    updates = {}
    config = SimpleNamespace(jax_num_cpu_devices=-1, update=updates.__setitem__)
    monkeypatch.setattr(startup, "jax", SimpleNamespace(config=config))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    startup.configure_jax()
    assert "jax_num_cpu_devices" not in updates
    monkeypatch.setenv("XLA_FLAGS", "")
    startup.configure_jax()
    assert updates["jax_num_cpu_devices"] == startup.num_cores()

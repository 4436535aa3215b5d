"""The benchmarks run, in small, and write down what they print."""

import json

import pytest
from conftest import run

RUNS = {
    "train_speed": ("--models", "bigram", "--rounds", "1", "--seconds", "0.01"),
    "sample_speed": ("--models", "gru", "--rounds", "1", "--nums", "30"),
    "whole_run": ("--models", "bigram", "--rounds", "1", "--steps", "20"),
    "limit": ("--rounds", "1"),
    "sweep_cost": ("--models", "bigram", "--nums", "1", "4"),
    "ablation": ("--models", "rnn", "--rounds", "1", "--seconds", "0.01"),
    "growth": (
        *("--batch", "32", "--context", "16", "--width", "32", "--lines", "1000"),
        *("--rounds", "1"),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_benchmark(name, tmp_path):
    pytest.importorskip("torch")
    done = run("-m", f"benchmarks.{name}", *RUNS[name], "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / f"{name}.md").read_text()
    assert table.strip() in done.stdout
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"]["cores"] >= 1 and "torch" in written["machine"]["versions"]
    if name == "train_speed":
        found = written["results"]["bigram"]
        times = found["milliseconds"]
        peers = [times[way] for way in ("eager", "fused", "compiled")]
        assert found["ratio"] == pytest.approx(min(peers) / times["makemore_jax"])
    if name == "whole_run":
        ways = written["results"]["bigram"]
        assert all(way["seconds"] > 0.1 and way["mebibytes"] > 50 for way in ways.values())

"""What the README says: its ninth model works as it stands there, and its commands exist."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from conftest import ROOT, assert_close, small_config

from makemore_jax import models
from makemore_jax.training import loop

README = (ROOT / "README.md").read_text("utf-8")


def test_the_ninth_model_trains_and_samples(tmp_path, monkeypatch):
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {"__name__": "trigram"}
    exec(source, scope)
    monkeypatch.setitem(models.MODELS, "trigram", scope["Trigram"])

    model = models.create(small_config("trigram").model, vocab_size=5, block_size=7)
    params = {"logits": np.random.RandomState(1).randn(5, 5, 5).astype(np.float32)}
    tokens = jax.random.randint(jax.random.key(1), (3, 7), 0, 5).at[:, 0].set(0)
    at_once = model.apply({"params": params}, tokens)
    carry = model.apply({"params": params}, 3, method="init_carry")
    for t in range(7):
        carry, logits = model.apply({"params": params}, carry, tokens[:, t], method="step")
        assert_close(logits, at_once[:, t])
    assert_close(at_once[:, 3], params["logits"][tokens[:, 2], tokens[:, 3]])

    config = small_config("trigram", steps=150, log_every=50)
    config.optimizer.learning_rate = 0.03
    summary = loop.train(config, str(tmp_path))
    assert summary["num_params"] == 27**3
    assert summary["test_loss"] < jnp.log(27) - 0.1


def test_every_file_that_the_readme_names_is_there():
    paths = re.findall(r"`((?:makemore_jax|configs|docs|tests|benchmarks)/[\w/.]+)`", README)
    paths += re.findall(r"\]\(([\w/.]+)\)", README)
    invented = {"makemore_jax/models/trigram.py", "configs/trigram.py"}
    assert len(paths) > 10
    for path in set(paths) - invented:
        assert (ROOT / path).exists(), path


def test_every_flag_that_the_readme_names_is_known():
    flags = set(re.findall(r"--(\w+)", README.replace("--config.", "--config ")))
    known = set(re.findall(r'"(\w+)"', (ROOT / "sample.py").read_text()))
    known |= {"names", "out", "config", "workdir", "help", "logdir", "steps", "over", "seeds"}
    assert flags - known == set()


def test_performance_shows_what_the_benchmarks_wrote():
    page = (ROOT / "docs/performance.md").read_text("utf-8")
    tables = list((ROOT / "docs/benchmarks").glob("*.md"))
    assert len(tables) == 8
    for table in tables:
        assert table.read_text("utf-8").strip() in page, table
        assert f"`python -m benchmarks.{table.stem}`" in page


def test_the_lectures_page_shows_what_the_benchmark_wrote():
    """And the losses of each config are those beside it; every picture is there."""
    page = (ROOT / "docs/lectures.md").read_text("utf-8")
    assert (ROOT / "docs/lectures/results.md").read_text("utf-8").strip() in page
    pictures = re.findall(r"\]\((lectures/[\w.]+)\)", page)
    assert len(pictures) == 15
    assert all((ROOT / "docs" / picture).stat().st_size > 5_000 for picture in pictures)
    results = json.loads((ROOT / "docs/lectures/results.json").read_text("utf-8"))["results"]
    for name in ("mlp", "mlp_scaled", "mlp_batchnorm", "deep_batchnorm", "wavenet"):
        doc = (ROOT / "configs" / f"lecture_{name}.py").read_text("utf-8")
        found = results[name]
        assert f"train loss {found['train_loss']:.4f}, dev {found['dev_loss']:.4f};" in doc
        assert f"{found['seconds']:.0f} seconds" in doc

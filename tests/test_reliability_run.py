"""A run and its surroundings: new schedules, missing devices, divergence, sweeps."""

import jax
import numpy as np
import pytest
from conftest import (
    assert_one_line,
    assert_same,
    read_metrics,
    run,
    small_config,
)
from test_signals import BIGRAM, latest_step

from makemore_jax import assemble, sweep
from makemore_jax.errors import Diverged, UserError
from makemore_jax.integrity.checkpoints import VerifiedCheckpoints
from makemore_jax.integrity.runs import read
from makemore_jax.metrics import finite_mean
from makemore_jax.report.history import read_curves, read_diagnostics
from makemore_jax.sweep import FinishedGroups, groups
from makemore_jax.training.state import TrainState


@pytest.mark.slow
def test_a_new_schedule_is_announced_and_drawn_as_logged(tmp_path, capsys):
    config = small_config("bigram", steps=10, log_every=5)
    config.optimizer.schedule = "cosine"
    assemble.train(config, str(tmp_path))
    assert "you changed" not in capsys.readouterr().out
    config.train.steps = 20
    assemble.train(config, str(tmp_path))
    printed = capsys.readouterr().out
    assert "the learning rate was 1.22e-05 at step 10 and is 0.00025 at step 11" in printed
    assert "you changed train.steps from 10 to 20" in printed
    logged = [
        (line["step"], line["learning_rate"])
        for line in read_metrics(tmp_path)
        if "learning_rate" in line
    ]
    assert read_curves(tmp_path, read(tmp_path)).learning_rate == logged
    assert [step for step, _ in logged] == [5, 10, 15, 20]
    assert logged[1][1] < logged[2][1]  # a schedule over all 20 steps would fall


def test_curves_of_a_damaged_log_are_those_of_its_complete_lines(tmp_path):
    assemble.train(small_config("bigram", steps=10, log_every=5), str(tmp_path))
    expected = read_curves(tmp_path, read(tmp_path))
    damage = ["5", "null", "{", '{"train_loss": 3}', '{"step": "x", "train_loss": 3.0}']
    damage += ['{"step": 30, "update_to_data": {}}', '{"step": 10, "train_loss": 3.0}']
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(damage) + "\n")
    assert read_curves(tmp_path, read(tmp_path)) == expected
    assert read_diagnostics(tmp_path, []) is None


@pytest.mark.slow
def test_more_steps_at_a_constant_rate_are_not_announced(tmp_path, capsys):
    config = small_config("bigram", steps=10)
    assemble.train(config, str(tmp_path))
    config.train.steps = 20
    assemble.train(config, str(tmp_path))
    assert "you changed" not in capsys.readouterr().out


# Devices


@pytest.mark.parametrize("platform", ["cuda", "tpu", "gpu"])
def test_a_missing_device_is_one_line(platform, tmp_path):
    done = run(*BIGRAM, "--workdir", tmp_path / "run", JAX_PLATFORMS=platform)
    assert_one_line(done, "train.py", f"JAX_PLATFORMS: {platform} has no device that jax can use")
    assert not (tmp_path / "run").exists()


# Divergence


def test_the_first_step_that_diverged_is_named():
    assert finite_mean(7, np.array([1.0, 3.0])) == 2.0
    with pytest.raises(Diverged, match="the loss is nan at step 6: "):
        finite_mean(7, np.array([1.0, np.nan, np.inf]))


@pytest.mark.slow
def test_divergence_names_the_learning_rate_and_the_last_checkpoint(tmp_path):
    config = small_config("mlp", steps=200, log_every=10, eval_every=20)
    # The learning rate rises slowly, so the model still learns before the first evaluation.
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.1
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e6, 100_000
    with pytest.raises(Diverged) as raised:
        assemble.train(config, str(tmp_path))
    rate, latest = 1e6 * raised.value.step / 100_000, latest_step(tmp_path)
    expected = f"the learning rate was {rate:.3g}, the last checkpoint is of step {latest}"
    assert str(raised.value).endswith(expected)
    assert 0 < latest < raised.value.step


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved(value, tmp_path):
    """The gradient of the last step may overflow although its loss is finite."""
    moments = {"nu": np.array([1.0, value], np.float32), "count": np.array(3, np.int32)}
    state = TrainState(np.array(4, np.int32), {"w": np.ones(3, np.float32)}, moments)
    checkpoints = VerifiedCheckpoints(tmp_path)
    with pytest.raises(Diverged, match="opt_state/nu has a value that is not finite at step 4"):
        checkpoints.save(jax.device_put(state))
    assert checkpoints.steps() == {}


# Sweeps


def test_a_sweep_checks_every_group_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "train_together", None)
    config, folder = small_config("transformer", steps=10), tmp_path / "sweep"
    axes = {"model.n_embd": [10, 11]}  # the second one can't be divided by two heads
    with pytest.raises(UserError, match="n_embd"):
        sweep.sweep(config, axes, 1, FinishedGroups(folder))
    assert not folder.exists()
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UserError, match="can't be written: Not a directory"):
        sweep.sweep(config, {"model.n_embd": [10]}, 1, FinishedGroups(tmp_path / "file" / "sweep"))


def test_a_sweep_reads_values_as_train_does():
    assert sweep.parse_axis("data.dedup=false, true") == ("data.dedup", [False, True])
    assert sweep.parse_axis("optimizer.grad_clip=None, 1") == ("optimizer.grad_clip", [None, 1.0])
    for axis, message in {
        "data.dedup=yes,no": "data.dedup: 'yes' is neither true nor false",
        "train.batch_size=8,1e2": "train.batch_size: '1e2' is not an integer; write 100",
    }.items():
        with pytest.raises(UserError, match=message):
            sweep.parse_axis(axis)


@pytest.mark.slow
def test_the_results_of_a_sweep_are_kept_group_by_group(tmp_path, monkeypatch):
    """The states of the best run are restored from the files of the finished groups."""
    config, finished = small_config("mlp", steps=10), FinishedGroups(tmp_path)
    axes, so_far = {"model.n_embd2": [5, 7]}, []
    results = sweep.sweep(config, axes, 1, finished, on_group=so_far.append)
    assert [len(part) for part in so_far] == [1, 2]
    monkeypatch.setattr(groups, "train_together", None)
    restored = sweep.sweep(config, axes, 1, finished)
    for old, new in zip(results, restored, strict=True):
        assert old._replace(trained=None) == new._replace(trained=None)
        assert old.trained.lines == new.trained.lines
        assert_same(new.trained.best, old.trained.best)
        assert_same(new.trained.last, old.trained.last)
    assert jax.tree.leaves(restored[0].trained.best)

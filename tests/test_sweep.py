"""Sweeps: each member is the run of its own, whatever happens to the others."""

import copy
import json
import math
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import (
    ROOT,
    assert_close,
    assert_one_line,
    needs_signals,
    quick_of,
    read_metrics,
    run,
    small_config,
)
from report_helpers import axes_of

from makemore_jax import assemble, sweep, workdir
from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.errors import UserError
from makemore_jax.kernels.layouts import Rows
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.plots.sweep import draw_sweep
from makemore_jax.report import history
from makemore_jax.report.collect import load_best_model
from makemore_jax.sweep import FinishedGroups, groups
from makemore_jax.sweep import finished as finished_lib
from makemore_jax.sweep.results import Result
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer


def sweep_config(kind: str, steps: int):
    return small_config(kind, steps=steps, log_every=50, eval_every=steps)


def run_alone(config):
    """Losses of all steps and the dev loss after them, as train.py computes them."""
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    init_key, train_key, _ = jax.random.split(jax.random.key(config.seed), 3)
    state = state_lib.create(model, optimizer, init_key, dataset.block_size)
    mesh = make_mesh(config.mesh, config.train.batch_size, num_params=0)
    layouts = [Rows(dataset.block_size)]
    steps = programs.compile_steps(model, optimizer, config.train.batch_size, layouts, mesh)
    state, metrics = steps(state, dataset.splits["train"], train_key, config.train.steps)
    max_examples, dev = config.train.eval_examples, dataset.splits["dev"]
    return metrics["train_loss"], make_evaluate(model)(state.variables, dev, max_examples)


@pytest.mark.parametrize("kind", quick_of(["mlp", "transformer"], ["mlp"]))
def test_each_member_is_the_run_of_its_own(kind):
    """Mean losses of 50 steps and the dev loss, after 100 steps of three optimizers' numbers."""
    config = sweep_config(kind, steps=100)
    config.train.eval_examples = 30
    axes = {"optimizer.learning_rate": [1e-3, 1e-2], "optimizer.weight_decay": [0.0, 0.3]}
    results = sweep.sweep(config, axes, num_seeds=2)
    assert len(results) == 8
    assert [r.seed for r in results[:3]] == [11, 12, 11]
    for result in (results[0], results[7]):
        alone = sweep.with_values(config, result.values | {"seed": result.seed})
        losses, dev_loss = run_alone(alone)
        means = np.asarray(losses).reshape(2, 50).mean(axis=1)
        np.testing.assert_allclose(result.curve, means, rtol=1e-5)
        np.testing.assert_allclose(result.dev_loss, dev_loss, rtol=1e-5)
    assert len({round(r.dev_loss, 5) for r in results}) == 8


@pytest.mark.slow
def test_fields_that_change_shapes_make_groups(monkeypatch):
    config, sizes = sweep_config("mlp", steps=20), []
    train_together = groups.train_together
    monkeypatch.setattr(
        groups,
        "train_together",
        lambda config, members, _: sizes.append(len(members)) or train_together(config, members),
    )
    axes = {"model.n_embd2": [5, 8], "optimizer.learning_rate": [1e-3, 1e-2, 1e-1]}
    results = sweep.sweep(config, axes, num_seeds=1)
    assert sizes == [3, 3]
    assert [sum(bool(r.trained) for r in of) for of in (results[:3], results[3:])] == [1, 1]
    assert [tuple(r.values.values()) for r in results] == [
        (n, rate) for n in (5, 8) for rate in (1e-3, 1e-2, 1e-1)
    ]
    alone = sweep.with_values(config, results[4].values)
    assert_close(results[4].dev_loss, run_alone(alone)[1], 1e-5)


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others_alone():
    config = sweep_config("mlp", steps=60)
    config.optimizer.name = "sgd"
    rates = [0.05, 1e9, 0.1]
    results = sweep.sweep(config, {"optimizer.learning_rate": rates}, num_seeds=1)
    assert [math.isnan(r.best_dev_loss) for r in results] == [False, True, False]
    calm = sweep.sweep(config, {"optimizer.learning_rate": [0.05, 0.2, 0.1]}, num_seeds=1)
    assert_close(results[0].curve, calm[0].curve, 1e-6)
    assert_close(results[2].dev_loss, calm[2].dev_loss, 1e-6)
    table = sweep.as_table(sweep.aggregate_seeds(results))
    assert table.count("(best)") == 1
    assert "| 1e+09 | diverged |  |  | 1 of 1 |" in table


@pytest.mark.slow
def test_a_member_whose_loss_explodes_is_marked(tmp_path):
    """Its loss stays finite: it is no point of the picture, which would be flat because of it."""
    config = sweep_config("mlp", steps=100)
    rates = [1e-3, 1e-2, 10.0]
    results = sweep.sweep(config, {"optimizer.learning_rate": rates}, num_seeds=1)
    assert 10 < results[2].curve[-1] < math.inf and 10 < results[2].dev_loss < math.inf
    assert [result.diverged for result in results] == [False, False, True]
    rows = sweep.aggregate_seeds(results)
    assert [row.diverged for row in rows] == [0, 0, 1]
    (ax,) = axes_of(draw_sweep, rows, tmp_path / "sweep.png")
    assert ax.get_ylim()[1] < 4
    (line, crosses, _) = ax.lines
    np.testing.assert_equal(line.get_ydata(), [rows[0].mean, rows[1].mean, math.nan])
    assert list(crosses.get_xdata()) == [10.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["diverged"]


@pytest.mark.slow
def test_the_best_run_is_kept(tmp_path):
    """With the state of its best step, and the last, from which training goes on."""
    config = sweep_config("mlp", steps=60)
    config.train.eval_every, config.train.num_samples = 20, 0
    # From step 40 on the learning rate is too high, so that the best step is not the last.
    config.optimizer.learning_rate, config.optimizer.schedule = 0.02, "step"
    config.optimizer.step_size, config.optimizer.gamma = 40, 10.0
    results = sweep.sweep(config, {"optimizer.weight_decay": [0.0, 0.3]}, num_seeds=2)
    best = sweep.best_run(results)
    assert best.best_dev_loss == min(result.best_dev_loss for result in results)
    chosen = sweep.with_values(config, best.values | {"seed": best.seed})
    summary = sweep.write_run(tmp_path / "best", chosen, best.trained)
    assert summary["steps"] == 60 and summary["dev_loss"] == best.best_dev_loss
    run_dir = workdir.read(tmp_path / "best")
    lm, step = load_best_model(tmp_path / "best", run_dir)
    assert step == summary["best_step"] == 40
    dataset, evaluate = load_data(chosen.data, chosen.seed), make_evaluate(lm.model)
    for name in ("train", "dev", "test"):
        at_most = chosen.train.train_eval_examples if name == "train" else None
        loss = evaluate(lm.variables, dataset.splits[name], at_most)
        assert_close(summary[f"{name}_loss"], loss)
    curves = history.read_curves(tmp_path / "best", run_dir)
    assert [step for step, _ in curves.train_loss] == [20, 40, 50, 60]
    assert dict(curves.dev_loss)[step] == best.best_dev_loss
    assert dict(curves.dev_loss)[60] == best.dev_loss
    chosen.train.steps = 80
    assert assemble.train(chosen, str(tmp_path / "best"))["steps"] == 80
    assert read_metrics(tmp_path / "best")[-1]["step"] == 80


def test_parse_axis():
    name, values = sweep.parse_axis("optimizer.learning_rate=1e-4:1e-1:4")
    assert name == "optimizer.learning_rate"
    np.testing.assert_allclose(values, [1e-4, 1e-3, 1e-2, 1e-1])
    for field in ("model.n_embd", "optimizer.decay_steps"):  # an integer, and an integer or None
        assert sweep.parse_axis(f"{field}=100:1000:3") == (field, [100, 316, 1000])
    assert sweep.parse_axis("model.kind=gru,lstm") == ("model.kind", ["gru", "lstm"])
    assert sweep.parse_axis("optimizer.grad_clip=none,1") == ("optimizer.grad_clip", [None, 1])
    assert sweep.parse_axis("data.dedup=true,false") == ("data.dedup", [True, False])


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ("optimizer.learning_rat=1,2", "did you mean"),
        ("optimizer.learning_rate", "values are missing"),
        ("optimizer.learning_rate=0:1:3", "0 < LOW < HIGH"),
        ("optimizer.learning_rate=1,2,1.0", "1.0 appears twice"),
        ("optimizer.learning_rate=a:b:3", "must be numbers"),
        ("optimizer.learning_rate=-1,1", "above 0"),
        ("optimizer.learning_rate=fast", "'fast' is not a number"),
        ("model.n_embd=3.5", "'3.5' is not an integer"),
        ("data.dedup=yes,no", "'yes' is neither true nor false"),
        ("seed=1,2", "--seeds"),
        ("data.path=1:2:2", "needs a field with numbers; write data.path=A,B,C"),
        ("train.accumulate=1,2", "train.accumulate has no effect in a sweep"),
        ("mesh.data=1,2", "mesh.data has no effect in a sweep"),
        ("train.batch_size=8:9:5", "gives only 2 different integers"),
    ],
)
def test_bad_axes(axis, told):
    config = sweep_config("mlp", steps=10)
    with pytest.raises(UserError, match=told):
        sweep.sweep(config, dict([sweep.parse_axis(axis)]), num_seeds=1)


@pytest.mark.slow
def test_config_is_not_changed():
    config = sweep_config("bigram", steps=10)
    before = copy.deepcopy(config)
    sweep.sweep(config, {"optimizer.learning_rate": [0.1, 0.2]}, num_seeds=1)
    assert config == before


@pytest.mark.versions
def test_command(tmp_path):
    """Two devices, nine members: table, sweep.json, picture and best run.

    One of three combinations diverges with every seed, which is no error.
    """
    (tmp_path / "few.txt").write_text("\n".join(["anna", "bob", "carl", "dora"] * 9), "utf-8")
    done = run(
        *("-m", "makemore_jax.sweep", "--config", ROOT / "configs" / "mlp.py"),
        *(f"--config.data.path={tmp_path / 'few.txt'}", "--config.train.steps=20"),
        *("--config.seed=5", "--seeds=3", "--over", "optimizer.learning_rate=1e-3,1e-1,1e9"),
        *("--workdir", tmp_path / "out"),
        JAX_NUM_CPU_DEVICES="2",
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [("(best)" in row, "3 of 3" in row) for row in rows[2:]] == [
        *((False, False), (True, False), (False, True)),
    ]
    found = json.loads((tmp_path / "out" / "sweep.json").read_text("utf-8"))
    assert [(m["values"]["optimizer.learning_rate"], m["seed"]) for m in found["members"]] == [
        (rate, seed) for rate in (1e-3, 1e-1, 1e9) for seed in (5, 6, 7)
    ]
    assert all(0 < m["best_dev_loss"] < 5 for m in found["members"][:6])
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 5_000
    best = min(found["members"][:6], key=lambda member: member["best_dev_loss"])
    rate = best["values"]["optimizer.learning_rate"]
    run_dir = tmp_path / "out" / "best"
    assert f"{run_dir} is the best run, optimizer.learning_rate={rate:g}" in done.stdout
    config = workdir.read(run_dir).config
    assert config.optimizer.learning_rate == rate
    assert config.seed == best["seed"] != 5  # not the first
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    assert 0 < summary["seconds"] < found["seconds"]
    sampled = run(ROOT / "sample.py", "--workdir", run_dir, "--num", "3", "--format", "json")
    assert (sampled.returncode, len(sampled.stdout.splitlines())) == (0, 3), sampled.stderr


@pytest.mark.slow
def test_a_sweep_whose_runs_all_diverge_fails(tmp_path):
    done = run(
        *("-m", "makemore_jax.sweep", "--config", "bigram", "--config.train.steps=20"),
        *("--config.optimizer.name=sgd", "--over", "optimizer.learning_rate=1e9"),
        *("--over", "train.steps=10,20", "--workdir", tmp_path),
    )
    assert done.returncode == 1 and "sweep: every run diverged" in done.stderr
    assert "2 runs of 10 or 20 steps in" in done.stdout
    assert done.stdout.count("| diverged |  |") == 2 and not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "--over is missing"),
        (("--over", "model.n_embd2=0,4"), "at least 1"),
        (("--over", "data.path=nowhere.txt"), "nowhere.txt"),
        (
            (
                *("--over", "optimizer.b1=0.1,0.2", "--config.model.kind=transformer"),
                "--config.model.dropout_rng=rbg",
            ),
            'model.dropout_rng: must be "threefry2x32" in a sweep',
        ),
        (
            ("--over", "optimizer.b1=0.1,0.2", "--config.optimizer.name=sgd"),
            "--over: optimizer.b1: not used with optimizer.name=sgd",
        ),
        (("--over", "optimizer.b1=0.1,0.2", "--seeds", "0"), "--seeds"),
        (("--over", "optimizer.b1=0.1,0.2", "--seeds", "99999999999"), "between 1 and 10000"),
    ],
)
def test_bad_input_ends_in_one_line(flags, told, tmp_path):
    done = run(
        *("-m", "makemore_jax.sweep", "--config", ROOT / "configs" / "mlp.py", *flags),
        *("--workdir", tmp_path / "out"),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert told in line
    assert not (tmp_path / "out").exists()


def test_a_folder_in_place_of_the_best_run_is_kept(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "notes.txt").write_text("mine", "utf-8")
    flags = ("--over", "optimizer.b1=0.1,0.2", "--workdir", tmp_path)
    done = run("-m", "makemore_jax.sweep", "--config", "bigram", *flags)
    assert_one_line(done, "sweep", "best would be replaced, but it is not a run")
    assert (tmp_path / "best" / "notes.txt").read_text("utf-8") == "mine"


def test_an_interrupted_sweep_keeps_its_finished_groups(tmp_path, monkeypatch):
    """A second call trains the rest alone; another config trains everything."""
    config = sweep_config("bigram", steps=10)
    axes, finished = {"train.batch_size": [3, 5, 7]}, FinishedGroups(tmp_path)
    trained, most = [], 2

    def train_together(config, members, check_interrupt):
        if len(trained) == most:
            raise KeyboardInterrupt
        size = members[0]["train.batch_size"]
        trained.append(size)
        return [Result({"train.batch_size": size}, 11, 0.1 * size, 2.0, 2.0, [1 / size])]

    monkeypatch.setattr(groups, "train_together", train_together)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(config, axes, 1, finished)
    kept = f"2 finished groups kept in {tmp_path / 'finished'}"
    assert finished.describe() == f"{kept}; run the same command to resume"
    most = 100
    resumed = sweep.sweep(config, axes, 1, finished)
    assert trained == [3, 5, 7]
    assert resumed == sweep.sweep(config, axes, 1)
    config.optimizer.learning_rate *= 2
    trained.clear()
    sweep.sweep(config, axes, 1, finished)
    assert trained == [3, 5, 7]


def test_a_finished_group_is_of_its_data_and_versions(tmp_path, monkeypatch):
    """With other lines in the file, or another version of jax, it is trained again."""
    config, finished = sweep_config("bigram", steps=10), FinishedGroups(tmp_path)
    config.data.path = str(tmp_path / "lines.txt")
    (tmp_path / "lines.txt").write_text("anna\nbob\n", "utf-8")
    results = [Result({"optimizer.b1": 0.1}, 1, 0.1, 2.0, 2.0, [0.3])]
    finished.create_folder()
    finished.save(config, [{"seed": 1}], results)
    assert finished.load(config, [{"seed": 1}], None) == results
    assert finished.load(config, [{"seed": 2}], None) is None
    with monkeypatch.context() as patch:
        patch.setattr(finished_lib, "versions", lambda: {"jax": "0.0"})
        assert finished.load(config, [{"seed": 1}], None) is None
    (tmp_path / "lines.txt").write_text("anna\nbea\n", "utf-8")
    assert finished.load(config, [{"seed": 1}], None) is None


@pytest.mark.slow
def test_the_best_loss_of_a_member_is_not_its_last():
    """With a learning rate that rises until it harms."""
    config = small_config("bigram", steps=60, log_every=10, eval_every=10)
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.0
    config.optimizer.warmup_steps = 60
    (result,) = sweep.sweep(config, {"optimizer.learning_rate": [50.0]}, num_seeds=1)
    losses = [line["dev_loss"] for line in result.trained.lines if "dev_loss" in line]
    assert result.best_dev_loss == min(losses) < result.dev_loss == losses[-1]


def test_of_equal_losses_the_last_is_the_best():
    """As in train.py. A learning rate of 0 changes nothing."""
    config = small_config("bigram", steps=30, log_every=10, eval_every=10)
    (result,) = sweep.sweep(config, {"optimizer.learning_rate": [1e-30]}, num_seeds=1)
    assert result.trained.best.step == 30


@needs_signals
def test_ctrl_c_says_how_to_go_on(tmp_path):
    command = (
        *(sys.executable, "-m", "makemore_jax.sweep", "--config", "configs/bigram.py"),
        *("--config.train.steps=2000000", "--config.train.log_every=10"),
        *("--over", "train.batch_size=2,3", "--workdir", str(tmp_path)),
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes, encoding="utf-8") as process:
        for line in process.stderr:
            if "group 1 of 2: 1 run\n" in line:
                break
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        printed, errors = process.stdout.read(), process.stderr.read()
    assert printed == ""
    assert process.returncode == 130, errors
    assert errors.endswith("sweep: stopped in the first group\n")
    assert "Traceback" not in errors

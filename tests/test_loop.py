"""Whole runs: their output files, exact resumption, and how they end."""

import contextlib
import json
import re
import shutil
import signal
import time
from functools import cache
from pathlib import Path

import jax
import pytest
from conftest import (
    AS_USERS_RUN,
    FAMILIES,
    assert_same,
    needs_signals,
    on_devices,
    quick_of,
    read_metrics,
    run,
    small_config,
    start,
)

from makemore_jax import assemble, workdir
from makemore_jax.assemble import create_model, load_data
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import Config
from makemore_jax.errors import Diverged, Stopped, UserError
from makemore_jax.integrity import resume
from makemore_jax.training import evaluate
from makemore_jax.training import run as training_run
from makemore_jax.training import state as state_lib
from makemore_jax.training.hooks import Hook
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.run import Parts


def final_state(config: Config, folder) -> state_lib.TrainState:
    """Return the latest state of a run."""
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    template = state_lib.create(model, optimizer, jax.random.key(0), dataset.block_size)
    return Checkpoints(folder).restore("latest", template)


TRAIN = """
import sys
sys.path.insert(0, "tests")
from conftest import small_config
from makemore_jax import assemble

kind, *runs = sys.argv[1:]
for folder, steps in zip(runs[::2], runs[1::2]):
    assemble.train(small_config(kind, steps=int(steps), log_every=10), folder)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a function kind -> folder with runs of 20 steps (whole/) and 10 + 10 (halves/)."""

    @cache
    def train(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        if kind in ("mlp", "gru", "transformer"):
            # One family of each type runs as optimized machine code. A new process resumes the run.
            whole, halves = folder / "whole", folder / "halves"
            for runs in ((whole, 20, halves, 10), (halves, 20)):
                done = run("-c", TRAIN, kind, *runs, **AS_USERS_RUN)
                assert done.returncode == 0, done.stderr
            return folder
        for name, steps in (("whole", 20), ("halves", 10), ("halves", 20)):
            assemble.train(small_config(kind, steps=steps, log_every=10), str(folder / name))
        return folder

    return train


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["rnn"]))
def test_a_resumed_run_is_bit_exact(runs, kind):
    config = small_config(kind, steps=20)
    folders = [runs(kind) / name for name in ("whole", "halves")]
    whole, halves = (final_state(config, folder) for folder in folders)
    assert int(whole.step) == 20
    assert_same(halves, whole)
    samples = [(folder / "samples.txt").read_text("utf-8") for folder in folders]
    assert samples[1].endswith(samples[0])
    summaries = [json.loads((folder / "summary.json").read_text("utf-8")) for folder in folders]
    for field in ("train_loss", "dev_loss", "test_loss", "steps", "best_step"):
        assert summaries[0][field] == summaries[1][field]


def test_output_files_of_a_run(runs):
    folder = runs("rnn") / "whole"
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "vocab.json", "metrics.jsonl", "summary.json", "samples.txt"}
    assert expected | {"checkpoints"} <= names
    assert sum(name.startswith("events.out.") for name in names) == 1
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["steps"] == summary["best_step"] == 20
    assert summary["num_params"] == state_lib.num_params(
        final_state(small_config("rnn", steps=20), folder).params
    )
    assert 1 < summary["train_loss"] < summary["dev_loss"] + 1 < 5
    assert summary["seconds"] > 0
    assert summary["device"] == "1 cpu"
    assert summary["versions"]["jax"] == jax.__version__
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == [10, 20, 20]
    assert {"train_loss", "learning_rate", "steps_per_second", "seconds"} <= lines[0].keys()
    assert lines[2]["dev_loss"] == summary["dev_loss"]
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    assert vocab == list("abcdefghijklmnopqrstuvwxyz")
    assert (folder / "samples.txt").read_text("utf-8").startswith("step 20, samples\n")


@pytest.mark.versions
def test_tensorboard_reads_the_curves(tmp_path):
    """No step appears twice, even after a kill and a resume from an older checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small_config("bigram", steps=10, log_every=5, eval_every=10)
    assemble.train(config, str(tmp_path / "run"))
    shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "at_step_10")
    config.train.steps = 20
    assemble.train(config, str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "at_step_10").rename(tmp_path / "run" / "checkpoints")
    assemble.train(config, str(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [e.step for e in events.Scalars("train_loss")] == [5, 10, 15, 20]
    assert [e.step for e in events.Scalars("dev_loss")] == [10, 20]
    lines = read_metrics(tmp_path / "run")
    losses = [line["train_loss"] for line in lines if "train_loss" in line]
    assert [e.value for e in events.Scalars("train_loss")] == pytest.approx(losses)


def test_tensorboard_has_samples_config_and_test_loss(tmp_path):
    """Samples keep their line breaks, one chart shows all losses, and the config is recorded."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = small_config("bigram", steps=20, eval_every=10, sample_every=10)
    config.optimizer.learning_rate = 0.25
    summary = assemble.train(config, str(tmp_path))
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    (point,) = events.Scalars("test_loss")
    assert (point.step, point.value) == (20, pytest.approx(summary["test_loss"]))
    samples = {e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors("samples")}
    written = (tmp_path / "samples.txt").read_text("utf-8").splitlines()
    at = written.index("step 20, samples")
    assert written[1:at] == [line.removeprefix("    ") for line in samples[10].splitlines()]
    assert written[at + 1 :] == [line.removeprefix("    ") for line in samples[20].splitlines()]
    (layout,) = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0])
    (pattern,) = layout.category[0].chart[0].multiline.tag
    tags = [tag for tag in events.Tags()["scalars"] if re.search(pattern, tag)]
    assert set(tags) == {"train_loss", "dev_loss", "test_loss"}
    contents = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(contents[SESSION_START_INFO_TAG]).session_start_info
    assert start.hparams["optimizer.learning_rate"].number_value == 0.25
    assert start.hparams["model.kind"].string_value == "bigram"
    assert start.hparams["optimizer.grad_clip"].string_value == "None"


def test_resume_removes_records_after_the_last_checkpoint(tmp_path):
    """Complete lines are removed, and so is an unfinished last line."""
    config = small_config("bigram", steps=10, log_every=5, eval_every=10)
    assemble.train(config, str(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_text("utf-8")
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 15, "train_loss": 9.0}\n{"step": 20, "tra')
    with (tmp_path / "samples.txt").open("a", encoding="utf-8") as file:
        file.write("step 15, samples\n  new: zzz\n")
    config.train.steps = 20
    assemble.train(config, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_text("utf-8").startswith(before)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 10, 15, 20, 20]
    assert "zzz" not in (tmp_path / "samples.txt").read_text("utf-8")
    seconds = [line["seconds"] for line in read_metrics(tmp_path) if "seconds" in line]
    assert seconds == sorted(seconds)


def test_a_finished_run_is_not_changed(tmp_path, capsys):
    """Its config also stays, even if the new config differs."""
    config = small_config("bigram", steps=10)
    first = assemble.train(config, str(tmp_path))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    config.train.steps, config.optimizer.learning_rate = 5, 0.3
    assert assemble.train(config, str(tmp_path)) == first
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert "already trained for 10 steps" in capsys.readouterr().out


def test_a_finished_run_without_checkpoints_is_not_replaced(tmp_path):
    """For example after someone deleted them to save space."""
    config = small_config("bigram", steps=10)
    assemble.train(config, str(tmp_path))
    shutil.rmtree(tmp_path / "checkpoints")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="has the results of a finished run but no checkpoints"):
        assemble.train(config, str(tmp_path))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_summary_describes_the_best_model(tmp_path):
    """The learning rate grows until the loss rises, so the best model is an early one."""
    config = small_config("bigram", steps=60, log_every=10, eval_every=10)
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.0
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 600.0, 60
    summary = assemble.train(config, str(tmp_path))
    dev = {line["step"]: line["dev_loss"] for line in read_metrics(tmp_path) if "dev_loss" in line}
    assert summary["best_step"] == min(dev, key=dev.get) < 60
    assert summary["dev_loss"] == pytest.approx(min(dev.values()), abs=1e-6)


def test_the_final_losses_are_of_the_first_examples(tmp_path):
    config = small_config("bigram", steps=1, num_samples=0, train_eval_examples=7, eval_examples=3)
    config.optimizer.learning_rate = 0.5
    summary = assemble.train(config, str(tmp_path))
    lm = assemble.load_language_model(tmp_path, workdir.read(tmp_path))
    splits, loss = load_data(config.data, config.seed).splits, evaluate.make_evaluate(lm.model)
    for name, num in (("train", 7), ("dev", 3), ("test", 3)):
        expected = loss(lm.variables, splits[name], num)
        assert summary[f"{name}_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_checkpoints_have_their_own_interval(tmp_path, monkeypatch):
    """It need not be a multiple of log_every, and there is also a save at the end."""
    steps, save = [], Checkpoints.save

    def record(self, state, *dev_loss):
        steps.append(int(state.step))
        save(self, state, *dev_loss)

    monkeypatch.setattr(Checkpoints, "save", record)
    intervals = {"log_every": 10, "eval_every": 20, "checkpoint_every": 7}
    config = small_config("bigram", steps=20, num_samples=0, **intervals)
    training_run.train(config, str(tmp_path))
    assert steps == [7, 14, 20]


def test_the_logged_learning_rate_is_that_of_the_step(tmp_path):
    config = small_config("bigram", steps=10, log_every=5, num_samples=0)
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 0.5, 10
    assemble.train(config, str(tmp_path))
    rates = [line["learning_rate"] for line in read_metrics(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([0.25, 0.5])


def test_of_equal_losses_the_last_is_the_best(tmp_path, capsys):
    config = small_config("bigram", steps=20, eval_every=10, num_samples=0)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e-30
    assert assemble.train(config, str(tmp_path))["best_step"] == 20
    assert capsys.readouterr().out.count("(best)") == 2


@pytest.mark.slow
def test_the_best_model_may_come_from_an_earlier_process(tmp_path, capsys):
    """The model gets worse after the resume, so the best loss is still the earlier one."""
    config = small_config("bigram", steps=10, eval_every=10, num_samples=0)
    config.optimizer.name = "sgd"
    first = assemble.train(config, str(tmp_path))
    assert "step 10: dev loss" in (printed := capsys.readouterr().out) and "(best)" in printed
    config.train.steps, config.optimizer.learning_rate = 20, 1e4
    second = assemble.train(config, str(tmp_path))
    assert "(best)" not in capsys.readouterr().out
    losses = ("train_loss", "dev_loss", "test_loss")
    assert [second[name] for name in losses] == [first[name] for name in losses]
    assert (second["best_step"], second["steps"]) == (10, 20)


def test_samples_of_different_steps_have_different_noise(tmp_path):
    config = small_config("bigram", steps=20, sample_every=10, eval_every=20)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e-9  # the model stays the same
    assemble.train(config, str(tmp_path))
    _, first, second = (tmp_path / "samples.txt").read_text("utf-8").split("samples\n")
    assert first.split("step")[0] != second


def test_divergence_ends_the_run_and_keeps_the_best(tmp_path):
    """The learning rate jumps at step 30, between two evaluations."""
    intervals = {"log_every": 10, "eval_every": 20, "checkpoint_every": 30}
    config = small_config("mlp", steps=200, **intervals)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.optimizer.schedule, config.optimizer.step_size, config.optimizer.gamma = "step", 30, 1e9
    with pytest.raises(Diverged, match=r"the train loss is (nan|inf) at step 3\d: lower") as raised:
        assemble.train(config, str(tmp_path))
    assert raised.value.exit_code == 1
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == {"latest": 30, "best": 20}
    assert checkpoints.best_dev_loss() < 3.2  # equal probabilities have 3.3
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_divergence_in_the_last_step_is_detected_and_not_saved(tmp_path):
    """The loss of the last step is finite, but the loss after its update is not."""
    config = small_config("transformer", steps=1)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e9
    config.optimizer.weight_decay = 1e9
    with pytest.raises(Diverged, match=r"the dev loss is (nan|inf) at step 1"):
        assemble.train(config, str(tmp_path))
    assert Checkpoints(tmp_path).steps() == {}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text("utf-8")
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_a_summary_of_fewer_steps_is_replaced(tmp_path):
    """A process killed between its last checkpoint and its summary leaves such a file."""
    config = small_config("bigram", steps=10)
    assemble.train(config, str(tmp_path))
    old = (tmp_path / "summary.json").read_text("utf-8")
    config.train.steps = 20
    assemble.train(config, str(tmp_path))
    (tmp_path / "summary.json").write_text(old, "utf-8")
    assert assemble.train(config, str(tmp_path))["steps"] == 20
    assert json.loads((tmp_path / "summary.json").read_text("utf-8"))["steps"] == 20


def test_a_workdir_in_use_or_with_other_files_is_refused(tmp_path):
    config = small_config("bigram", steps=10)
    dataset = load_data(config.data, config.seed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.txt").write_text("precious", "utf-8")
    with pytest.raises(UserError, match=r"holds samples.txt but no run"):
        assemble.train(config, str(tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["samples.txt"]
    config.data.block_size = dataset.block_size
    with (
        assemble.open_workdir(tmp_path / "run", config, dataset),
        pytest.raises(UserError, match="is in use by another training"),
    ):
        assemble.train(config, str(tmp_path / "run"))
    assert assemble.train(config, str(tmp_path / "run"))["steps"] == 10


def test_settings_that_may_change_on_resume(tmp_path):
    """Rematerialization and the learning rate may change; the decay mask may not."""
    config = small_config("transformer")
    dataset = load_data(config.data, config.seed)
    config.data.block_size = dataset.block_size
    workdir.prepare(tmp_path, config, dataset)
    config.model.remat, config.optimizer.learning_rate = True, 0.1
    resume.check(tmp_path, config, dataset)
    config.optimizer.decay = "matrices"
    with pytest.raises(UserError, match=r'optimizer.decay: .* holds a run with "all", not "matri'):
        resume.check(tmp_path, config, dataset)


def test_a_config_is_not_changed_by_training(tmp_path):
    config = small_config("bigram", steps=10)
    assemble.train(config, str(tmp_path))
    assert config == small_config("bigram", steps=10)


@needs_signals
@pytest.mark.versions
def test_sampling_while_training_and_sigterm(tmp_path):
    """Sample a run while it trains, stop it at any step, and resume it bit for bit."""
    flags = {"log_every": 10, "eval_every": 50, "checkpoint_every": 70, "batch_size": 5}
    config = small_config("bigram", **flags)
    command = ["train.py", "--config", "configs/bigram.py", "--config.seed=11"]
    command += [f"--config.train.{name}={value}" for name, value in flags.items()]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    endless = [*command, "--config.train.steps=1000000", "--workdir", stopped]
    with start(*endless) as process:
        while not (stopped / "metrics.jsonl").exists() or len(read_metrics(stopped)) < 8:
            time.sleep(0.05)
            assert process.poll() is None
        for checkpoint in ("best", "latest", "best"):  # training replaces both meanwhile
            drawn = run("sample.py", "--workdir", stopped, "--num", "3", "--checkpoint", checkpoint)
            assert drawn.returncode == 0, drawn.stderr
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    step = Checkpoints(stopped).steps()["latest"]
    assert f"SIGTERM: saved at step {step}" in errors
    config.train.steps = step + 110
    for folder in (stopped, whole):
        steps = f"--config.train.steps={config.train.steps}"
        done = run(*command, steps, "--workdir", folder)
        assert done.returncode == 0, done.stderr
    assert_same(final_state(config, stopped), final_state(config, whole))
    assert read_metrics(stopped)[-1] == read_metrics(whole)[-1]


def test_a_stopped_run_calls_each_hook_once(tmp_path):
    """Only a hook that is due at the end runs before the state of an early stop is saved."""
    calls = []

    def record(name):
        return lambda state: calls.append((name, int(state.step))) or state

    def stop():
        return signal.SIGTERM if calls else 0

    parts = Parts(
        begin=lambda *_: [Hook(record("every 10"), (10,)), Hook(record("end"), is_due_at_end=True)],
        catch_signals=lambda: contextlib.nullcontext(stop),
    )
    config = small_config("bigram", steps=20, log_every=10, num_samples=0)
    with pytest.raises(Stopped, match="saved at step 10"):
        training_run.train(config, str(tmp_path), parts)
    assert calls == [("every 10", 10), ("end", 10)]


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(tmp_path):
    """Sharding a batch over eight virtual devices changes only the order of sums."""
    losses = {}
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        done = run(
            *("train.py", "--config", "configs/gru.py", "--workdir", folder),
            *("--config.train.steps=20", "--config.train.log_every=1"),
            f"--config.mesh.data={devices}",
            **on_devices(devices),
        )
        assert done.returncode == 0, done.stderr
        assert f"on {devices} cpu" in done.stdout
        drawn = run("sample.py", "--workdir", folder, "--num", "3")  # on one device
        assert drawn.returncode == 0, drawn.stderr
        losses[devices] = [m["train_loss"] for m in read_metrics(folder) if "train_loss" in m]
    assert len(losses[1]) == 20
    assert losses[8] == pytest.approx(losses[1], rel=1e-5)


COMPILED_ON_EIGHT = """
import sys
sys.path.insert(0, "tests")
import jax
from test_training import start

steps, first, split = start("gru", batch_size=16, devices=8)
compiled = steps.lower(first(), split, jax.random.key(0), num_steps=2).compile().as_text()
assert jax.device_count() == 8
assert "all-reduce" in compiled  # of the gradients: the batch is sharded
assert "all-gather" not in compiled  # no device gathers the other shards
"""


@pytest.mark.slow
def test_each_device_computes_only_its_shard_of_the_batch():
    done = run("-c", COMPILED_ON_EIGHT, **on_devices(8))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_diagnostics_are_recorded_and_do_not_change_training(tmp_path):
    """metrics.jsonl and TensorBoard have each step once, even after a resume."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small_config("mlp", steps=20, log_every=10, eval_every=20)
    assemble.train(config, str(tmp_path / "plain"))
    config.train.diagnose_every, config.train.steps = 8, 10
    assemble.train(config, str(tmp_path / "diagnosed"))
    config.train.steps = 20
    assemble.train(config, str(tmp_path / "diagnosed"))
    states = [final_state(config, tmp_path / name) for name in ("plain", "diagnosed")]
    assert_same(*states)
    records = [line for line in read_metrics(tmp_path / "diagnosed") if "saturated" in line]
    assert [line["step"] for line in records] == [0, 8, 16]
    assert all(line["saturated"].keys() == line["activations"].keys() for line in records)
    assert not any("saturated" in line for line in read_metrics(tmp_path / "plain"))

    events = EventAccumulator(str(tmp_path / "diagnosed"), size_guidance={"histograms": 0})
    events.Reload()
    (layer,) = records[0]["saturated"]
    assert [e.step for e in events.Scalars(f"saturated/{layer}")] == [0, 8, 16]
    weight = "update_to_data/wte.embedding"
    ratios = [line["update_to_data"]["wte.embedding"] for line in records]
    assert [e.value for e in events.Scalars(weight)] == pytest.approx(ratios)
    histograms = events.Histograms(f"activations/{layer}")
    assert [e.step for e in histograms] == [0, 8, 16]
    expected = records[1]["activations"][layer]
    assert histograms[1].histogram_value.bucket == pytest.approx(expected["counts"])
    assert histograms[1].histogram_value.max == pytest.approx(expected["high"])
    squares = sum(expected["counts"]) * (expected["std"] ** 2 + expected["mean"] ** 2)
    assert histograms[1].histogram_value.sum_squares == pytest.approx(squares)


@pytest.mark.slow
def test_diagnostics_are_imported_only_if_enabled(tmp_path):
    config = ("--config", "configs/bigram.py", "--config.train.steps=5")
    code = "import runpy, sys; sys.argv[0] = 'train.py'; runpy.run_path('train.py', run_name="
    code += "'__main__'); print([m for m in sys.modules if m.startswith('makemore_jax.diag')])"
    for flags, loaded in ((), "[]"), (("--config.train.diagnose_every=5",), "['makemore_jax.diag"):
        done = run("-c", code, *config, *flags, "--workdir", tmp_path / f"run{len(flags)}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(loaded)

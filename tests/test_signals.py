"""Signals: a training that receives one saves its state and ends soon."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    TIMEOUT,
    assert_same,
    needs_signals,
    quick_of,
    read_metrics,
    small_config,
    start,
)
from test_loop import final_state

from makemore_jax import assemble
from makemore_jax.assemble import short_calls
from makemore_jax.assemble.interruptions import Interruptions
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.cli import progress, startup
from makemore_jax.parallel import processes

BIGRAM = ("train.py", "--config", "configs/bigram.py", "--config.train.log_every=10")
ENDLESS = (*BIGRAM, "--config.train.steps=100000000", "--config.train.num_samples=0")


def wait_for_steps(folder: Path, is_running) -> None:
    """Wait until a run has logged some steps."""
    deadline = time.monotonic() + TIMEOUT
    while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder)) < 3:
        assert is_running() and time.monotonic() < deadline
        time.sleep(0.05)


def latest_step(folder: Path) -> int:
    """Return the step of the latest checkpoint of a run."""
    return Checkpoints(folder).steps()["latest"]


@needs_signals
@pytest.mark.parametrize(
    "name", ["SIGHUP", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGTERM"))]
)
def test_a_signal_saves_within_five_seconds(name, tmp_path):
    number = getattr(signal, name)
    with start(*ENDLESS, "--workdir", tmp_path) as process:
        wait_for_steps(tmp_path, lambda: process.poll() is None)
        process.send_signal(number)
        load = os.getloadavg()[0] / startup.num_cores()  # above 1, each program gets part of a core
        process.wait(timeout=5 * max(1.0, load))
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + number
    assert f"{name}: saved at step {latest_step(tmp_path)}; run the same command" in errors


@needs_signals
def test_a_signal_in_the_last_steps_ends_before_the_final_evaluation(tmp_path, monkeypatch):
    """The same command then writes the summary."""
    config = small_config("bigram", steps=10)
    show = progress.TrainingProgress.print

    def interrupt(display, text):
        show(display, text)
        if text.startswith("step 10: dev"):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="saved at step 10"):
        patch.setattr(progress.TrainingProgress, "print", interrupt)
        assemble.train(config, str(tmp_path))
    assert not (tmp_path / "summary.json").exists()
    assert assemble.train(config, str(tmp_path))["steps"] == 10


def test_a_stopped_training_ends_with_fewer_steps(tmp_path, monkeypatch):
    """Its state has no dev loss yet. The command with fewer steps evaluates it."""
    config = small_config("bigram", steps=100, log_every=5, eval_every=100, checkpoint_every=100)
    polls = iter([0])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="saved at step 5"):
        patch.setattr(processes, "all_max", lambda _: next(polls, signal.SIGTERM))
        assemble.train(config, str(tmp_path))
    config.train.steps = 3
    summary = assemble.train(config, str(tmp_path))
    assert (summary["steps"], summary["best_step"]) == (5, 5)
    assert 0 < summary["dev_loss"] < 4


@pytest.mark.slow
def test_a_slow_training_stops_within_a_call_and_resumes_with_the_same_bits(tmp_path, monkeypatch):
    config = small_config("bigram", steps=20, log_every=10)
    assemble.train(config, str(tmp_path / "whole"))
    monkeypatch.setattr(short_calls, "CPU_FLOPS_PER_SECOND", 1.0)  # so each call is of one step
    polls = iter([0] * 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="saved at step 4"):
        patch.setattr(processes, "all_max", lambda _: next(polls, signal.SIGTERM))
        assemble.train(config, str(tmp_path / "stopped"))
    assert [line["step"] for line in read_metrics(tmp_path / "stopped")] == [4]
    assemble.train(config, str(tmp_path / "stopped"))
    whole, stopped = (read_metrics(tmp_path / name)[-1] for name in ("whole", "stopped"))
    assert whole == stopped
    whole, stopped = (final_state(config, tmp_path / name) for name in ("whole", "stopped"))
    assert_same(whole, stopped)


def test_steps_are_called_in_few_different_numbers():
    """Each number of steps is compiled on its own."""
    config = small_config("bigram", steps=20, log_every=4, eval_every=6, num_samples=0)
    config.train.checkpoint_every = config.train.sample_every = 99  # never
    assert short_calls.call_lengths(config) == (2, 2)
    config.train.diagnose_every = 5
    assert short_calls.call_lengths(config) == (1, 1)
    config.train.log_every = 12
    assert short_calls.call_lengths(config) == (12, 1)
    calls = []

    def train_steps(state, split, key, num_steps):
        calls.append(num_steps)
        return state, {"train_loss": np.zeros(num_steps)}

    call = short_calls.in_short_calls(train_steps, (12, 2), num_tokens=7, stop_signal=lambda: 0)
    state = SimpleNamespace(params={"w": np.zeros(3)})
    for num_steps in (12, 4, 2, 5):
        assert len(call(state, None, None, num_steps)[1]["train_loss"]) == num_steps
    assert calls == [12, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("kind", quick_of(["bigram", "transformer"], ["bigram"]))
def test_intervals_do_not_change_the_result(kind, tmp_path):
    """Neither do the lengths of calls that follow from them."""
    config = small_config(kind, steps=20, log_every=20, eval_every=20, num_samples=0)
    assemble.train(config, str(tmp_path / "regular"))
    config.train.log_every, config.train.eval_every, config.train.checkpoint_every = 6, 9, 7
    assemble.train(config, str(tmp_path / "irregular"))
    regular, irregular = (final_state(config, tmp_path / name) for name in ("regular", "irregular"))
    assert_same(regular, irregular)


@pytest.mark.slow
def test_a_signal_ends_evaluation_and_sampling_which_are_repeated(tmp_path, monkeypatch):
    """The results are those of a run without signals, and no line is there twice."""
    config = small_config("bigram", steps=20, log_every=5, eval_every=10, sample_every=5)
    config.train.checkpoint_every = 1_000  # only the best and the last state
    config.train.eval_examples = 1_000  # 4 batches
    assemble.train(config, str(tmp_path / "whole"))

    def interrupt_at(number: int) -> str:
        """Train and send SIGTERM before this batch of the process. Return the message."""
        count, check = 0, Interruptions.check

        def interrupt(interruptions):
            nonlocal count
            count += signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            if count == number:
                os.kill(os.getpid(), signal.SIGTERM)
            check(interruptions)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
            patch.setattr(Interruptions, "check", interrupt)
            assemble.train(config, str(tmp_path / "stopped"))
        return str(stopped.value)

    assert "saved at step 5;" in interrupt_at(1)  # in its samples
    assert "saved at step 10;" in interrupt_at(2)  # in the second batch of its evaluation
    assert "saved at step 20;" in interrupt_at(6)  # in its last samples, after its evaluation
    assert '"dev_loss"' in (tmp_path / "stopped" / "metrics.jsonl").read_text("utf-8")
    summaries = [assemble.train(config, str(tmp_path / n)) for n in ("whole", "stopped")]
    for name in ("steps", "best_step", "train_loss", "dev_loss", "test_loss"):
        assert summaries[0][name] == summaries[1][name]
    samples = [(tmp_path / n / "samples.txt").read_bytes() for n in ("whole", "stopped")]
    assert samples[0] == samples[1]
    metrics = [read_metrics(tmp_path / n) for n in ("whole", "stopped")]
    for line in (*metrics[0], *metrics[1]):
        line.pop("seconds", None), line.pop("steps_per_second", None)
    assert metrics[0] == metrics[1]
    assert_same(*(final_state(config, tmp_path / n) for n in ("whole", "stopped")))
    steps = [Checkpoints(tmp_path / n).steps() for n in ("whole", "stopped")]
    assert steps[0] == steps[1]


COMPILING = """
import sys
sys.path.insert(0, "tests")
from conftest import small_config
from makemore_jax import assemble
from makemore_jax.assemble import interruptions

make_programs = interruptions.make_programs

def make_programs_that_compile_slowly(*args):
    def train_steps(*args):
        open(sys.argv[2], "w", encoding="utf-8").close()
        sum(range(10**12))  # as a compilation does, it runs no Python code for a long time
    return make_programs(*args)._replace(train_steps=train_steps)

interruptions.make_programs = make_programs_that_compile_slowly
assemble.train(small_config("bigram", steps=20), sys.argv[1])
"""


@needs_signals
def test_a_signal_while_the_first_steps_compile_ends_the_process(tmp_path):
    """Nothing has been trained, so nothing is lost. The run can be started again."""
    with start("-c", COMPILING, tmp_path / "run", tmp_path / "begun") as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=5)
    assert process.returncode == -signal.SIGTERM  # 128 + SIGTERM for a shell
    config = small_config("bigram", steps=20, num_samples=0)
    assert assemble.train(config, str(tmp_path / "run"))["steps"] == 20

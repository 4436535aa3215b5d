"""Progress messages of compilation, training and scoring."""

import contextlib
import io
import re
import time
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import read_metrics, run, small_config

from makemore_jax import assemble
from makemore_jax import metrics as metrics_lib
from makemore_jax.assemble.training import timed_steps
from makemore_jax.cli import progress, startup
from makemore_jax.errors import Diverged
from makemore_jax.training.hooks import next_due


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that only the test moves."""
    now = SimpleNamespace(seconds=0.0)
    for module in (progress, metrics_lib):
        fake = SimpleNamespace(
            monotonic=lambda: now.seconds, perf_counter=lambda: now.seconds, time=time.time
        )
        monkeypatch.setattr(module, "time", fake)
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.6, "8 s"), (125, "2 min 5 s"), (3599.7, "1 h 0 min"), (63_480, "17 h 38 min")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


class Timer:
    """Replace threading.Timer. The time passes when the test calls `fire_all`."""

    started: ClassVar[list["Timer"]] = []

    def __init__(self, seconds, function):
        assert seconds == startup.NOTICE_DELAY
        self.function, self.is_cancelled = function, False

    def start(self):
        self.started.append(self)

    def cancel(self):
        self.is_cancelled = True

    @classmethod
    def fire_all(cls):
        """Run the timers that were started and not cancelled."""
        while cls.started:
            timer = cls.started.pop(0)
            if not timer.is_cancelled:
                timer.function()


@pytest.fixture
def compiling(monkeypatch):
    """Return the stream of the notice and the listener for jax's events, but do not register it."""
    monkeypatch.setattr(startup.threading, "Timer", Timer)
    listeners = []
    name = "register_event_duration_secs_listener"
    monkeypatch.setattr(jax.monitoring, name, listeners.append)
    printed = io.StringIO()
    startup.announce_compiling(printed)
    (listener,) = listeners
    return printed, listener


def test_slow_compiling_is_announced_once(compiling):
    printed, listener = compiling
    for _ in range(2):
        listener(startup.COMPILE_BEGINS, 0.1)
        Timer.fire_all()
        listener(startup.COMPILE_ENDS, 9.0)
    (line,) = printed.getvalue().splitlines()
    assert line.startswith("compiling (first run only, cached in ")


def test_a_second_program_of_a_session_replaces_the_notice(monkeypatch):
    monkeypatch.setattr(startup.threading, "Timer", Timer)
    listeners, files = [], [io.StringIO(), io.StringIO()]
    name = "register_event_duration_secs_listener"
    monkeypatch.setattr(jax.monitoring, name, listeners.append)
    for file in files:
        startup.announce_compiling(file)
    for listener in listeners:
        listener(startup.COMPILE_BEGINS, 0.1)
    Timer.fire_all()
    assert [file.getvalue().count("compiling") for file in files] == [0, 1]


TRAIN_WITHOUT_DELAY = """
import runpy, sys
from makemore_jax.cli import startup
startup.NOTICE_DELAY = 0.0
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def test_training_announces_compiling_with_its_other_output(tmp_path):
    steps = ("--config.train.steps=1", "--config.train.num_samples=0")
    done = run("-c", TRAIN_WITHOUT_DELAY, "--config=bigram", *steps, "--workdir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("compiling")


def test_programs_from_the_cache_are_not_announced(compiling):
    printed, listener = compiling
    for _ in range(3):
        listener(startup.COMPILE_BEGINS, 0.1)
        listener(startup.COMPILE_ENDS, 0.01)
    Timer.fire_all()
    assert printed.getvalue() == ""


def test_jax_sends_the_events_that_the_notice_listens_to():
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    jax.jit(lambda x: x * 17 + 3)(jnp.arange(19))
    assert events.index(startup.COMPILE_BEGINS) < events.index(startup.COMPILE_ENDS)


def test_without_a_terminal_each_call_prints_a_line_with_an_estimate(tmp_path, capsys, clock):
    config = small_config("bigram", steps=100_000)
    metrics = assemble.open_metrics(tmp_path, 0, config)
    for step in (100, 200, 300):
        clock.seconds += 5.0 if step > 100 else 30.0  # the first call compiles
        losses = {"train_loss": jnp.full(100, 2.5).block_until_ready()}
        metrics.write_steps(step, losses, np.float32(0.1))
    metrics.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 100: train loss 2.5000, 3.33 steps/s",
        "step 200: train loss 2.5000, 20 steps/s, 1 h 23 min left",
        "estimate: 1 h 23 min for the remaining 99,800 steps at 20 steps/s",
        "step 300: train loss 2.5000, 20 steps/s, 1 h 23 min left",
    ]
    assert [line["steps_per_second"] for line in read_metrics(tmp_path)][1:] == [20, 20]


def test_the_speed_leaves_out_calls_that_compile(tmp_path, clock):
    """The first call of each length compiles."""
    metrics = assemble.open_metrics(tmp_path, 0, small_config("bigram"))
    for step, seconds in ((7, 30.0), (10, 30.0), (17, 1.0), (20, 2.0)):
        assert metrics.steps_per_second == (None if step < 20 else 7.0)
        clock.seconds += seconds
        metrics.write_steps(step, {"train_loss": jnp.ones(1)}, np.float32(0.1))
        metrics.flush()
    metrics.close()
    assert metrics.steps_per_second == pytest.approx((7 + 3) / (1 + 2))


def test_every_metric_of_the_steps_is_written(tmp_path):
    """A training step may return more than the loss."""
    metrics = assemble.open_metrics(tmp_path, 0, small_config("bigram"))
    losses, norms = jnp.array([2.0, 3.0]), jnp.array([0.5, 1.0])
    metrics.write_steps(2, {"train_loss": losses, "grad_norm": norms}, np.float32(0.1))
    metrics.close()
    (line,) = read_metrics(tmp_path)
    assert (line["train_loss"], line["grad_norm"]) == (2.5, 0.75)
    with pytest.raises(Diverged, match="the grad norm is nan at step 3: "):
        metrics.write_steps(4, {"train_loss": losses, "grad_norm": norms * jnp.nan}, np.float32(0))
        metrics.flush()


def test_a_new_run_replaces_its_files_and_a_resumed_one_appends(tmp_path):
    for start, expected in ((0, [1]), (0, [1]), (3, [1, 4])):
        files = metrics_lib.RunFiles(tmp_path, start)
        files.write_values(start + 1, {"dev_loss": 2.5})
        files.write_samples(start + 1, ["  emma"])
        files.close()
        assert [line["step"] for line in read_metrics(tmp_path)] == expected
        samples = "".join(f"step {step}, samples\n  emma\n" for step in expected)
        assert (tmp_path / "samples.txt").read_text("utf-8") == samples


def test_metrics_and_samples_are_readable_at_once(tmp_path):
    """Not only when the run ends."""
    with contextlib.closing(metrics_lib.RunFiles(tmp_path, 0)) as files:
        files.write_values(1, {"dev_loss": 2.5})
        files.write_samples(1, ["  emma"])
        assert read_metrics(tmp_path) == [{"step": 1, "dev_loss": 2.5}]
        assert (tmp_path / "samples.txt").read_text("utf-8") == "step 1, samples\n  emma\n"


def test_a_short_training_prints_its_steps_and_no_estimate(tmp_path, capsys):
    assemble.train(small_config("bigram", steps=20, log_every=10), str(tmp_path))
    printed = capsys.readouterr().out
    assert re.search(r"^step 20: train loss \d\.\d{4}, .* steps/s, 0 s left$", printed, re.M)
    assert "estimate" not in printed


def test_slow_first_steps_are_called_one_by_one():
    assert not timed_steps(0, flops=1e9)
    timed = timed_steps(200, flops=1e12)
    stops = [200]
    for _ in range(4):
        stops.append(next_due(stops[-1], [100], [*timed]))
    assert stops == [200, 201, 202, 300, 400]


def test_scoring_without_a_terminal_prints_lines(clock):
    printed = io.StringIO()
    for item in progress.track(range(50), "scoring", printed):
        assert 0 <= item < 50
        clock.seconds += 1.0
    assert printed.getvalue().splitlines() == [
        "scoring: 20%, 40 s left",
        "scoring: 40%, 30 s left",
        "scoring: 60%, 20 s left",
        "scoring: 80%, 10 s left",
    ]

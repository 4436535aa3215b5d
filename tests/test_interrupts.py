"""Ctrl-C while a program starts: it ends at once with exit code 130 and prints no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TIMEOUT, needs_signals, run

from makemore_jax.cli import interrupts

pytestmark = needs_signals
TRAIN = ("train.py", "--config", "configs/mlp.py", "--workdir")
SAMPLE = ("sample.py", "--workdir")
SWEEP = ("-m", "makemore_jax.sweep", "--config", "configs/mlp.py", "--workdir")
DOWNLOAD = ("-m", "makemore_jax.download", "names", "--folder")

# A C extension may replace the exception by another one.
INTERRUPTED_IMPORT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    exec("pass")
except KeyboardInterrupt:
    raise ImportError("initialization failed") from None
"""

# Runs a program. The test waits for "started", because no program controls the time in which the
# interpreter starts. The sleep at the end is for commands that end before the interrupt.
REPORTING_START = """
import runpy, sys, time
sys.argv = sys.argv[1:]
print("started", flush=True)
try:
    if sys.argv[0] == "-m":
        name = sys.argv.pop(1)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [(TRAIN, "absl"), (TRAIN, "jax"), (SAMPLE, "absl"), (SWEEP, "jax")],
)
def test_interrupt_during_an_import_that_converts_the_exception(command, module, tmp_path):
    (tmp_path / f"{module}.py").write_text(INTERRUPTED_IMPORT, "utf-8")
    done = run(*command, tmp_path / "run", fresh=True, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not (tmp_path / "run").exists()


def interrupt(command: tuple, seconds: float) -> tuple[int, str, str]:
    """Start a program, send SIGINT after `seconds`; return exit code, stdout and stderr."""
    command = [sys.executable, "-c", REPORTING_START, *map(str, command)]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, **pipes, encoding="utf-8") as process:
        assert process.stdout.readline() == "started\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=TIMEOUT)
    return process.returncode, *printed


def test_interrupt_half_a_second_after_the_start(tmp_path):
    assert interrupt((*TRAIN, tmp_path / "run"), 0.5) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("command", [TRAIN, SAMPLE, SWEEP, DOWNLOAD])
def test_interrupt_at_any_moment_of_the_start(command, seconds, tmp_path):
    exit_code, _, errors = interrupt((*command, tmp_path / "run"), seconds)
    assert exit_code == 130
    assert len(errors.splitlines()) <= 1, errors  # the error of a command that ended by itself


@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_console_command_also_ends_immediately(name):
    code = f"""
import signal
from makemore_jax.cli import command_line, commands, interrupts
command_line.run = lambda *_: print(signal.getsignal(signal.SIGINT) is interrupts._exit)
commands.{name}()
"""
    assert run("-c", code).stdout == "True\n"


def test_an_interactive_session_keeps_its_own_handler():
    code = """
import signal, sys
from makemore_jax.cli import interrupts
sys.ps1 = ">>> "
interrupts.exit_immediately()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert run("-c", code).returncode == 0


def test_a_program_can_finish_its_work_after_the_first_ctrl_c():
    code = """
import os, signal, time
from makemore_jax.cli import interrupts
interrupts.exit_immediately()
with interrupts.StopSignals() as signals:
    signals.check()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)  # a copy of the first, as `timeout -s INT` sends it
    print("goes on")
    try:
        signals.check()
    except KeyboardInterrupt:
        print("raised")
    time.sleep(interrupts.REPEAT_DELAY)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (130, "goes on\nraised\n")


def test_a_closed_terminal_may_send_sighup_more_than_once():
    code = """
import os, signal
from makemore_jax.cli import interrupts
with interrupts.StopSignals() as signals:
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
print(signals.received == signal.SIGHUP)
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, "True\n")


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_the_warnings_of_batch_systems_stop_a_training(name):
    """Slurm, LSF and Grid Engine send one of them before they kill a job."""
    with interrupts.StopSignals() as signals:
        os.kill(os.getpid(), getattr(signal, name))
        assert signals.received == getattr(signal, name)


def test_nohup_keeps_a_training_alive_without_its_terminal():
    code = """
import os, signal
from makemore_jax.cli import interrupts
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with interrupts.StopSignals() as signals:
    os.kill(os.getpid(), signal.SIGHUP)
print(signals.received)
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, "0\n")

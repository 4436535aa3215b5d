"""Output that is lost, closed or full, and errors as one line."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import flags
from conftest import (
    ROOT,
    TIMEOUT,
    assert_one_line,
    needs_linux,
    read_metrics,
    run,
    small_config,
)
from test_signals import BIGRAM, ENDLESS, latest_step

from makemore_jax import assemble
from makemore_jax.cli import missing_device, out_of_memory, output, progress
from makemore_jax.errors import UserError

IN_TERMINAL = """
import os, sys
os.login_tty(int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@needs_linux
@pytest.mark.slow
def test_closing_the_terminal_saves_the_state(tmp_path):
    """The kernel sends SIGHUP, and every later output fails."""
    terminal, end = os.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, str(end), *ENDLESS, "--workdir", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[end]) as process:
        os.close(end)
        os.set_blocking(terminal, False)
        deadline = time.monotonic() + TIMEOUT
        while not (tmp_path / "metrics.jsonl").exists() or len(read_metrics(tmp_path)) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
            try:
                os.read(terminal, 100_000)
            except BlockingIOError:
                continue
        os.close(terminal)
        assert process.wait(timeout=TIMEOUT) == 128 + signal.SIGHUP
    assert latest_step(tmp_path) > 0


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("output", [">&-", ">&- 2>&- <&-", ">/dev/full", "| true"])
def test_training_goes_on_without_its_output(output, tmp_path):
    command = [sys.executable, *BIGRAM, "--config.train.steps=20", "--workdir", str(tmp_path)]
    script = f'set -o pipefail; "$@" {output}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command], cwd=ROOT, capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "summary.json").read_text("utf-8"))["steps"] == 20
    assert done.stderr.count(b"\n") <= 1


CLOSED_STREAMS = """
import os, sys
from makemore_jax.cli import output
output.open_missing()
print("lost")
with open(sys.argv[1], "w", encoding="utf-8") as file:
    assert file.fileno() > 2
    os.write(1, b"from a library")
"""


@needs_linux
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """A library that writes to stdout would otherwise write into the file."""
    command = [sys.executable, "-c", CLOSED_STREAMS, str(tmp_path / "file")]
    done = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], cwd=ROOT)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


FULL_DISK = """
import sys
from makemore_jax.cli import command_line, output

def main():
    if sys.argv[-1] == "train":
        output.outlive_terminal()
    for _ in range(3):
        print("lost")
        sys.stdout.flush()

sys.stdout = open("/dev/full", "w", encoding="utf-8")
command_line.run(lambda arguments: main(), "", name="program")
"""


@needs_linux
@pytest.mark.parametrize(("program", "exit_code"), [("train", 0), ("sample", 1)])
def test_a_full_disk_as_output_is_reported_once(program, exit_code):
    """A program whose result is its output fails."""
    command = [sys.executable, "-c", FULL_DISK, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == exit_code
    (line,) = done.stderr.decode().splitlines()
    goes_on = "; training goes on" if program == "train" else ""
    assert line.endswith(f"/dev/full can't be written: No space left on device{goes_on}")


def test_a_notebook_keeps_its_streams(monkeypatch):
    """Its stdout shows progress bars, and belongs to the cells that follow."""
    streams = sys.stdout, sys.stderr
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    output.outlive_terminal()
    assert (sys.stdout, sys.stderr) == streams


UNREADABLE = """
from makemore_jax.cli import command_line
def main(arguments):
    open("/proc/self/mem/no file")
command_line.run(main, "", name="program")
"""


@needs_linux
def test_an_error_of_the_operating_system_is_one_line():
    """Such as a folder that may not be read, or a network disk that is gone."""
    done = subprocess.run([sys.executable, "-c", UNREADABLE], cwd=ROOT, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == "program: /proc/self/mem/no file: Not a directory\n"


def test_variables_of_jax_do_not_change_the_types_of_a_run(tmp_path):
    """Some users set them for all their programs."""
    config = small_config("bigram", steps=4, num_samples=0)
    assemble.train(config, str(tmp_path / "run"))
    strict = {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    done = run("sample.py", "--workdir", tmp_path / "run", JAX_ENABLE_X64="1", **strict)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "message",
    [
        'Invalid value "x" for JAX flag jax_num_cpu_devices',
        "invalid truth value 'x' for environment 'jax_num_cpu_devices'",
    ],
)
def test_a_variable_of_jax_that_is_not_valid_is_one_line(message, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "x")
    with (
        pytest.raises(UserError, match=r"^JAX_NUM_CPU_DEVICES: 'x' is not valid$"),
        missing_device.reporting(),
    ):
        raise ValueError(message)  # as `import jax` does
    with pytest.raises(ValueError, match="another"), missing_device.reporting():
        raise ValueError("another")


def test_warnings_as_errors_are_no_errors_of_the_config(tmp_path):
    """ml_collections calls a deprecated function."""
    flags = ("--config", "bigram", "--config.model.n_embd2=-1", "--workdir", tmp_path / "run")
    done = run("train.py", *flags, fresh=True, PYTHONWARNINGS="error")
    assert_one_line(done, "train.py", "model.n_embd2: -1 must be at least 1")


@pytest.mark.parametrize("library", [jax.numpy, np])
def test_too_little_memory_is_one_line(library, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", {"config": None})  # those of a program with a config
    monkeypatch.setattr(sys, "argv", ["train.py"])
    advice = "lower train.batch_size, or raise train.accumulate, and run the command again"
    with (
        pytest.raises(UserError, match=rf"^not enough memory for [\d.]+ .*: {advice}$") as failure,
        out_of_memory.reporting(),
    ):
        library.ones(10**15)
    assert failure.value.exit_code == 1
    with pytest.raises(RuntimeError, match="another error"), out_of_memory.reporting():
        raise RuntimeError("another error")


@pytest.mark.slow
def test_a_state_is_saved_before_it_is_displayed(tmp_path, monkeypatch):
    """A terminal that hangs or fails does not come between a step and its checkpoint."""

    def fail(display, text):
        if text.startswith("step 10"):
            raise OSError("the terminal is gone")

    monkeypatch.setattr(progress.TrainingProgress, "_print", fail)
    with pytest.raises(OSError, match="the terminal is gone"):
        assemble.train(small_config("bigram", steps=20, eval_every=10), str(tmp_path))
    assert latest_step(tmp_path) == 10
    assert read_metrics(tmp_path)[-1].keys() == {"step", "dev_loss"}
    assert (tmp_path / "samples.txt").read_text("utf-8") == ""

"""A run and its surroundings: signals, lost terminals, new schedules, divergence, sweeps."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import (
    ROOT,
    TIMEOUT,
    assert_one_line,
    assert_same,
    needs_signals,
    read_metrics,
    run,
    small_config,
    start,
)
from test_loop import final_state

from makemore_jax import assemble, sweep
from makemore_jax.assemble import short_calls
from makemore_jax.assemble.interruptions import Interruptions
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.cli import out_of_memory, output, progress, startup
from makemore_jax.errors import Diverged, UserError
from makemore_jax.integrity import manifest
from makemore_jax.integrity.checkpoints import VerifiedCheckpoints
from makemore_jax.integrity.runs import read
from makemore_jax.metrics import finite_mean
from makemore_jax.npz import read_npz
from makemore_jax.parallel import processes
from makemore_jax.report.history import read_curves
from makemore_jax.sweep import FinishedGroups, groups
from makemore_jax.torch_parity import weights
from makemore_jax.training.state import TrainState

BIGRAM = ("train.py", "--config", "configs/bigram.py", "--config.train.log_every=10")
ENDLESS = (*BIGRAM, "--config.train.steps=100000000", "--config.train.num_samples=0")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and terminals")


def wait_for_steps(folder: Path, is_running) -> None:
    """Wait until a run has logged some steps."""
    deadline = time.monotonic() + TIMEOUT
    while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder)) < 3:
        assert is_running() and time.monotonic() < deadline
        time.sleep(0.05)


def latest_step(folder: Path) -> int:
    """Return the step of the latest checkpoint of a run."""
    return Checkpoints(folder).steps()["latest"]


# Signals


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


# Terminals

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


@pytest.mark.parametrize("library", [jax.numpy, np])
def test_too_little_memory_is_one_line(library):
    with (
        pytest.raises(UserError, match=r"^not enough memory for [\d.]+ .*: lower ") as failure,
        out_of_memory.reporting(),
    ):
        library.ones(10**15)
    assert failure.value.exit_code == 1
    with pytest.raises(RuntimeError, match="another error"), out_of_memory.reporting():
        raise RuntimeError("another error")


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


# A resumed run with another schedule


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


# Files from a stranger


def edited_run(source: Path, folder: Path, **fields) -> Path:
    """Return a copy of a run with other fields in config.json, given as group__field=value."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text("utf-8"))
    for name, value in fields.items():
        part, *groups = content, *name.split("__")[:-1]
        for group in groups:
            part = part[group]
        part[name.rpartition("__")[2]] = value
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config__model__n_embd": 2**30, "config__model__n_head": 1}, "GiB of arrays; this machi"),
        ({"config__model__n_layer": 10**9}, "model.n_layer: 1,000,000,000 must be at most 1,000"),
        ({"config__model__n_layer": 3}, "was saved as nothing, the model needs float32"),
        ({"max_len": 10**12}, "has a damaged run"),
        ({"config": []}, "has a damaged run"),
        ({"data_file": ["a"]}, "has a damaged run"),
        ({"data_file": "a/" * 10**5}, "data_file must be a path of at most 4,096 characters"),
        ({"data_sha256": {}, "vocab_sha256": None}, "is not the one of its config.json"),
    ],
)
def test_a_config_from_a_stranger_is_refused(fields, message, small_runs, tmp_path):
    """No array is allocated before its size is known to be that of the checkpoint."""
    folder = edited_run(small_runs / "transformer", tmp_path / "run", **fields)
    with pytest.raises(UserError, match=message):
        assemble.load_language_model(folder, read(folder))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{}", '["ab"]', '["a", "a"]', "[1]", " " * 2**26, "\xff"]
)
@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_json_from_a_stranger_is_refused(name, content, small_runs, tmp_path):
    folder = edited_run(small_runs / "bigram", tmp_path / "run")
    (folder / name).write_text(content, "latin-1")
    with pytest.raises(UserError, match=r"has a damaged run|is not the one of"):
        read(folder)


@needs_linux
def test_a_run_names_a_file_without_end_as_its_data(small_runs, tmp_path):
    """The samples of such a run are not marked; nothing is read."""
    names = {"data_file": "/dev/zero", "config__data__path": "/dev/zero"}
    folder = edited_run(small_runs / "bigram", tmp_path / "run", **names)
    assert assemble.find_data(read(folder), folder) is None


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.partial", "checkpoints", ".lock"])
def test_training_does_not_follow_a_link_out_of_its_folder(name, small_runs, tmp_path):
    folder, target = edited_run(small_runs / "bigram", tmp_path / "run"), tmp_path / "precious"
    target.write_text("mine", "utf-8")
    config = read(folder).config
    config.train.steps = 30
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match=f"{re.escape(name)} is a link; training would write to"):
        assemble.train(config, str(folder))
    assert target.read_text("utf-8") == "mine"


@pytest.mark.parametrize("name", ["/dev/zero", "../../few.txt", "pipe"])
@needs_linux
def test_a_manifest_names_no_file_outside_of_its_checkpoint(name, small_runs, tmp_path):
    folder = edited_run(small_runs / "bigram", tmp_path / "run")
    for checkpoint in (folder / "checkpoints").iterdir():
        os.mkfifo(checkpoint / "pipe")  # nobody writes to it
        hashes = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
        (checkpoint / "manifest.json").write_text(json.dumps(hashes | {name: ""}), "utf-8")
    with pytest.raises(UserError, match=f"{name} in its manifest is not a file of the checkpoint"):
        assemble.load_language_model(folder, read(folder))


def test_an_array_is_not_stored_in_chunks_larger_than_itself(tmp_path):
    """A chunk of zeros is a small file that expands to its whole size when it is read."""
    state = TrainState(np.array(4, np.int32), {"w": np.ones((3, 5), np.float32)}, {})
    folder = tmp_path / "[x]"  # the core saves no OCDBT there: the metadata are in JSON files
    Checkpoints(folder).save(state, 1.0)
    checkpoint = folder / "checkpoints" / "4"
    file = checkpoint / "params" / "w" / ".zarray"
    manifest.write(checkpoint)
    assert_same(VerifiedCheckpoints(folder, read_only=True).restore("latest", state), state)
    content = json.loads(file.read_text("utf-8")) | {"chunks": [2**14, 2**15]}
    file.write_text(json.dumps(content), "utf-8")
    manifest.write(checkpoint)
    with pytest.raises(UserError, match=r"an array of \[3, 5\] in chunks of \[16384, 32768\]"):
        VerifiedCheckpoints(folder, read_only=True).restore("latest", state)


def npz_member(shape: tuple, values: bytes) -> bytes:
    """Return a member of an .npz file whose header announces another shape."""
    out = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue() + values


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_npz_file_can_not_announce_more_than_it_holds(compression, tmp_path):
    bombs = {"header": npz_member((10**12,), b"1234"), "zeros": npz_member((2**23,), bytes(2**25))}
    for name, member in bombs.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", compression) as archive:
            archive.writestr("w.npy", member)
    with pytest.raises(ValueError, match=r"announces float32\[1000000000000\], but is shorter"):
        read_npz(tmp_path / "header.npz")
    if compression == zipfile.ZIP_DEFLATED:
        with pytest.raises(ValueError, match="it expands to 33,554,"):
            read_npz(tmp_path / "zeros.npz")
    else:
        assert read_npz(tmp_path / "zeros.npz")["w"].shape == (2**23,)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_to_an_npz_file_has_no_other_errors(save, tmp_path):
    """Python's zipfile and zlib raise errors of five types."""
    out, file = io.BytesIO(), tmp_path / "a.npz"
    save(out, w=np.arange(6, dtype=np.float32))
    intact = out.getvalue()
    for byte in range(0, len(intact), 3):
        flipped = intact[byte] ^ (1 << byte % 8)
        file.write_bytes(intact[:byte] + bytes([flipped]) + intact[byte + 1 :])
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile):
            read_npz(file)
    # The method of compression, in the directory at the end of the file
    at = intact.rindex(b"PK\x01\x02") + 10
    file.write_bytes(intact[:at] + b"\x63" + intact[at + 1 :])
    with pytest.raises(ValueError, match="compression method is not supported"):
        read_npz(file)


def test_a_tensor_can_not_announce_more_than_it_holds():
    """PyTorch's files may repeat one value any number of times."""
    mask = np.broadcast_to(np.float32(1), (10**9, 1, 7, 7))
    with pytest.raises(UserError, match="the data and the config need one of 7"):
        weights.without_masks({"transformer.h.0.attn.bias": mask}, "transformer", 7)


def test_the_results_of_a_sweep_are_no_program(tmp_path):
    """A pickle in their place would run code."""
    config, finished = small_config("bigram", steps=10), FinishedGroups(tmp_path)
    finished.create_folder()
    members, ran = [{"seed": 11}], tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.mkdir, ()

    for content in (pickle.dumps(Evil()), b"", b"PK\x03\x04"):
        finished._file(config, members).write_bytes(content)
        assert finished.load(config, members, None) is None
    np.savez(finished._file(config, members), results=np.array([Evil()], object))
    assert finished.load(config, members, None) is None
    assert not ran.exists()

"""What docs/reliability.md promises about storage: paths, damage, full disks, locks, readers."""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from absl import flags
from conftest import assert_one_line, assert_same, needs_signals, run, small_config
from test_checkpoint import saved, state_at

from benchmarks import damage
from makemore_jax import assemble, workdir
from makemore_jax.assemble import open_checkpoints
from makemore_jax.checkpoint import METRICS, Checkpoints
from makemore_jax.cli import config_flag, paths
from makemore_jax.cli.arguments import Parser
from makemore_jax.errors import UserError
from makemore_jax.integrity import lock as lock_lib
from makemore_jax.integrity import manifest, run_files
from makemore_jax.integrity.failures import StorageFailure
from makemore_jax.metrics import RunFiles
from makemore_jax.sweep import axes

on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows forbids such names")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="others need names in UTF-8")
WORDS = ["emma", "olivia", "ava", "mia", "zoe", "lena", "nora", "ida", "ella", "eva"]
ENDED = 2**22 + 1  # larger than any process number on Linux


@on_posix
@pytest.mark.versions
@pytest.mark.parametrize(
    "name",
    [
        *("[uni] proj", "a\\b", "\\*?%41|{}#é"),
        pytest.param("\udcff", id="not UTF-8", marks=on_linux),
    ],
)
def test_a_folder_of_any_name(name, tmp_path):
    """orbax takes the path for a glob pattern, and TensorStore replaces backslashes."""
    saved(tmp_path / name, 2.0, 3.0)
    reader = open_checkpoints(tmp_path / name, read_only=True)
    assert_same(reader.restore("best", state_at(0)), state_at(10))
    assert_same(reader.restore("latest", state_at(0)), state_at(20))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.versions
def test_the_core_alone_saves_in_a_folder_with_brackets(tmp_path):
    saved(tmp_path / "[x]", 2.0, open_folder=Checkpoints)
    assert_same(Checkpoints(tmp_path / "[x]").restore("latest", state_at(0)), state_at(10))


def test_training_and_sampling_in_a_folder_with_brackets(tmp_path):
    folder = tmp_path / "[uni] proj"
    assemble.train(small_config("bigram", steps=10, num_samples=0), str(folder))
    lm = assemble.load_language_model(folder, workdir.read(folder))
    assert len(assemble.sample(lm, jax.random.key(1), 3)) == 3


def test_an_incomplete_checkpoint_replaces_nothing(tmp_path, monkeypatch):
    """A save that loses an array without an error, as orbax's did in a folder with brackets."""
    checkpoints = saved(tmp_path, 2.0, 3.0)
    write = type(checkpoints._checkpointer).save

    def lose_an_array(self, folder, **arguments):
        write(self, folder, **arguments)
        shutil.rmtree(folder / "params" / "d")

    monkeypatch.setattr(type(checkpoints._checkpointer), "save", lose_an_array)
    with pytest.raises(StorageFailure, match="can't be written"):
        checkpoints.save(state_at(30), 1.0)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20"]
    again = open_checkpoints(tmp_path)
    assert_same(again.restore("best", state_at(0)), state_at(10))
    assert_same(again.restore("latest", state_at(0)), state_at(20))


@pytest.mark.slow
def test_a_process_that_is_killed_between_two_renames_loses_nothing(tmp_path, capsys):
    """A step that is saved again, with its dev loss, has no final name for a moment."""
    config = small_config("bigram", steps=10, num_samples=0)
    assemble.train(config, str(tmp_path))
    (tmp_path / "checkpoints/10").rename(tmp_path / "checkpoints/10.replaced")
    (tmp_path / "summary.json").unlink()
    config.train.steps = 12
    assemble.train(config, str(tmp_path))
    assert "resuming from step 10" in capsys.readouterr().out


def test_a_checkpoint_that_reads_back_differently_replaces_nothing(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 2.0)
    read = Checkpoints._read
    monkeypatch.setattr(Checkpoints, "_read", lambda *a: jax.tree.map(lambda x: x + 1, read(*a)))
    with pytest.raises(StorageFailure, match="of step 20 differs when read back"):
        checkpoints.save(state_at(20), 1.0)
    monkeypatch.undo()
    assert open_checkpoints(tmp_path).steps() == {"latest": 10, "best": 10}


@pytest.mark.versions
@pytest.mark.parametrize("victim", ["latest", "best"])
def test_no_damage_is_restored_silently(victim, tmp_path, capsys):
    """Random damage of each kind; docs/reliability.md has the result of many more."""
    saved(tmp_path / "intact", 2.0, 3.0)
    expected = {"best": state_at(10), "latest": state_at(20)}
    rng = np.random.RandomState(5)
    for number in range(4):
        folder = shutil.copytree(tmp_path / "intact", tmp_path / str(number))
        step = {"latest": "20", "best": "10"}[victim]
        kind = list(damage.KINDS)[number]
        file = damage.damage(folder / "checkpoints" / step, kind, rng)
        reader = open_checkpoints(folder, read_only=True)
        restored = reader.restore(victim, state_at(0))
        other = {"latest": "best", "best": "latest"}[victim]
        assert_same(restored, expected[other])
        (line,) = capsys.readouterr().err.splitlines()
        assert f"checkpoints/{step} is DAMAGED" in line, file


@pytest.mark.parametrize(
    "loss", ['"low"', "NaN", "[]", pytest.param("9" * 999, id="too large for a float")]
)
def test_a_dev_loss_that_is_no_finite_number_is_damage(loss, tmp_path):
    """Also if the manifest agrees. min() of NaN and numbers depends on their order."""
    saved(tmp_path, 2.0, 3.0)
    folder = tmp_path / "checkpoints" / "10"
    (folder / METRICS).write_text(f'{{"dev_loss": {loss}}}', "utf-8")
    manifest.write(folder)
    assert open_checkpoints(tmp_path, read_only=True).steps() == {"latest": 20, "best": 20}


@pytest.mark.parametrize("content", ["[]", "{}", '{"dev_loss": "low"}', "no JSON"])
def test_a_dev_loss_that_is_no_number_is_damage(content, tmp_path):
    """Also if the manifest agrees: a stranger can write both."""
    saved(tmp_path, 2.0)
    folder = tmp_path / "checkpoints" / "10"
    (folder / METRICS).write_text(content, "utf-8")
    manifest.write(folder)
    with pytest.raises(UserError, match=f"10 is damaged: {METRICS} has no dev loss"):
        open_checkpoints(tmp_path, read_only=True).steps()


def test_training_goes_on_from_the_newest_intact_checkpoint(tmp_path, capsys):
    config = small_config("bigram", steps=40, eval_every=10, log_every=10, num_samples=0)
    (tmp_path / "few.txt").write_text("\n".join(WORDS), "utf-8")
    config.data.path = str(tmp_path / "few.txt")
    config.optimizer.learning_rate = 1.0  # overfits at once
    summary = assemble.train(config, str(tmp_path / "whole"))
    folder = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    latest, best = 40, summary["best_step"]
    assert best < latest
    file = folder / "checkpoints" / str(latest) / "rest" / "manifest.ocdbt"
    file.write_bytes(b"")
    capsys.readouterr()
    again = assemble.train(config, str(folder))
    printed = capsys.readouterr()
    assert f"resuming from step {best}" in printed.out
    (line,) = printed.err.splitlines()
    assert "40 is DAMAGED: the sha256 of rest/manifest.ocdbt is not that of its manifest" in line
    assert f"using the checkpoint of step {best} instead; its files are now in {folder}" in line
    assert (folder / "damaged" / "40" / "manifest.json").exists()
    for name in ("steps", "best_step", "dev_loss", "test_loss"):
        assert again[name] == summary[name]
    for step in (latest, best):  # now both
        (folder / "checkpoints" / str(step) / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"40 is damaged: manifest.json is missing; no intact check"
    ):
        assemble.train(config, str(folder))
    with pytest.raises(UserError, match="no intact checkpoint is left"):
        assemble.load_language_model(folder, workdir.read(folder))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == sorted(
        [str(best), "40"]
    )


@pytest.mark.parametrize(
    ("code", "owner", "method"),
    [(errno.ENOSPC, RunFiles, "write_values"), (errno.EROFS, Checkpoints, "save")],
)
def test_a_failing_disk_ends_the_training_in_one_line(code, owner, method, tmp_path, monkeypatch):
    config = small_config("bigram", steps=30, eval_every=10, log_every=10, num_samples=0)
    calls = []

    def fail_later(original):
        def call(self, *arguments, **options):
            calls.append(arguments)
            if len(calls) == 3:
                raise OSError(code, os.strerror(code))
            return original(self, *arguments, **options)

        return call

    monkeypatch.setattr(owner, method, fail_later(getattr(owner, method)))
    with pytest.raises(StorageFailure) as failure:
        assemble.train(config, str(tmp_path / "run"))
    monkeypatch.undo()
    assert failure.value.exit_code == 1
    assert f"can't be written: {os.strerror(code)}; the checkpoints" in str(failure.value)
    assert open_checkpoints(tmp_path / "run", read_only=True).steps()["latest"] >= 10
    assert assemble.train(config, str(tmp_path / "run"))["steps"] == 30


def test_a_log_is_cut_without_the_risk_to_lose_it(tmp_path, monkeypatch):
    """A resumed run that is killed at this moment, or finds the disk full, keeps its history."""
    lines = '{"step": 10, "seconds": 1.5}\n{"step": 20, "seconds": 3.0}\n'
    (tmp_path / "metrics.jsonl").write_text(lines, "utf-8")

    def fail_after_opening(file, *arguments):
        file.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("pathlib.Path.write_text", fail_after_opening)
        run_files.cut(tmp_path, 10)
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == lines
    assert run_files.cut(tmp_path, 10) == 1.5
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == lines.splitlines(True)[0]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE])
def test_a_folder_that_can_not_be_read_is_not_a_new_run(code, tmp_path, monkeypatch):
    """A training that begins again would overwrite metrics.jsonl."""
    config = small_config("bigram", steps=10, num_samples=0)
    assemble.train(config, str(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    config.train.steps = 20

    listdir = os.listdir

    def fail(folder):
        if os.path.basename(folder) == "checkpoints":
            raise OSError(code, os.strerror(code), str(folder))
        return listdir(folder)

    monkeypatch.setattr("makemore_jax.integrity.checkpoints.os.listdir", fail)
    with pytest.raises(StorageFailure, match=f"checkpoints can't be .*{os.strerror(code)}"):
        assemble.train(config, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("is_link", [False, pytest.param(True, marks=on_posix)])
def test_a_file_in_the_place_of_the_checkpoints_is_not_a_new_run(is_link, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.symlink_to(tmp_path / "gone") if is_link else folder.write_text("", "utf-8")
    with pytest.raises(OSError, match=re.escape(str(folder))):
        open_checkpoints(tmp_path, read_only=True).steps()
    assert open_checkpoints(tmp_path / "none", read_only=True).steps() == {}


@contextlib.contextmanager
def small_disk(folder, size: str):
    """Mount a small disk in memory, or skip the test."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("can't mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    config = ["--config=transformer", "--config.train.steps=30", "--config.train.eval_every=5"]
    config += ["--config.train.eval_examples=3", "--config.train.batch_size=3"]
    config += ["--config.train.log_every=5", "--config.train.num_samples=0"]
    with small_disk(tmp_path / "disk", "4m"):
        done = run("train.py", *config, "--workdir", tmp_path / "disk" / "run")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "can't be written: No space left on device" in line
        assert open_checkpoints(tmp_path / "disk" / "run", read_only=True).steps()["latest"] == 5


def make_read_only(folder):
    """Cover a folder with a read-only mount of itself, or skip the test. Open files stay writable.

    Permissions do not stop the user root, who runs many tests.
    """
    for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
        command = ["mount", *options, str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("can't mount a folder")


def test_a_folder_that_becomes_read_only(tmp_path, monkeypatch):
    """What was saved can be read at once, and resumed later."""
    config = small_config("bigram", steps=30, eval_every=10, log_every=10, num_samples=0)
    folder, save = tmp_path / "run", Checkpoints.save

    def save_once(self, *arguments):
        is_new = save(self, *arguments)
        make_read_only(folder)
        return is_new

    try:
        with monkeypatch.context() as patch, pytest.raises(StorageFailure) as failure:
            patch.setattr(Checkpoints, "save", save_once)
            assemble.train(config, str(folder))
        assert "can't be written: Read-only file system; the checkpoints" in str(failure.value)
        assert failure.value.exit_code == 1
        lm = assemble.load_language_model(folder, assemble.read_run(folder), "latest")
        assert len(assemble.sample(lm, jax.random.key(1), 2)) == 2
        with pytest.raises(UserError, match=r"can't be written: Read-only file system"):
            assemble.train(config, str(folder))
    finally:
        if shutil.which("umount"):
            subprocess.run(["umount", str(folder)], capture_output=True)
    assert open_checkpoints(folder).steps()["latest"] == 10
    assert assemble.train(config, str(folder))["steps"] == 30


def test_a_folder_that_is_deleted_during_the_training(tmp_path, monkeypatch):
    config = small_config("bigram", steps=30, eval_every=10, log_every=10, num_samples=0)
    save = Checkpoints.save

    def delete_the_folder(self, *arguments):
        shutil.rmtree(tmp_path / "run")
        return save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", delete_the_folder)
    with pytest.raises(StorageFailure, match="can't be written: it was moved or deleted"):
        assemble.train(config, str(tmp_path / "run"))


def test_tilde_and_addresses_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert paths.local("~/run") == str(tmp_path / "run").replace("\\", os.sep)
    shutil.copy(small_config("bigram").data.path, tmp_path / "few.txt")
    config = small_config("bigram", steps=2, num_samples=0)
    config.data.path = "~/few.txt"
    assemble.train(config, "~/run")
    assert (tmp_path / "run" / "summary.json").exists()
    assert workdir.read(tmp_path / "run").data_file == str(tmp_path / "few.txt")
    for address, advice in (
        ("gs://bucket/run", "copy with gcloud storage cp -r, or mount it"),
        ("s3://bucket/run", "copy with aws s3 cp --recursive, or mount it"),
        ("abfss://box@host/run", "copy with a program of its service, or mount it"),
        ("file:///tmp/run", "give /tmp/run$"),
    ):
        with pytest.raises(UserError, match=f"--workdir: {address} is an address.*{advice}"):
            assemble.train(config, address)
        config.data.path = address
        with pytest.raises(UserError, match=f"data.path: {address} is an address.*{advice}"):
            assemble.train(config, "~/new")
    assert not (tmp_path / "new").exists()


@on_posix
def test_paths_that_can_not_exist_are_refused_in_one_line(tmp_path):
    long = "a" * 300
    with pytest.raises(UserError, match=f"--workdir: .*{long}: File name too long"):
        paths.local(str(tmp_path / long))
    for name in (long, "~no-such-user/x.py"):
        with pytest.raises(UserError, match=f"--config: {name} does not exist"):
            config_flag.find(name)
    config = small_config("bigram", steps=2)
    config.data.path = long
    with pytest.raises(UserError, match=r"data.path: a* can't be read: File name too long"):
        assemble.train(config, str(tmp_path / "run"))


def test_lectures_and_sweeps_expand_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    parser = Parser("lectures.ngrams", "")
    parser.add_argument("--data")
    assert parser.parse_args(["--data=~/few.txt"]).data == os.path.expanduser("~/few.txt")
    values = {"data.path": "~/few.txt"}
    assert axes.with_values(small_config("bigram"), values).data.path.startswith(str(tmp_path))


POSITIONAL = """
from makemore_jax.cli import command_line
command_line.run(lambda arguments: None, "", config_required=False, name="program")
"""


def test_the_programs_expand_tilde_and_refuse_addresses(tmp_path):
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = run("sample.py", "--workdir=~/run", **home)
    assert_one_line(done, "sample.py", f"--workdir: {tmp_path / 'run'} has no run")
    done = run("train.py", "--config=bigram", "--workdir=gs://bucket/run")
    assert_one_line(done, "train.py", "--workdir: gs://bucket/run is an address, not a local path")
    done = run("-c", POSITIONAL, "gs://bucket/run")
    assert_one_line(done, "program", "argument: gs://bucket/run is an address, not a local path")


@pytest.mark.parametrize("name", ["workdir", "score", "data", "meta", "html", "markdown"])
def test_every_path_flag_expands_tilde(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    values = flags.FlagValues()
    flags.DEFINE_string(name, "~/file", "a path", flag_values=values)
    monkeypatch.setattr(paths.flags, "FLAGS", values)
    values.mark_as_parsed()
    paths.expand_flags()
    assert values[name].value == str(tmp_path / "file").replace("\\", os.sep)


@needs_signals
def test_a_second_training_is_refused_and_told_who_has_the_folder(tmp_path):
    with (
        lock_lib.lock(tmp_path),
        pytest.raises(UserError, match=rf"another training: process {os.getpid()} on "),
        lock_lib.lock(tmp_path),
    ):
        pass
    with lock_lib.lock(tmp_path):
        pass


@needs_signals
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EINVAL, 524])
def test_a_lock_without_flock(number, tmp_path, monkeypatch):
    import fcntl

    def unsupported(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    host, owner = socket.gethostname(), tmp_path / ".owner"
    with (
        lock_lib.lock(tmp_path),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* delete {owner}"),
        lock_lib.lock(tmp_path),
    ):
        pass
    assert not owner.exists()

    for text in (f"{host} {ENDED}/1", f"{host} {os.getpid()}/1"):  # an ended process, and a reused
        owner.write_text(text, "utf-8")  # number
        with lock_lib.lock(tmp_path):
            assert str(os.getpid()) in owner.read_text("utf-8")
    owner.write_text(f"elsewhere {ENDED}/1", "utf-8")
    with (
        pytest.raises(UserError, match=f"process {ENDED} on elsewhere; if that process has ended"),
        lock_lib.lock(tmp_path),
    ):
        pass


@needs_signals
def test_a_killed_training_leaves_no_lock(tmp_path):
    code = "import sys, time, pathlib; from makemore_jax.integrity.lock import lock\n"
    code += "with lock(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"), lock_lib.lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with lock_lib.lock(tmp_path):
        pass


@pytest.mark.parametrize("num", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_readers_during_saves_see_one_state(num, tmp_path):
    """Each reader gets the state of one step, and the best is never older than before."""
    states = [jax.device_get(state_at(step)) for step in range(1, num + 1)]
    writer = open_checkpoints(tmp_path)
    writer.save(states[0], 100.0)
    failures = []

    def save_all():
        try:
            for step, state in enumerate(states[1:], start=2):
                writer.save(state, 100.0 - step)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=save_all)
    thread.start()
    last, reads = 0, 0
    while thread.is_alive() or not reads:
        restored = open_checkpoints(tmp_path, read_only=True).restore("best", state_at(0))
        step = int(restored.step)
        assert_same(restored, states[step - 1])
        assert step >= last
        last, reads = step, reads + 1
    thread.join()
    assert not failures


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_run_ends_bit_identical(name):
    """docs/reliability.md has the result of many more."""
    done = run("-m", "benchmarks.kill", "--kills", "4", "--signal", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("| 4 | ")

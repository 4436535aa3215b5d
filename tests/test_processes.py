"""Several processes train one model: they compute what one computes, and end together."""

import re
import signal
import socket
import time

import pytest
from conftest import TIMEOUT, assert_one_line, needs_signals, on_devices, read_metrics, run, start

pytestmark = needs_signals  # and jax has no collectives for CPUs on Windows
TRAIN = ("train.py", "--config", "configs/shakespeare_cpu.py")
ONE_DEVICE = on_devices(1)
GOES_ON_FOREVER = ["--config.train.steps=100000000", "--config.train.log_every=20"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A small model on a small text, which lies in a file of tokens."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("".join(chr(97 + i * i % 23) for i in range(3_000)), "utf-8")
    model = {"n_layer": 1, "n_head": 2, "n_embd": 8}
    train = {"steps": 40, "log_every": 10, "eval_every": 20, "batch_size": 8, "sample_every": 40}
    data = {"path": text, "block_size": 8, "memory_map": "always"}
    groups = {"model": model, "train": train, "data": data}
    return [f"--config.{g}.{k}={v}" for g, of in groups.items() for k, v in of.items()]


def start_all(num, *flags, last=()):
    """Start `num` processes that train together. The last one has more flags."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    together = ("--distributed", f"--coordinator=localhost:{port}", f"--num_processes={num}")
    added = [[], *[[]] * (num - 2), last] if num > 1 else [[]]
    return [
        start(*TRAIN, *flags, *together, f"--process_id={i}", *added[i], **ONE_DEVICE)
        for i in range(num)
    ]


def end(started, timeout=600):
    """The exit codes, what was printed, and what went wrong, of each."""
    outputs = [process.communicate(timeout=timeout) for process in started]
    return [process.returncode for process in started], *zip(*outputs, strict=True)


def train(num, *flags):
    codes, printed, wrong = end(start_all(num, *flags))
    assert codes == [0] * num, wrong
    return printed


def alone(*flags):
    done = run(*TRAIN, *flags, **ONE_DEVICE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(folder):
    return {
        (line["step"], name): line[name]
        for line in read_metrics(folder)
        for name in ("train_loss", "dev_loss")
        if name in line
    }


def last_step(folder):
    """The last one that a training has told of; it may be writing just now, or have been killed."""
    file = folder / "metrics.jsonl"
    text = file.read_text("utf-8") if file.exists() else ""
    return max(map(int, re.findall(r'"step": (\d+)\b', text)), default=0)


def wait_for(folder, step):
    """Until a training has told of a step."""
    deadline = time.monotonic() + TIMEOUT
    while last_step(folder) < step:
        assert time.monotonic() < deadline, f"no step {step}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, flags):
    """The runs of one and of four processes, the parameters of the four in parts."""
    folder = tmp_path_factory.mktemp("runs")
    alone(*flags, "--workdir", folder / "one")
    printed = train(4, *flags, "--config.mesh.fsdp=True", "--workdir", folder / "four")
    return folder, printed


@pytest.mark.slow
def test_four_processes_compute_what_one_computes(trained):
    folder, _ = trained
    one, four = losses(folder / "one"), losses(folder / "four")
    assert len(one) == 6
    assert four == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_there_is_one_set_of_logs_and_one_checkpoint_of_all(trained):
    folder, printed = trained
    assert "best model (step 40)" in printed[0]
    assert not any("dev loss" in text for text in printed[1:])
    assert len(list((folder / "four").glob("events.out.*"))) == 1
    assert (folder / "four" / "samples.txt").read_text("utf-8").count("step 40, samples") == 1
    parts = (folder / "four" / "checkpoints" / "40" / "params").glob("ocdbt.process_*")
    assert len(list(parts)) == 4


@pytest.mark.slow
def test_other_numbers_of_processes_go_on_from_the_checkpoint_of_four_and_of_one(trained, flags):
    folder, _ = trained
    alone(*flags, "--config.train.steps=60", "--workdir", folder / "four")
    train(
        2, *flags, "--config.train.steps=60", "--config.mesh.fsdp=True", "--workdir", folder / "one"
    )
    one, four = losses(folder / "one"), losses(folder / "four")
    assert (60, "dev_loss") in one
    assert four == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_one_process_samples_from_what_many_have_trained(trained):
    folder, _ = trained
    given = ("--workdir", folder / "four", "--max_len", "30", "--checkpoint", "latest")
    done = run("sample.py", *given, **ONE_DEVICE)
    assert (done.returncode, len(done.stdout)) == (0, 31)


def is_saving(folder):
    """Whether a checkpoint is being written just now."""
    return any(folder.glob("checkpoints/*tmp*"))


KILLS = [
    (1, "a save"),
    pytest.param(0, "a step", marks=pytest.mark.slow),
]


@pytest.mark.versions
@pytest.mark.parametrize(("victim", "during"), KILLS)
def test_when_one_is_killed_the_other_ends_within_a_minute_and_the_run_goes_on(
    flags, tmp_path, victim, during
):
    folder = tmp_path / "run"
    started = start_all(2, *flags, *GOES_ON_FOREVER, "--workdir", folder)
    wait_for(folder, 40)
    deadline = time.monotonic() + 60
    while during == "a save" and not is_saving(folder):
        assert time.monotonic() < deadline
    started[victim].kill()
    began = time.monotonic()
    codes, _, wrong = end(started, timeout=60)
    assert time.monotonic() - began < 60
    assert codes[1 - victim] not in (0, None)
    assert "another process" in wrong[1 - victim]
    assert "start all processes again" in wrong[1 - victim]
    assert "Traceback" not in wrong[1 - victim]
    text = alone(*flags, f"--config.train.steps={last_step(folder) + 20}", "--workdir", folder)
    assert re.search(r"resuming from step [1-9]\d*", text)


@pytest.mark.slow
def test_a_signal_to_one_ends_all_after_the_same_step(flags, tmp_path):
    started = start_all(2, *flags, *GOES_ON_FOREVER, "--workdir", tmp_path / "run")
    wait_for(tmp_path / "run", 40)
    started[1].send_signal(signal.SIGTERM)
    codes, _, wrong = end(started)
    assert codes == [143, 143]
    steps = [re.search(r"SIGTERM: saved at step (\d+)", text)[1] for text in wrong]
    assert steps[0] == steps[1]
    assert (tmp_path / "run" / "checkpoints" / steps[0]).is_dir()


@pytest.mark.slow
def test_all_tell_why_they_can_not_begin(trained, flags):
    folder, _ = trained
    codes, _, wrong = end(
        start_all(2, *flags, "--config.model.n_embd=4", "--workdir", folder / "one")
    )
    assert codes == [2, 2]
    assert all("model.n_embd:" in text for text in wrong)


IMPATIENT = """
import sys
from makemore_jax.parallel import processes
processes.CONNECT_TIMEOUT = 3
sys.argv = ["train.py", *sys.argv[1:]]
exec(compile(open("train.py").read(), "train.py", "exec"))
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", 2, 1), "--coordinator: localhost:1 can't be reached: Connection refused"),
        (("no.such.host.invalid:80", 2, 1), "--coordinator: no.such.host.invalid:80 can't be"),
        (("localhost", 2, 0), "--coordinator: 'localhost' is not host:port"),
        (("localhost:65536", 2, 0), "--coordinator: 'localhost:65536' is not host:port"),
        (("localhost:1", 0, 0), "--num_processes: 0 must be at least 1"),
        (("localhost:1", 2, 2), "--process_id: 2 must be from 0 to --num_processes - 1 = 1"),
        (("localhost:1", 2, None), "--process_id: is missing"),
        ((None, None, None), "--distributed: jax finds no cluster here"),
    ],
)
def test_who_can_not_meet_the_others_says_so_and_does_not_hang(given, message, tmp_path):
    names = ("coordinator", "num_processes", "process_id")
    flags = [f"--{k}={v}" for k, v in zip(names, given, strict=True) if v is not None]
    config = ("--config=configs/bigram.py", "--distributed", "--workdir", tmp_path / "run")
    done = run("-c", IMPATIENT, *config, *flags, **ONE_DEVICE)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_flags_of_several_processes_need_distributed(tmp_path):
    config = ("--config=configs/bigram.py", "--workdir", tmp_path / "run")
    done = run("train.py", *config, "--num_processes=2", "--process_id=0")
    assert_one_line(done, "train.py", "--num_processes: needs --distributed")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_different_settings_do_not_begin(flags, tmp_path):
    started = start_all(2, *flags, "--workdir", tmp_path / "w", last=["--config.seed=7"])
    codes, _, wrong = end(started, timeout=120)
    assert codes[0] == 2
    assert "the processes have different configs or working directories" in wrong[0]
    assert not (tmp_path / "w").exists()


OUT_OF_MEMORY = """
import jax
from absl import flags
from makemore_jax.cli import process_flags
from makemore_jax.parallel import processes

process_flags.define()
flags.FLAGS(["train.py"])
processes.is_distributed, processes.EXIT_DELAY = lambda: True, 0
with process_flags.connected():
    jax.numpy.ones(10**15)
"""


def test_too_little_memory_is_not_the_end_of_another_process():
    done = run("-c", OUT_OF_MEMORY)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("-c: not enough memory for ")


@pytest.mark.slow
def test_the_first_does_not_wait_for_ever(tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        where = f"localhost:{found.getsockname()[1]}"
    flags = (f"--coordinator={where}", "--num_processes=2", "--process_id=0")
    config = ("--config=configs/bigram.py", "--distributed", "--workdir", tmp_path / "run")
    done = run("-c", IMPATIENT, *config, *flags, **ONE_DEVICE)
    assert done.returncode != 0
    assert "not all of 2 processes connected" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_device_is_left_without_work(flags, tmp_path):
    given = ("--config.mesh.data=1", "--workdir", tmp_path / "run")
    codes, _, wrong = end(start_all(2, *flags, *given))
    assert codes == [2, 2]
    assert all("leaves some of the 2 devices of 2 processes without work" in text for text in wrong)

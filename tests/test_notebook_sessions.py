"""Notebook sessions: repeated programs, training in threads, the Stop button, shown results."""

import io
import math
import os
import re
import signal
import threading
from types import SimpleNamespace

import pytest
from conftest import (
    BLOCK,
    TIMEOUT,
    VOCAB,
    needs_signals,
    read_metrics,
    run,
    small_config,
    small_model,
)

from makemore_jax import assemble
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.cli import progress
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import Stopped
from makemore_jax.report.surprise import name_surprise

# Runs its arguments as cells. The streams have no `reconfigure`, as in a notebook.
SESSION = """
import io, sys
from IPython.core.interactiveshell import InteractiveShell

class Stream(io.TextIOBase):
    def __init__(self, file):
        self.file = file
    def write(self, text):
        return self.file.write(text)
    def flush(self):
        self.file.flush()

shell = InteractiveShell.instance(colors="nocolor")
sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
for i, cell in enumerate(sys.argv[1:]):
    print(f"[{i}]")
    shell.run_cell(cell)
print("[end]")
"""
TRAIN = "%run train.py --config bigram --config.train.num_samples=2 --config.train.eval_every=20"


def run_cells(*cells: str) -> tuple[list[str], str]:
    """Run cells in one IPython session; return what each printed, and all of stderr."""
    pytest.importorskip("IPython", reason='needs IPython: pip install -e ".[test]"')
    done = run("-c", SESSION, *cells)
    assert done.returncode == 0, done.stderr
    *outputs, end = re.split(r"^\[\w+\]\n", done.stdout, flags=re.MULTILINE)[1:]
    assert (len(outputs), end) == (len(cells), "")  # no cell ended the session
    return outputs, done.stderr


@pytest.mark.versions
def test_programs_run_repeatedly_in_one_session(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    sample = f"%run sample.py --num 3 --workdir {first}"
    outputs, errors = run_cells(
        sample,
        f"{TRAIN} --config.train.steps=40 --workdir {first}",
        sample,
        f"{TRAIN} --config.model.n_emb=3 --workdir {second}",
        f"{TRAIN} --config.train.steps=20 --workdir {second}",
        f"{sample} --format json",
        "from makemore_jax.config import Config\nfrom makemore_jax import assemble\n"
        f"assemble.train(Config(seed=-1), {str(second)!r})",
    )
    no_run, trained, drawn, refused, trained_again, as_json, raised = outputs
    assert (no_run, refused) == ("", "")
    assert errors.splitlines() == [
        f"sample.py: --workdir: {first} has no run",
        "train.py: --config.model.n_emb: no such field; did you mean model.n_embd?",
    ]
    assert f"everything is in {first}" in trained
    assert f"everything is in {second}" in trained_again
    assert sum(line.startswith("  ") for line in drawn.splitlines()) == 3
    assert as_json.count('"log_prob"') == 3
    assert raised == "UserError: seed: -1 must be between 0 and 4294967295\n"


NEED = """
from makemore_jax.cli import command_line
command_line.require_modules("program", "no_module")
"""


def test_mistakes_of_other_programs_show_no_traceback_either(tmp_path):
    (tmp_path / "program.py").write_text(NEED, "utf-8")
    outputs, errors = run_cells(
        "%run -m makemore_jax.download nothing",
        "%run -m makemore_jax.lectures.ngrams -- --num 0",
        "%run -m makemore_jax.lectures.ngrams -- --nmu 1",
        f"import sys; sys.path.append({str(tmp_path)!r})",
        "%run -m program",
        "%run -m makemore_jax.lectures.ngrams -- --num 1",
    )
    assert outputs[:-1] == [""] * 5
    assert len(outputs[-1].splitlines()) == 10
    choices = "invalid choice: 'nothing' (choose from 'names', 'shakespeare')"
    assert errors.replace("names, shakespeare", "'names', 'shakespeare'").splitlines() == [
        f"download: argument name: {choices}",
        "ngrams: --num: 0 must be at least 1, below 2**31",
        "ngrams: unrecognized arguments: --nmu 1",
        "program: needs no_module: pip install no_module",
    ]


STOP = """
from pathlib import Path
from makemore_jax.notebook import cells
stop_button = cells.StopButton(Path({folder!r}), 60)
%run train.py --config bigram --config.train.steps=1000000 --workdir {folder}
stop_button.cancel()
print("the kernel is alive")
"""


@pytest.mark.slow
def test_the_stop_button_saves_and_the_same_cell_resumes(tmp_path):
    stop = STOP.format(folder=str(tmp_path / "run"))
    outputs, errors = run_cells(stop, stop)
    step, later = (int(number) for number in re.findall(r"SIGINT: saved at step (\d+);", errors))
    assert len(errors.splitlines()) == 2
    assert later >= step + 60
    assert f"resuming from step {step}" in outputs[1]
    assert outputs[0].endswith("the kernel is alive\n")
    assert Checkpoints(tmp_path / "run").steps()["latest"] == later


def test_a_stopped_training_raises_and_can_be_resumed(tmp_path):
    """Call assemble.train directly, without a command line."""
    cells = pytest.importorskip("makemore_jax.notebook.cells", reason="needs IPython")
    before = signal.getsignal(signal.SIGINT)
    config = small_config("bigram", steps=1_000_000, log_every=10, num_samples=0)
    button = cells.StopButton(tmp_path, 20)
    with pytest.raises(Stopped, match=r"^SIGINT: saved at step \d+; run the same command") as info:
        assemble.train(config, str(tmp_path))
    button.cancel()
    assert info.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    step = Checkpoints(tmp_path).steps()["latest"]
    assert step >= 20
    config.train.steps = step + 10
    assert assemble.train(config, str(tmp_path))["steps"] == step + 10


@needs_signals
def test_a_cancelled_stop_button_sends_nothing(tmp_path, monkeypatch):
    cells = pytest.importorskip("makemore_jax.notebook.cells", reason="needs IPython")
    sent = []
    monkeypatch.setattr(cells.os, "kill", lambda *signal: sent.append(signal))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 5}\n{"step": 7, "half', "utf-8")
    assert cells._last_step(metrics) == 5
    cancelled, pressed = cells.StopButton(tmp_path, 1), cells.StopButton(tmp_path, 1)
    cancelled.cancel()
    metrics.write_text('{"step": 6}\n', "utf-8")
    pressed.join(TIMEOUT)
    assert not pressed.is_alive() and not cancelled.is_alive()
    assert sent == [(os.getpid(), signal.SIGINT)]


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    config, results = small_config("bigram", steps=10, num_samples=0), []
    thread = threading.Thread(target=lambda: results.append(assemble.train(config, str(tmp_path))))
    thread.start()
    thread.join()
    assert [summary["steps"] for summary in results] == [10]
    assert signal.getsignal(signal.SIGINT) is before
    assert read_metrics(tmp_path)[-1]["step"] == 10


class NotebookStream(io.StringIO):
    """Like the stream of a cell: neither a terminal nor a file."""


NotebookStream.__module__ = "ipykernel.iostream"


class Display:
    """Replace IPython's display, and record the texts that each output has shown."""

    def __init__(self):
        self.outputs: list[list[str]] = []

    def __call__(self, content: dict, raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw
        assert display_id
        texts = [content["text/plain"]]
        self.outputs.append(texts)
        return SimpleNamespace(update=lambda content, raw: texts.append(content["text/plain"]))


def test_a_notebook_updates_bars_in_place_and_not_on_stderr(tmp_path, monkeypatch):
    display = pytest.importorskip("IPython.display", reason="needs IPython")
    shown = Display()
    monkeypatch.setattr(display, "display", shown)
    out, errors = NotebookStream(), NotebookStream()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr(progress, "NOTEBOOK_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    assemble.train(small_config("bigram", steps=30, log_every=10, num_samples=0), str(tmp_path))
    for _ in progress.track(range(3), "scoring"):
        pass
    assert progress.default_file() is out
    printed = out.getvalue()
    assert errors.getvalue() == ""
    training, scoring = shown.outputs
    assert any(re.fullmatch(r"67%\|██.* 20/30 \[.*, loss=\d\.\d{4}\]", t) for t in training)
    assert re.match(r"100%.* 30/30 ", training[-1])
    assert any(re.match(r"scoring: *67%\|.* 2/3 \[", text) for text in scoring)
    assert "train loss" not in printed.partition("best model")[0]  # no line per call
    assert "step 30: dev loss" in printed
    assert "\r" not in printed


def test_without_a_notebook_there_is_no_bar():
    assert progress.make_bar(io.StringIO(), total=3).disable
    assert not progress.make_bar(NotebookStream(), total=3).disable


def test_the_surprise_of_a_name_in_a_cell():
    cells = pytest.importorskip("makemore_jax.notebook.cells", reason="needs IPython")
    model, params = small_model("bigram")
    lm = LanguageModel(model, {"params": params}, Vocab(tuple("abcdefghijkl")), BLOCK)
    (nats,) = name_surprise(lm, ["fee"])
    shown = re.sub("<[^>]*>", " ", cells.surprise(lm, ["fee"]).data).split()
    by_char = [word for char, n in zip("fee•", nats, strict=True) for word in (char, f"{n:.2f}")]
    note = f"guessing uniformly costs {math.log(VOCAB):.2f} nats per character"
    assert shown == [f"{sum(nats):.2f}", *by_char, *note.split()]


def test_figures_in_a_cell_have_their_captions():
    cells = pytest.importorskip("makemore_jax.notebook.cells", reason="needs IPython")
    drawings = [(lambda content, file: file.write(content), content) for content in (b"1", b"2")]
    shown = cells.figures(*drawings, captions=["a", "b<"]).data
    captions_and_files = re.findall('<figcaption>(.*?)</figcaption>.*?base64,(.*?)"', shown)
    assert captions_and_files == [("a", "MQ=="), ("b&lt;", "Mg==")]


@pytest.mark.versions
def test_initialized_devices_are_kept():
    code = """
import jax
assert jax.device_count() == 1
from makemore_jax.cli import startup
startup.configure_jax()
print(jax.device_count())
"""
    done = run("-c", code)
    assert (done.stdout, done.stderr) == ("1\n", "")

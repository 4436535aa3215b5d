"""The report page of a run, and the command that writes it."""

import html
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import (
    assert_close,
    assert_one_line,
)
from report_helpers import BY_LAYER, BY_MATRIX, drawn_figures, plots_command

from makemore_jax.errors import UserError
from makemore_jax.plots import curves, learned
from makemore_jax.plots.write import write
from makemore_jax.report import (
    bigrams,
    html_parts,
    page,
)
from makemore_jax.report.collect import (
    MAX_TEXT_SAMPLES,
    collect,
)
from makemore_jax.report.history import Curves


@pytest.fixture
def figures():
    with drawn_figures() as figures:
        yield figures


def files_of(folder):
    """Return {file: content} without the page and its figures."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.parent.name != "plots")
    return {f: f.read_bytes() for f in files}


def test_page_of_a_text(small_text_run):
    """Samples keep newlines, Surprise has every character, captions do not mention lines."""
    folder = small_text_run / "run"
    report = collect(folder, None, seed=5, num=20)
    assert len(report.samples) == MAX_TEXT_SAMPLES and "\n" in report.samples[0].text
    write(report, small_text_run / "page")
    page = (small_text_run / "page" / "index.html").read_text("utf-8")
    assert re.findall("<h2>(.*)</h2>", page) == [
        *("Training", "Samples", "Surprise", "The characters", "Config"),
    ]
    for sample in report.samples:
        assert f"<pre>\n{html.escape(sample.text)}</pre>" in page
    (spans,) = re.findall("<pre>(?!\n)(.*?)</pre>", page, re.DOTALL)
    text = html.unescape(re.sub("<[^>]*>", "", spans))
    assert text.replace("↵\n", "\n") == report.passage.text
    assert spans.count("<span") == len(report.passage.text) - 1
    prose = re.sub(r'base64,[^"]*|<style>.*?</style>|<pre>.*?</pre>', "", page, flags=re.DOTALL)
    assert not re.search(r"\blines?\b|•", prose)


def test_probabilities_of_samples():
    assert page._one_in(-np.log(1234)) == "1,234"
    assert page._one_in(-100.0) == "10<sup>43</sup>"


def test_facts_are_plain_text():
    assert html_parts.facts({"a<b": "<i>&"}) == ("<dl><dt>a&lt;b</dt><dd>&lt;i&gt;&amp;</dd></dl>")


def test_labels_do_not_overlap():
    """Labels at equal positions move apart; labels with enough space stay."""
    points = np.concatenate([np.zeros((20, 2)), np.random.RandomState(6).randn(19, 2)])
    points = np.concatenate([points, [[50.0, 50.0]]])
    moved = learned.separate(points, distance=0.5)
    gaps = np.linalg.norm(moved[:, None] - moved, axis=-1)[~np.eye(len(moved), dtype=bool)]
    assert gaps.min() > 0.49
    assert_close(moved[-1], [50, 50])


def test_the_best_step_is_marked_at_its_dev_loss(figures, tmp_path):
    report = Curves([(10, 3.0), (20, 2.0)], [(10, 3.5), (20, 2.5)], [(1, 0.1)], [(10, 1.0)])
    curves.loss_curves(report, 20, tmp_path / "loss")
    (best,) = (line for line in figures["loss"].axes[0].lines if line.get_marker() == "*")
    assert best.get_xydata().tolist() == [[20, 2.5]]
    assert best.get_label() == "best, 2.5000"


def test_pairs_that_are_too_probable_are_red(figures, tmp_path):
    model, counted = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    learned.difference(bigrams.BigramTables(model, counted), ["a", "b"], tmp_path / "difference")
    (image,) = figures["difference"].axes[0].images
    assert image.get_array().tolist() == [[0.25, -0.25], [0, 0]]
    assert image.cmap(image.norm(0.25))[0] > image.cmap(image.norm(0.25))[2]  # more red than blue


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        pytest.param("bigram", set(), marks=pytest.mark.slow),
        pytest.param("bigram_inside", BY_MATRIX, marks=pytest.mark.slow),
        ("transformer", BY_MATRIX | BY_LAYER),
    ],
)
def test_command(small_runs, kind, inside):
    """The command writes the page and its figures, and does not change the run."""
    folder = small_runs / kind
    before = files_of(folder)
    done = plots_command("--workdir", folder, "--num", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "plots" / "index.html") in done.stdout
    assert files_of(folder) == before
    expected = {"loss", "learning_rate"}
    expected |= {f"bigrams_{name}" for name in ("learned", "counted", "difference")}
    expected |= {f"inside_{name}" for name in inside}
    if kind == "transformer":
        expected |= {"characters"} | {f"attention_{i}_{n}" for i in (1, 2, 3) for n in (1, 2)}
    written = {file.name for file in (folder / "plots").iterdir()}
    assert written == {f"{name}.png" for name in expected} | {"index.html"}
    page = (folder / "plots" / "index.html").read_text("utf-8")
    assert page.count('src="data:image/png;base64,') == page.count("src=") == len(expected)
    without_pictures = re.sub(r'base64,[^"]*', "", page)
    assert not re.search(r"https?:|<script|<link|url\(|@import", without_pictures)
    assert page.count("<tr>") == 1 + 7 + 3
    assert ("<h2>Attention</h2>" in page) == (kind == "transformer")
    assert ("<h2>Inside</h2>" in page) == bool(inside)
    assert ("--config.train.diagnose_every" in page) == (not inside)


@pytest.mark.slow
def test_figures_of_other_names(small_runs, tmp_path):
    """Figures of an earlier call are deleted, other files are not."""
    (tmp_path / "attention_2_1.png").write_bytes(b"")
    (tmp_path / "mine.png").write_bytes(b"")
    report = collect(small_runs / "transformer", ["élise"], seed=5, num=4)
    write(report, tmp_path)
    remaining = {file.stem for file in tmp_path.glob("[am]*.png")}
    assert remaining == {"attention_1_1", "attention_1_2", "mine"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<tr>") == 1 + 4 + 1 and "<h3>élise</h3>" in page


@pytest.mark.slow
def test_old_layer_figures_are_deleted(small_runs, tmp_path):
    """This happens if a run is trained again without train.diagnose_every."""
    report = collect(small_runs / "bigram_inside", None, seed=5, num=1)
    write(report, tmp_path)
    assert {file.stem for file in tmp_path.glob("inside_*.png")} == {
        f"inside_{name}" for name in BY_MATRIX
    }
    write(report._replace(diagnostics=None), tmp_path)
    assert not list(tmp_path.glob("inside_*.png"))
    assert "<h2>Inside</h2>" not in (tmp_path / "index.html").read_text("utf-8")


def test_without_data_and_metrics(small_runs, tmp_path):
    """A converted run on another machine has neither."""
    folder = tmp_path / ("a <b>run<b>" if os.name == "posix" else "a &run")
    ignored = shutil.ignore_patterns("plots", "metrics.*")
    shutil.copytree(small_runs / "bigram", folder, ignore=ignored)
    content = json.loads((folder / "config.json").read_text("utf-8"))
    content["data_file"] = content["config"]["data"]["path"] = str(tmp_path / "gone.txt")
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    report = collect(folder, None, seed=1, num=5)
    assert report.names == list(dict.fromkeys(d.text for d in report.samples if d.text))[:3]
    write(report, folder / "plots")
    assert [file.name for file in (folder / "plots").iterdir()] == ["index.html"]
    page = (folder / "plots" / "index.html").read_text("utf-8")
    assert re.findall("<h2>(.*)</h2>", page) == ["Samples", "Surprise", "Config"]
    assert "gone.txt, missing or changed" in page
    assert "<b>" not in page and "a &lt;b&gt;run&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workdir", "{tmp}/none"), "none has no run"),
        (("--names", "anna"), "--workdir is missing"),
        (("--workdir", "{run}", "--names", "anna,Zoe"), "which is in 'Zoe'"),
        (("--workdir", "{run}", "--names=", "--num=1"), "--names is empty"),
        (("--workdir", "{run}", "--num", "0"), "--num: 0 must be at least 1"),
    ],
)
def test_errors_have_one_line(flags, message, small_runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small_runs / "bigram", folder, ignore=shutil.ignore_patterns("plots"))
    done = plots_command(*(flag.format(run=folder, tmp=tmp_path) for flag in flags))
    assert_one_line(done, "plots", message)
    assert not (folder / "plots").exists() and not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written(small_runs, tmp_path):
    (tmp_path / "plots").write_text("mine", "utf-8")
    report = collect(small_runs / "bigram", None, seed=1, num=1)
    with pytest.raises(UserError, match="plots can't be written: File exists"):
        write(report, tmp_path / "plots")
    assert (tmp_path / "plots").read_text("utf-8") == "mine"


def test_help_names_the_defaults():
    done = plots_command("--help")
    assert re.search(r"--num +number of samples \(20\)", done.stdout)


def test_without_matplotlib(small_runs, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')", "utf-8")
    done = plots_command("--workdir", small_runs / "bigram", fresh=True, PYTHONPATH=str(tmp_path))
    assert_one_line(done, "plots", "figures need matplotlib: pip install matplotlib")

"""The report page of a run, and the command that writes it."""

import base64
import html
import json
import math
import os
import re
import shutil

import numpy as np
import pytest
from conftest import (
    assert_close,
    assert_one_line,
)
from report_helpers import BY_LAYER, BY_MATRIX, axes_of, drawn_figures, plots_command

from makemore_jax.errors import UserError
from makemore_jax.plots import curves, learned
from makemore_jax.plots.write import draw, write
from makemore_jax.report import (
    html_parts,
    page,
)
from makemore_jax.report.bigrams import BigramTables
from makemore_jax.report.collect import (
    MAX_TEXT_SAMPLES,
    collect,
)
from makemore_jax.report.embeddings import Projection
from makemore_jax.report.history import Curves
from makemore_jax.report.samples import ReportedSample
from makemore_jax.report.surprise import PASSAGE_CHARS, Passage


@pytest.fixture
def figures():
    with drawn_figures() as figures:
        yield figures


@pytest.fixture(scope="module")
def report(small_runs):
    """The report of a bigram model, with the surprise of "ab"."""
    return collect(small_runs / "bigram", ["ab"], seed=5, num=1)


def files_of(folder):
    """Return {file: content} without the page and its figures."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.parent.name != "plots")
    return {f: f.read_bytes() for f in files}


def lose_data(folder):
    """Change the path of a run's data file to one that does not exist."""
    content = json.loads((folder / "config.json").read_text("utf-8"))
    content["data_file"] = content["config"]["data"]["path"] = str(folder / "gone.txt")
    (folder / "config.json").write_text(json.dumps(content), "utf-8")


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
    source = (small_text_run / "few.txt").read_text("utf-8")
    size = int(0.9 * len(source))
    assert report.facts["data"] == f"few.txt, one text: {size:,} training characters"
    assert report.passage.source == "dev text"
    assert text.replace("↵\n", "\n") == report.passage.text == source[size:][:PASSAGE_CHARS]
    assert spans.count("<span") == len(report.passage.text) - 1
    prose = re.sub(r'base64,[^"]*|<style>.*?</style>|<pre>.*?</pre>', "", page, flags=re.DOTALL)
    assert not re.search(r"\blines?\b|•", prose)


def test_surprise_of_a_name(report):
    """The sum, then each character with its own, from white to orange; the end is the last."""
    shown = page._surprise(report._replace(surprise=[np.array([0.5, 1.0, 3.0])]), {})
    (row,) = re.findall("<tr>(.*?)</tr>", shown)
    cells = re.sub("<[^>]*>", " ", row).split()
    assert cells == ["4.50", "a", "0.50", "b", "1.00", "•", "3.00"]
    blues = [int(color.split(",")[2]) for color in re.findall(r"rgb\((.*?)\)", row)]
    assert blues[0] > blues[1] > blues[2]
    assert f"costs {math.log(report.vocab.size):.2f} nats" in shown


def test_surprise_of_a_passage_is_compared_with_uniform_guessing():
    passage = Passage("aba", np.array([1.0, 2.0]), "dev text")
    shown = page._surprise_of_passage(passage, vocab_size=65)
    assert "The mean is 1.500;" in shown and f"costs {math.log(65):.2f}." in shown


def test_sampled_lines(report):
    sample = ReportedSample("anna", -2.0, "new", "ann", 1)
    shown = page._sampled_lines(report._replace(samples=[sample]))
    assert re.findall('data-label="(.*?)".*?>(.*?)</td>', shown) == [
        *(("sample", "anna"), ("ln p", "-2.00"), ("one in", "7"), ("found in", "new")),
        *(("nearest in train", "ann"), ("edits", "1")),
    ]


def test_sampled_texts(report):
    sample = ReportedSample("anna", -2.0, None, None, None)
    shown = page._sampled_texts(report._replace(samples=[sample]))
    assert "sample 1: 4 characters, ln p -2.00, 0.500 nats per character" in shown


def test_bigrams(report):
    """The number of lines of the mean, and each picture below its own caption."""
    names = ("learned", "counted", "difference")
    shown = page._bigrams(report, {f"bigrams_{name}": name.encode() for name in names})
    assert f"predictions over {report.bigrams.num_lines} training lines." in shown
    pictures = re.findall('<figcaption>(.*?)</figcaption>.*?base64,(.*?)"', shown)
    assert [(caption, base64.b64decode(png).decode()) for caption, png in pictures] == [
        *(("learned", "learned"), ("counted", "counted")),
        ("learned minus counted", "difference"),
    ]


def test_shares_of_the_components(report):
    embeddings = Projection(np.eye(2), np.array([0.75, 0.25]))
    shown = page._embeddings(report._replace(embeddings=embeddings), {"characters": b""})
    assert "which have 75% and 25% of the variance" in shown


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


def test_curves_of_a_run(figures, tmp_path):
    """Both losses, the best step at its dev loss, and the learning rate."""
    train, dev, rates = [(10, 3.0), (20, 2.0)], [(10, 3.5), (20, 2.5)], [(1, 0.1), (9, 0.3)]
    curves.loss_curves(Curves(train, dev, rates, [(10, 1.0)]), 20, tmp_path / "loss")
    lines = {line.get_label(): line for line in figures["loss"].axes[0].lines}
    assert lines["best, 2.5000"].get_marker() == "*"
    curves.learning_rate(Curves(train, dev, rates, [(10, 1.0)]), 20, tmp_path / "rate")
    lines["rate"] = figures["rate"].axes[0].lines[0]
    for name, points in {
        "train, mean since the last point": train,
        "dev": dev,
        "best, 2.5000": [(20, 2.5)],
        "rate": rates,
    }.items():
        assert [tuple(point) for point in lines[name].get_xydata()] == points


def test_pairs_of_curves_have_their_difference_below_them(tmp_path):
    pairs = {"gru": {"jax": [3.0, 2.0, 1.0], "torch": [3.0, 2.5, 0.75]}}
    _, below = axes_of(curves.paired_curves, pairs, tmp_path / "pairs.png")
    assert below.lines[0].get_xydata().tolist() == [[2, 0.5], [3, 0.25]]  # no 0 on a log scale


def test_pictures_show_the_numbers_of_the_model(figures, report, tmp_path):
    """Bigrams and attention, in the right order and not transposed, with labels."""
    noise, V = np.random.RandomState(3), report.vocab.size
    tables, weights = noise.rand(2, V, V), noise.rand(2, 2, 3, 3)  # of two layers and two heads
    draw(report._replace(bigrams=BigramTables(*tables, 2), attention=[weights]), tmp_path)

    def shown(name, head=0):
        return figures[name].axes[head].images[0].get_array()

    for name, table in zip(("learned", "counted"), tables, strict=True):
        np.testing.assert_array_equal(shown(f"bigrams_{name}"), table)
    for layer in (0, 1):
        for head in (0, 1):
            table = shown(f"attention_1_{layer + 1}", head)
            np.testing.assert_array_equal(table, weights[layer, head])
    labels = figures["attention_1_1"].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == list("•ab")


def test_each_character_is_at_its_point(figures, tmp_path):
    points = np.array([[0.0, 0], [9, 0], [0, 9]])
    projection = Projection(points, np.array([0.75, 0.25]))
    learned.characters(projection, list("•ab"), tmp_path / "characters")
    (ax,) = figures["characters"].axes
    assert [text.get_text() for text in ax.texts] == list("•ab")
    assert_close([text.get_position() for text in ax.texts], points, 1e-3)
    assert [text.get_color() for text in ax.texts] == ["0.45", "tab:red", "tab:blue"]
    assert "75%" in ax.get_xlabel() and "25%" in ax.get_ylabel()


def test_pairs_that_are_too_probable_are_red(figures, tmp_path):
    model, counted = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    learned.difference(BigramTables(model, counted, 2), ["a", "b"], tmp_path / "difference")
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
def test_a_moved_data_file_and_another_seed(small_runs, tmp_path):
    """--data finds the data, and the samples are those of --seed."""
    folder = tmp_path / "run"
    shutil.copytree(small_runs / "bigram", folder, ignore=shutil.ignore_patterns("plots"))
    lose_data(folder)
    data = str(small_runs / "few.txt")
    done = plots_command("--workdir", folder, "--data", data, "--num", "9", "--seed", "5")
    assert done.returncode == 0, done.stderr
    page = (folder / "plots" / "index.html").read_text("utf-8")
    assert "<h2>Bigrams</h2>" in page
    shown = re.findall('data-label="ln p" class="number">(.*?)</td>', page)
    samples = collect(folder, None, seed=5, num=9, data=data).samples
    assert shown == [f"{sample.log_prob:.2f}" for sample in samples]


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
    lose_data(folder)
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
    with pytest.raises(UserError, match=r"^--workdir: .*plots can't be written: File exists"):
        write(report, tmp_path / "plots")
    with pytest.raises(UserError, match=r"^--out: .*plots can't be written: File exists"):
        write(report, tmp_path / "plots", "--out")
    assert (tmp_path / "plots").read_text("utf-8") == "mine"


def test_help_names_the_defaults():
    done = plots_command("--help")
    assert re.search(r"--num +number of samples \(20\)", done.stdout)


def test_without_matplotlib(small_runs, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')", "utf-8")
    done = plots_command("--workdir", small_runs / "bigram", fresh=True, PYTHONPATH=str(tmp_path))
    assert_one_line(done, "plots", "figures need matplotlib: pip install matplotlib")

"""Comparisons of several runs: the table and the charts."""

import base64
import html
import json
import re
import shutil

import pytest
from conftest import (
    assert_one_line,
)
from report_helpers import drawn_figures, plots_command

from makemore_jax import workdir
from makemore_jax.plots.comparison import draw_losses, draw_losses_by_time
from makemore_jax.report import (
    comparison,
)
from makemore_jax.report.facts import show_seconds
from makemore_jax.report.history import Curves


@pytest.fixture
def figures():
    with drawn_figures() as figures:
        yield figures


def test_comparison(small_runs, tmp_path):
    """One table, printed and on the page: config differences, losses, speed."""
    flags = [f"--workdir={small_runs / name}" for name in ("bigram", "transformer")]
    done = plots_command(*flags, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"index.html", "loss.png", "loss_by_time.png"}
    images = [(tmp_path / "out" / name).read_bytes() for name in ("loss.png", "loss_by_time.png")]
    assert images[0] != images[1]
    assert "data differ" not in done.stdout
    printed = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    ]
    rows = {name: cells for name, *cells in printed}
    assert rows[""] == ["bigram", "transformer"]
    assert rows["model.kind"] == ["bigram", "transformer"]
    assert rows["train.diagnose_every"] == ["None", "10"]
    assert "optimizer.learning_rate" not in rows and "data.path" not in rows
    summaries = [
        json.loads((small_runs / name / "summary.json").read_text("utf-8"))
        for name in ("bigram", "transformer")
    ]
    losses = [f"{summary['test_loss']:.4f}" for summary in summaries]
    best = int(summaries[0]["test_loss"] > summaries[1]["test_loss"])
    assert rows["test loss"][best] == f"{losses[best]} (best)"
    assert rows["test loss"][1 - best] == losses[1 - best]
    assert rows["parameters"] == [f"{summary['num_params']:,}" for summary in summaries]
    assert rows["steps/s"] == [f"{summary['steps_per_second']:,.1f}" for summary in summaries]
    assert rows["time"] == [show_seconds(summary["seconds"]) for summary in summaries]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    on_page = [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td.*?</td>", row)]
        for row in re.findall("<tr>(<td.*?)</tr>", page)
    ]
    assert on_page == printed[2:]
    assert "data differ" not in page
    assert page.count("src=") == 2
    shown = re.findall('src="data:image/png;base64,(.*?)" alt="(.*?)"', page)
    assert [(base64.b64decode(png), description) for png, description in shown] == [
        (images[0], "loss on train and dev by step"),
        (images[1], "loss on dev by time"),
    ]


@pytest.mark.slow
def test_a_warning_if_the_data_differ(small_runs, small_text_run, tmp_path):
    flags = [f"--workdir={run}" for run in (small_runs / "bigram", small_text_run / "run")]
    done = plots_command(*flags, "--out", tmp_path)
    assert "dev and test data differ between these runs" in done.stdout, done.stderr
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "dev and test data differ between these runs" in page


def test_comparison_of_unfinished_runs_and_different_data(small_runs, small_text_run, tmp_path):
    shutil.copytree(small_runs / "bigram", tmp_path / "bigram")
    (tmp_path / "bigram" / "summary.json").unlink()
    compared = comparison.read_runs(
        [tmp_path / "bigram", small_text_run / "run", small_runs / "bigram"]
    )
    assert [run.name for run in compared] == [
        *(str(tmp_path / "bigram"), str(small_text_run / "run"), str(small_runs / "bigram")),
    ]
    assert not comparison.have_same_data(compared)
    rows = {row.name: row for row in comparison.make_rows(compared)}
    assert rows["steps"].cells == ["20 of 20", "20", "20"]
    assert rows["test loss"].cells[0] == rows["device"].cells[0] == ""
    assert rows["dev loss"].cells[0] == rows["dev loss"].cells[2] != ""
    assert {row.best for row in rows.values()} == {None}
    assert comparison.have_same_data([compared[0], compared[2]])
    losses = Curves([(10, 2.0), (20, 1.0)], [(10, 2.5), (20, 2.75)], [], [(10, 2.0), (20, 4.0)])
    rows = comparison.make_rows([compared[0]._replace(curves=losses)])
    cells = {row.name: row.cells for row in rows}
    assert (cells["best step"], cells["dev loss"]) == (["10"], ["2.5000"])
    assert (cells["steps/s"], cells["time"]) == (["5.0"], ["4.0 s"])


def test_a_bar_in_a_name_stays_in_its_cell(small_runs):
    (run,) = comparison.read_runs([small_runs / "bigram"])
    table = comparison.as_markdown([run._replace(name="a|b")])
    assert table.splitlines()[0].split() == ["|", "|", r"a\|b", "|"]


def test_lines_that_were_dropped_make_different_data(small_runs):
    runs = [workdir.read(small_runs / "bigram") for _ in range(2)]
    for run, block_size in zip(runs, (13, 16), strict=True):
        run.config.data.block_size = block_size
    identities = [comparison._data_identity(run) for run in runs]
    assert identities[0] == identities[1]
    for run in runs:
        run.config.data.long_lines = "drop"
    identities = [comparison._data_identity(run) for run in runs]
    assert identities[0] != identities[1]


def test_another_seed_or_share_makes_different_data(small_runs, small_text_run):
    """Not another seed for the split of the lecture, which is always the same."""
    lines = [workdir.read(small_runs / "bigram") for _ in range(2)]
    lines[0].config.seed += 1
    texts = [workdir.read(small_text_run / "run") for _ in range(2)]
    texts[0].config.data.train_fraction = 0.5
    for first, second in (lines, texts):
        assert comparison._data_identity(first) != comparison._data_identity(second)
    for run in lines:
        run.config.data.split = "lecture"
    assert comparison._data_identity(lines[0]) == comparison._data_identity(lines[1])
    lines[0].config.train.eval_examples = 3  # losses of a part
    assert comparison._data_identity(lines[0]) != comparison._data_identity(lines[1])


def test_one_chart_has_the_curves_of_all_runs(figures, small_runs, tmp_path):
    compared = comparison.read_runs([small_runs / "bigram", small_runs / "transformer"])
    draw_losses(compared, tmp_path / "loss")
    (ax,) = figures["loss"].axes
    lines = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata())]
    curves = [getattr(r.curves, k) for r in compared for k in ("train_loss", "dev_loss")]
    assert lines == [[list(point) for point in curve] for curve in curves]
    handles, labels = ax.get_legend_handles_labels()
    styles = [(line.get_linestyle(), line.get_marker()) for line in handles]
    assert list(zip(labels, styles, strict=True)) == [
        *(("bigram", ("-", "o")), ("transformer", ("-", "o"))),
        *(("solid: dev", ("-", "None")), ("dashed: train", ("--", "None"))),
    ]
    draw_losses_by_time(compared, tmp_path / "time")
    seconds = dict(compared[1].curves.seconds)
    expected = [[seconds[step], loss] for step, loss in compared[1].curves.dev_loss]
    assert figures["time"].axes[0].lines[1].get_xydata().tolist() == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workdir={runs}/bigram", "--workdir={runs}/bigram/../bigram"), "appears twice"),
        (("--workdir={runs}/bigram", "--workdir={runs}/gone"), "gone has no run"),
        (("--workdir={runs}/bigram", "--workdir={runs}/transformer", "--num=3"), "--num: only"),
    ],
)
def test_errors_have_one_line(flags, message, small_runs, tmp_path):
    done = plots_command(
        *(flag.format(runs=small_runs) for flag in flags), "--out", tmp_path / "out"
    )
    assert_one_line(done, "plots", message)
    assert not (tmp_path / "out").exists()

"""Reading the layer statistics of a run, and drawing them."""

import json

import jax
import numpy as np
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    assert_close,
    read_metrics,
    small_model,
)
from report_helpers import BY_LAYER, BY_MATRIX, axes_of, drawn_figures

from makemore_jax.plots import diagnostics
from makemore_jax.plots.curves import losses_and_layers
from makemore_jax.report import (
    history,
)
from makemore_jax.report.collect import (
    collect,
)
from makemore_jax.report.history import Histogram


@pytest.fixture
def figures():
    with drawn_figures() as figures:
        yield figures


def histogram(low, high, std=1.0):
    return {"low": low, "high": high, "counts": [1, 3, 0], "mean": 0.0, "std": std}


def line_at(step, **changed):
    """Return a diagnostics line of metrics.jsonl for a model with two matrices."""
    layers, matrices = ("h tanh", "h relu"), ("lm_head.kernel", "wte.embedding")
    line = {
        "step": step,
        "saturated": dict.fromkeys(layers, 0.25),
        "dead": dict.fromkeys(layers, 0),
    }
    for kind in ("activations", "activation_gradients"):
        line[kind] = {layer: histogram(-1.0, 2.0) for layer in layers}
    line["grad_to_data"] = {"h.bias": 0.5, "lm_head.kernel": 0.1, "wte.embedding": None}
    line["update_to_data"] = {"h.bias": 0.5, "lm_head.kernel": 0.01, "wte.embedding": step / 1e4}
    line["gradients"] = {matrix: histogram(-0.1, 0.2) for matrix in matrices}
    return line | changed


PARAMS = ["wte.embedding", "h.bias", "lm_head.kernel"]


def read_lines(folder, lines):
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), "utf-8"
    )
    return history.read_diagnostics(folder, PARAMS)


def test_diagnostics_are_read(tmp_path):
    """Only matrices, in parameter order. null becomes nan, and its histogram is left out."""
    relu = {"h tanh": None, "h relu": 0.5}
    partly = {"h tanh": histogram(-1.0, 1.0), "h relu": histogram(None, None)}
    lines = [
        line_at(0, dead=relu),
        {"step": 5, "train_loss": 2.0, "learning_rate": 0.1},
        line_at(10),
        {"step": 10, "dev_loss": 2.0},
        line_at(20, activations=partly),
    ]
    read_lines(tmp_path, lines)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line_at(30))[:400])  # a training is writing this line
    result = history.read_diagnostics(tmp_path, PARAMS)
    assert result.steps == [0, 10, 20]
    np.testing.assert_equal(result.dead, {"h tanh": [np.nan, 0, 0], "h relu": [0.5, 0, 0]})
    assert result.saturated == {"h tanh": [0.25] * 3, "h relu": [0.25] * 3}
    assert list(result.update_to_data) == ["wte.embedding", "lm_head.kernel"]
    updates = {"wte.embedding": [0, 1e-3, 2e-3], "lm_head.kernel": [0.01] * 3}
    assert result.update_to_data == updates
    ratios = {"wte.embedding": [np.nan] * 3, "lm_head.kernel": [0.1] * 3}
    np.testing.assert_equal(result.grad_to_data, ratios)
    assert (result.first.step, result.last.step) == (0, 20)
    assert list(result.first.activations) == ["h tanh", "h relu"]
    assert result.last.activations == {"h tanh": Histogram(-1.0, 1.0, [1, 3, 0], 0.0, 1.0)}
    assert list(result.last.gradients) == ["wte.embedding", "lm_head.kernel"]


@pytest.mark.parametrize("lines", [[], [{"step": 5, "train_loss": 2.0, "learning_rate": 0.1}]])
def test_a_run_without_diagnostics(lines, tmp_path):
    assert history.read_diagnostics(tmp_path, PARAMS) is None  # there is no file
    assert read_lines(tmp_path, lines) is None


@pytest.mark.parametrize("kind", FAMILIES)
def test_parameter_order(kind):
    model, params = small_model(kind)
    result = history.parameter_order(model, BLOCK)
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    assert sorted(result) == sorted(names)
    if kind == "transformer":
        assert result[:2] == ["wte.embedding", "wpe.embedding"]
        assert result[2].startswith("h_0.ln_1") and result[-1].startswith("lm_head")


@pytest.mark.slow
def test_diagnostics_of_a_run(small_runs):
    """All parameters with two axes are read, with the names that training writes."""
    result = collect(small_runs / "transformer", None, seed=1, num=1).diagnostics
    lines = read_metrics(small_runs / "transformer")
    *_, last = (line for line in lines if "gradients" in line)
    assert result.steps == [0, 10, 20]
    assert result.update_to_data.keys() == last["gradients"].keys()
    for name, values in result.update_to_data.items():
        assert values[-1] == last["update_to_data"][name]
    assert result.saturated.keys() == last["saturated"].keys() != set()


def test_figures_show_the_numbers(figures, tmp_path):
    own = {"h tanh": histogram(-1.0, 2.0, std=0.25), "h relu": histogram(-1.0, 2.0, std=0.5)}
    gradients = {"h tanh": histogram(-4.0, 8.0)}
    lines = [line_at(step, activations=own, activation_gradients=gradients) for step in (0, 10, 20)]
    diagnostics.draw(read_lines(tmp_path, lines), tmp_path)
    assert set(figures) == {f"inside_{name}" for name in (BY_MATRIX | BY_LAYER)}
    (ax,) = figures["inside_updates"].axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines) == ["0.001, rule of thumb", "wte", "lm_head"]
    assert_close(lines["0.001, rule of thumb"], [1e-3, 1e-3])
    assert_close(lines["wte"], [0, 1e-3, 2e-3])
    assert ax.get_yscale() == "log"
    ratios = {line.get_label(): line.get_ydata() for line in figures["inside_ratios"].axes[0].lines}
    assert_close(ratios["lm_head"], [0.1] * 3)
    above, below = figures["inside_saturated"].axes
    assert_close(above.lines[0].get_ydata(), [0.25] * 3)
    assert_close(below.lines[0].get_ydata(), [0] * 3)
    (ax,) = figures["inside_activations"].axes
    tops, edges, baseline = ax.patches[0].get_data()
    assert baseline == 0 and np.argmin(tops) == 1  # the axis points down
    assert_close(edges, [-1, 0, 1, 2])
    filled = {patch.get_label(): patch.get_fill() for patch in ax.patches}
    assert (filled["step 0"], filled["step 20"]) == (False, True)
    stds = [text.get_text() for text in ax.texts]
    assert sorted(stds) == ["0.25", "0.25", "0.5", "0.5", "std"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["h tanh", "h relu"]
    names = [text.get_text() for text in figures["inside_activations"].legends[0].get_texts()]
    assert names == ["step 0", "step 20"]
    (ax,) = figures["inside_activation_gradients"].axes
    assert_close(ax.patches[0].get_data().edges, [-4, 0, 4, 8])
    (ax,) = figures["inside_gradients"].axes
    assert len(ax.patches) == 2  # only the last step


def test_activations_before_the_first_and_after_the_last_step(tmp_path):
    lines = [line_at(0), {"step": 5, "train_loss": 2.0}, {"step": 5, "dev_loss": 2.5}, line_at(10)]
    titles = [ax.get_title() for ax in axes_of(losses_and_layers, lines, tmp_path / "figure.png")]
    assert titles[1:] == ["activations after 0 steps", "activations after 10 steps"]


def test_a_histogram_of_equal_values_is_a_line(figures, tmp_path):
    result = Histogram(0.5, 0.5, [7, 0, 0], 0.5, 0.0)
    diagnostics.histograms({0: {"h relu": result}}, "", tmp_path / "one")
    (ax,) = figures["one"].axes
    (line,) = ax.collections
    assert_close(line.get_segments()[0][:, 0], [0.5, 0.5])
    assert not ax.patches and ax.get_xlim()[0] < 0.5 < ax.get_xlim()[1]


def test_figures_of_many_matrices(figures, tmp_path):
    """The legend names some of them, including the first and the last."""
    names = [f"h_{i}" for i in range(101)]
    diagnostics.ratios([0, 1], {name: [0.1, 0.2] for name in names}, "", tmp_path / "many", None)
    (legend,) = figures["many"].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) <= diagnostics.MAX_LEGEND_NAMES + 1 and (labels[0], labels[-1]) == (
        "h_0",
        "h_100",
    )
    assert len(figures["many"].axes[0].lines) == 101


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("lines", "drawn"),
    [
        ([line_at(0)], {"activations", "activation_gradients", "gradients"}),
        (
            [line_at(i, update_to_data={}, grad_to_data={"wte.embedding": 0.0}) for i in (0, 1)],
            BY_LAYER | {"gradients"},
        ),
        (
            [line_at(i, saturated={}, dead={}, gradients={}) for i in (0, 1)],
            set(),
        ),
        (
            [
                line_at(
                    i,
                    activations={"h relu": histogram(0.0, 0.0, std=0.0)},
                    activation_gradients={"h relu": histogram(None, None)},
                    gradients={"wte.embedding": histogram(0.0, 0.0, std=0.0)},
                )
                for i in (0, 1)
            ],
            {"saturated", "activations", "gradients", "updates"},
        ),
    ],
    ids=["one snapshot", "no ratio", "neither layers nor matrices", "all zero"],
)
def test_figures_without_data_are_left_out(lines, drawn, figures, tmp_path):
    diagnostics.draw(read_lines(tmp_path, lines), tmp_path)
    for figure in figures.values():
        figure.canvas.draw()
    assert set(figures) == {f"inside_{name}" for name in drawn}

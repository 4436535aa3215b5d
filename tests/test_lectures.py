"""Modules of the lecture notebooks: training without files, figures, no circular imports."""

import ast
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close, assert_same

from makemore_jax.cli import resources
from makemore_jax.config import Config
from makemore_jax.data_folder import DATA_VARIABLE
from makemore_jax.download import SOURCES, Source
from makemore_jax.errors import UserError
from makemore_jax.lectures import experiment
from makemore_jax.losses import mean_loss
from makemore_jax.training.step import gradients, make_train_step

FOLDER = ROOT / "makemore_jax" / "lectures"


def test_no_two_lecture_modules_import_each_other():
    """Imports at the top of a file, in functions and for type checkers count."""
    names = {file.stem for file in FOLDER.glob("*.py")}
    imports = {}
    for name in names:
        imported = set()
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                paths = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                imported |= {
                    path.rpartition("lectures.")[2] for path in paths if "lectures." in path
                }
        imports[name] = imported & names
    assert "autograd_picture" in imports["autograd"]  # check that the search finds imports
    reachable = {name: set(imported) for name, imported in imports.items()}
    for _ in names:
        for imported in reachable.values():
            imported |= set().union(*(reachable[name] for name in imported))
    assert [name for name in sorted(names) if name in reachable[name]] == []


@pytest.fixture(scope="module")
def start() -> experiment.Experiment:
    config = Config(seed=11)
    config.data.path = str(ROOT / "names.txt")
    config.data.kind, config.data.block_size = "windows", 3
    config.model.kind, config.model.n_layer = "window_mlp", 1
    config.model.n_embd, config.model.n_embd2 = 5, 11
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.train.batch_size = 7
    return experiment.prepare(config)


@pytest.mark.slow
def test_training_in_two_parts_equals_training_at_once(start):
    key = jax.random.key(3)
    whole, losses = experiment.train(start, 5, key)
    first, first_losses = experiment.train(start, 3, key)
    both, last_losses = experiment.train(first, 2, key)
    assert int(both.state.step) == 5 and losses.shape == (5,)
    assert_close(np.concatenate([first_losses, last_losses]), losses, 1e-6)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), both.state.params, whole.state.params)
    assert int(start.state.step) == 0  # experiments are immutable


def test_a_training_step_equals_the_step_of_the_core(start):
    """The batch depends on the key and the step."""
    first, _ = experiment.train(start, 3, jax.random.key(3))
    _, losses = experiment.train(first, 2, jax.random.key(3))
    step = jax.jit(make_train_step(gradients(start.model), start.optimizer, 7))
    _, metrics = step(
        first.state, start.dataset.splits["train"], jax.random.split(jax.random.key(3))
    )
    assert_close(losses[0], metrics["train_loss"], 1e-6)
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_vmap_trains_several_states(start):
    other = experiment.prepare(dataclasses.replace(start.config, seed=12), start.dataset)
    assert other.dataset is start.dataset
    states = jax.tree.map(lambda *a: jnp.stack(a), start.state, other.state)
    key, split = jax.random.key(3), start.dataset.splits["train"]

    def train(state):
        return experiment.train_state(start.model, start.optimizer, 7, 5, state, split, key)

    _, losses = jax.vmap(train)(states)
    for i, each in enumerate((start, other)):
        assert_close(losses[i], experiment.train(each, 5, key)[1], 1e-5)
    assert abs(losses[0] - losses[1]).max() > 1e-3


@pytest.mark.slow
def test_the_loss_over_a_split(start):
    split = start.dataset.splits["dev"]
    inputs, targets, _ = split.take(jnp.arange(split.size))
    logits = start.model.apply(start.state.variables, inputs)
    assert_close(experiment.evaluate(start, "dev"), float(mean_loss(logits, targets)), 1e-5)
    first = float(mean_loss(logits[:503], targets[:503]))
    assert_close(experiment.evaluate(start, "dev", max_examples=503), first, 1e-5)


def test_a_language_model_of_an_experiment(start):
    lm = experiment.language_model(start)
    assert (lm.max_len, lm.block_size) == (start.dataset.max_len, 3)
    assert_same(lm.variables, start.state.variables)


def test_prepare_refuses_a_config_as_train_does():
    config = Config()
    config.train.batch_size = 0
    with pytest.raises(UserError, match=r"train\.batch_size"):
        experiment.prepare(config)


def test_names_file_downloads_makemores_list(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(resources, "FOLDER", tmp_path / "checkout")
    (tmp_path / "makemore_names.txt").write_bytes(b"emma\n")
    sha256 = hashlib.sha256(b"emma\n").hexdigest()

    def set_url(url: str) -> None:
        monkeypatch.setitem(SOURCES, "names", Source("makemore_names.txt", url, sha256))

    set_url((tmp_path / "missing.txt").as_uri())
    assert experiment.names_file() == str(tmp_path / "checkout" / "names.txt")
    assert capsys.readouterr().out.endswith("using the project's own list, names.txt\n")
    set_url((tmp_path / "makemore_names.txt").as_uri())
    file = tmp_path / "checkout" / "data" / "makemore_names.txt"
    assert experiment.names_file() == str(file)
    assert file.read_bytes() == b"emma\n"
    set_url("file:///not/read/again")
    assert experiment.names_file() == str(file)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(resources, "FOLDER", tmp_path / "elsewhere")
    assert experiment.names_file() == str(tmp_path / "makemore_names.txt")
    assert capsys.readouterr().out == ""


@pytest.fixture
def pictures():
    """Return the module of figures. All figures must be closed, or a notebook shows them twice."""
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    pictures.plt.close("all")
    yield pictures
    assert pictures.plt.get_fignums() == []


def test_figure_of_loss_curves(pictures):
    """Points are means over 1% of the steps. The y-axis ignores the first tenth of them."""
    losses = np.concatenate([np.full(20, 50.0), np.linspace(3, 2, 680)])
    ax = pictures.loss_curves({"one": losses, "two": losses[20:90] - 1}).axes[0]
    one, two = ax.lines
    assert one.get_xdata()[:2].tolist() == [3.5, 10.5]
    assert_close(one.get_ydata(), losses.reshape(100, 7).mean(axis=1))
    assert_close(two.get_ydata(), losses[20:90] - 1)
    low, high = ax.get_ylim()
    assert 1 < low < losses[89] - 1 and 3 < high < 3.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]


def test_figure_of_characters(pictures):
    points = np.array([[0.0, 1], [2, 3], [5, 7]])
    texts = pictures.characters(points, [".", "$", "e"]).axes[0].texts
    assert [text.get_text() for text in texts] == [".", "$", "e"]
    assert [text.get_position() for text in texts] == [(0, 1), (2, 3), (5, 7)]
    assert [text.get_color() for text in texts] == ["tab:blue", "tab:blue", "tab:red"]


def test_figure_of_histograms(pictures):
    values = np.random.RandomState(3).randn(7, 11, 13)
    panels = {"first": {"a": values, "b": 10 * values}, "second": {"c": values}}
    first, second = pictures.histograms(panels).axes
    assert (first.get_title(), second.get_title()) == ("first", "second")
    a, b = first.lines
    for line, scale in ((a, 1), (b, 10)):
        x, density = line.get_data()
        assert_close(density.sum() * (x[1] - x[0]), 1.0)
        assert_close((x * density).sum() * (x[1] - x[0]), scale * values.mean(), 0.02 * scale)
    labels = [text.get_text() for text in first.get_legend().get_texts()]
    assert labels == [f"a, std {values.std():.2g}", f"b, std {10 * values.std():.2g}"]


def test_figure_of_a_tree(pictures):
    """Fusing nine symbols by three gives 9, 3 and 1 nodes, and a line for each but the last."""
    ax = pictures.tree(list("abcdefghi"), fuse=3).axes[0]
    assert [len(nodes.get_offsets()) for nodes in ax.collections] == [9, 3, 1]
    assert len(ax.lines) == 9 + 3
    assert ax.lines[0].get_data()[0].tolist() == [0, 1]
    assert [text.get_text() for text in ax.texts] == list("abcdefghi")
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["embeddings", "layer 1", "layer 2"]


def test_figures_of_attention(pictures, tmp_path):
    """Separate figures have the axes that attention.png combines."""
    tables = {name: np.tril(np.full((3, 3), 0.25)) for name in "abcd"}
    measures = {"entropy": np.array([[1.0, 2], [3, 4]]), "largest": np.array([[5.0, 6], [7, 8]])}
    weights = pictures.attention_weights(tables)
    scaling = pictures.score_scaling([2, 3], measures)
    both = pictures.attention(tables, [2, 3], measures, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    visible = [ax for ax in weights.axes if ax.get_visible()]
    assert [ax.get_title() for ax in visible] == list("abcd")
    assert len(both.axes) == len(weights.axes) + len(scaling.axes)
    for ax, title in zip(scaling.axes, measures, strict=True):
        assert ax.get_title() == title
        for line, values in zip(ax.lines, measures[title], strict=True):
            np.testing.assert_array_equal(line.get_ydata(), values)


def test_the_table_of_results_needs_no_matplotlib():
    """The notebooks import benchmarks.lectures, which must not switch their backend."""
    source = (ROOT / "benchmarks" / "lectures.py").read_text("utf-8")
    at_top = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    assert all("plots" not in node.module for node in at_top)

"""The page of a run: the numbers behind its pictures, and that it needs nothing but itself."""

import html
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    ROOT,
    VOCAB,
    assert_close,
    assert_one_line,
    read_metrics,
    run,
    small_config,
    small_model,
)

from makemore_jax import assemble, sampling, workdir
from makemore_jax.assemble import create_model, load_data
from makemore_jax.data.lines import encode
from makemore_jax.data.text_file import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.plots import curves, diagnostics, learned, style
from makemore_jax.plots.comparison import draw_losses, draw_losses_by_time
from makemore_jax.plots.write import write
from makemore_jax.report import (
    attention,
    bigrams,
    comparison,
    embeddings,
    facts,
    history,
    html_parts,
    page,
    samples,
    surprise,
)
from makemore_jax.report.collect import (
    MAX_TEXT_SAMPLES,
    check_names,
    collect,
    find_data,
    load_best_model,
)
from makemore_jax.report.history import Curves, Histogram
from makemore_jax.report.labels import char_class

CHARS = Vocab(tuple("abcdefghijklmnopqrstuvwxyz"[: VOCAB - 1]))
WORDS = ["dill", "a", "gecked", "fee"]
# Pictures of what was found inside.
BY_MATRIX = {"updates", "ratios", "gradients"}
BY_LAYER = {"saturated", "activations", "activation_gradients"}


def small_lm(kind: str) -> LanguageModel:
    model, params = small_model(kind)
    return LanguageModel(model, {"params": params}, CHARS, BLOCK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two families trained for a moment on a few lines, by name; of one with looks inside too."""
    folder = tmp_path_factory.mktemp("runs")
    words = (ROOT / "names.txt").read_text("utf-8").split()[:200]
    (folder / "few.txt").write_text("\n".join([*words, "élise"]), "utf-8")
    for name, every in (("bigram", None), ("bigram_inside", 10), ("transformer", 10)):
        config = small_config(name.removesuffix("_inside"), steps=20, log_every=5, eval_every=10)
        config.data.path, config.train.num_samples = str(folder / "few.txt"), 0
        config.train.diagnose_every = every
        assemble.train(config, str(folder / name))
    return folder


def command(*flags, **env):
    return run("-m", "makemore_jax.plots", *flags, **env)


def files_of(folder):
    """All files but those of the page, with what is in them."""
    found = (f for f in folder.rglob("*") if f.is_file() and f.parent.name != "plots")
    return {f: f.read_bytes() for f in found}


# The numbers.


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
def test_surprise_adds_up_to_the_log_probability(kind):
    lm = small_lm(kind)
    found = surprise.name_surprise(lm, WORDS)
    assert [len(nats) for nats in found] == [5, 2, 7, 4]
    assert_close([nats.sum() for nats in found], -np.array(sampling.score(lm, WORDS)))


def test_surprise_beyond_the_window():
    """A model that sees 3 characters reads names of more."""
    model = create_model(small_config("window_mlp").model, VOCAB, 3)
    variables = model.init(jax.random.key(3), np.zeros((1, 3), np.int32))
    lm = LanguageModel(model, variables, CHARS, BLOCK)
    found = surprise.name_surprise(lm, WORDS)
    assert [len(nats) for nats in found] == [5, 2, 7, 4]
    assert_close([nats.sum() for nats in found], -np.array(sampling.score(lm, WORDS)))


def test_surprise_of_a_bigram_is_read_off_its_table():
    lm = small_lm("bigram")
    p = jax.nn.softmax(lm.variables["params"]["logits"])
    expected = [-np.log(p[i, j]) for i, j in ((0, 6), (6, 5), (5, 5), (5, 0))]  # 0 f e e 0
    assert_close(surprise.name_surprise(lm, ["fee"])[0], expected)


def test_attention_is_a_distribution_over_the_past():
    lm = small_lm("transformer")
    found = attention.attention_weights(lm, WORDS)
    assert [a.shape for a in found] == [(2, 2, T, T) for T in (5, 2, 7, 4)]
    for weights in found:
        assert_close(weights.sum(axis=-1), np.ones(weights.shape[:-1]))
        assert (weights[..., *np.triu_indices(weights.shape[-1], 1)] == 0).all()
    assert found[0].std() > 0.1  # not all alike


@pytest.mark.versions
def test_attention_is_what_the_model_computes_with():
    """The weights by the values, through c_proj, are what the model's own c_proj gave."""
    lm = small_lm("transformer")
    (weights,) = attention.attention_weights(lm, ["gecked"])
    for layer, captured in enumerate(attention.capture_outputs(lm, ["gecked"])):
        v = np.split(np.asarray(captured["c_attn"]), 3, axis=-1)[2].reshape(7, 2, -1)  # T, nh, hs
        y = np.einsum("nts,snh->tnh", weights[layer], v).reshape(7, -1)
        c_proj = lm.variables["params"][f"h_{layer}"]["attn"]["c_proj"]
        assert_close(y @ c_proj["kernel"] + c_proj["bias"], captured["c_proj"][0])


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k != "transformer"])
def test_families_without_attention_show_none(kind):
    assert attention.attention_weights(small_lm(kind), WORDS) == []


def test_projection_finds_the_plane_in_which_points_lie():
    noise = np.random.RandomState(2)
    plane = noise.randn(11, 2) * [5, 2]
    plane -= plane.mean(axis=0)
    directions, _ = np.linalg.qr(noise.randn(7, 2))
    found = embeddings.project(plane @ directions.T + noise.randn(7))
    assert_close(found.shares.sum(), 1)
    assert found.shares[0] > found.shares[1]
    distances = [np.linalg.norm(a[:, None] - a, axis=-1) for a in (plane, found.points)]
    assert_close(*distances)
    assert_close(found.points[:, 0] @ found.points[:, 1], 0)
    assert (np.abs(found.points).max(axis=0) == found.points.max(axis=0)).all()


def test_projection_of_what_has_one_direction_alone():
    found = embeddings.project(np.array([[0.0], [1.0], [5.0]]))
    assert_close(found.points, [[-2, 0], [-1, 0], [3, 0]])
    assert_close(found.shares, [1, 0])


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_token_is_embedded_or_none(kind):
    found = embeddings.project_embeddings(small_lm(kind))
    assert found is None if kind == "bigram" else found.points.shape == (VOCAB, 2)


def test_kinds_of_characters():
    kinds = {c: char_class(c) for c in "aEéöxñ•7-я"}
    assert [c for c, kind in kinds.items() if kind == "vowel"] == list("aEéö")
    assert [c for c, kind in kinds.items() if kind == "other"] == list("•7-")


def test_bigrams_of_the_bigram_model_are_its_table():
    lm = small_lm("bigram")
    split = encode(WORDS * 3, CHARS, BLOCK)
    found = bigrams.learnt_bigrams(lm, split)
    stand = sorted({0, *CHARS.encode("".join(WORDS))})
    assert_close(found[stand], jax.nn.softmax(lm.variables["params"]["logits"])[np.array(stand)])
    others = [i for i in range(VOCAB) if i not in stand]
    assert others and np.isnan(found[others]).all()


@pytest.mark.slow
def test_learnt_bigrams_are_the_mean_of_the_predictions():
    """Over two batches, of which the last is not full, and over no line after the 600th."""
    lm = small_lm("transformer")
    noise = np.random.RandomState(4)
    words = ["".join(noise.choice(list("abcde"), noise.randint(1, BLOCK))) for _ in range(650)]
    words[600:] = ["f"] * 50
    split = encode(words, CHARS, BLOCK)
    found = bigrams.learnt_bigrams(lm, split, max_lines=600)
    inputs, targets, _ = split.take(np.arange(600))
    probs = np.asarray(jax.nn.softmax(lm.model.apply(lm.variables, inputs)))
    for token in range(6):
        stands = (np.asarray(inputs) == token) & (np.asarray(targets) != -1)
        assert_close(found[token], probs[stands].mean(axis=0))
    assert np.isnan(found[6:]).all()
    assert 300 < split.batch_size() < 600


def test_counted_bigrams_and_their_difference():
    found = bigrams.counted_bigrams(encode(["ab", "aab"], CHARS, BLOCK), VOCAB)
    a, b = 1, 2
    assert found[0, a] == 1 and found[b, 0] == 1
    assert_close(found[a, [a, b]], [1 / 3, 2 / 3])
    assert_close(found[:3].sum(axis=1), np.ones(3))
    assert np.isnan(found[3:]).all()
    learnt = found.copy()
    learnt[0, :2] = 0.25, 0.75
    assert_close(bigrams.BigramTables(learnt, found).difference, 0.5 / (3 * VOCAB))


def by_hand(a: str, b: str) -> int:
    """Levenshtein's distance as it is defined."""
    if not a or not b:
        return len(a) + len(b)
    rest = by_hand(a[1:], b[1:]) + (a[0] != b[0])
    return min(rest, by_hand(a[1:], b) + 1, by_hand(a, b[1:]) + 1)


def test_edit_distances():
    noise = np.random.RandomState(3)
    words = ["".join(noise.choice(list("abé"), noise.randint(0, 6))) for _ in range(60)]
    for text in ["", "a", "ab", "abéba", "bbbbbb"]:
        expected = [by_hand(text, word) for word in words]
        np.testing.assert_array_equal(samples.edit_distances(text, words), expected)


def test_nearest_words(monkeypatch):
    words = ["maria", "mariana", "ann", "anna", "elisabeth", "ann"]
    texts = ["mario", "anna", "anni", "", "lisabet", "nna"]
    expected = [("maria", 1), ("anna", 0), ("anna", 1), ("ann", 3), ("elisabeth", 2), ("anna", 1)]
    assert samples.nearest_words(texts, words) == expected
    monkeypatch.setattr(samples, "WORD_BATCH", 1)
    assert samples.nearest_words(texts, words) == expected


def test_nearest_of_all_names(names):
    """The distance is the least over all of train, whichever words are left out on the way."""
    texts = ["jonathon", "xqz", "maryannabella"]
    words = names.words["train"]
    least = [int(samples.edit_distances(text, words).min()) for text in texts]
    assert [edits for _, edits in samples.nearest_words(texts, words)] == least


# What was found inside.


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """An MLP trained for a moment on a text with newlines and markup."""
    folder = tmp_path_factory.mktemp("text")
    lines = [f"line {i}: <b>to</b> be & not {i * 7 % 11}" for i in range(90)]
    (folder / "few.txt").write_text("\n".join(lines), "utf-8")
    config = small_config("mlp", steps=20, log_every=10, eval_every=10)
    config.data.path, config.data.kind = str(folder / "few.txt"), "text"
    config.data.block_size, config.train.num_samples = BLOCK, 0
    assemble.train(config, str(folder / "run"))
    return folder


def test_surprise_of_a_passage(text_run):
    """Each character but the first once, in contexts of at least half the block size."""
    run_dir = text_run / "run"
    lm, _ = load_best_model(run_dir, workdir.read(run_dir))
    dev = find_data(workdir.read(run_dir), run_dir).splits["dev"]
    text, nats = surprise.read_passage(lm, dev, max_chars=50)
    source = (text_run / "few.txt").read_text("utf-8")
    assert text == source[int(0.9 * len(source)) :][:50]
    tokens = np.array(lm.vocab.encode(text))
    stride, apply = BLOCK // 2, jax.jit(lm.model.apply)
    for i in (1, 2, BLOCK, BLOCK + 1, 30, 49):
        crop = max(0, -(-(i - BLOCK) // stride))  # the first that has this target
        context = tokens[crop * stride : i]
        assert i <= BLOCK or len(context) > BLOCK // 2
        padded = np.pad(context, (0, BLOCK - len(context)))
        p = jax.nn.softmax(apply(lm.variables, padded[None])[0, len(context) - 1])
        assert_close(nats[i - 1], -np.log(p[tokens[i]]))


def test_passage_of_a_short_text(text_run):
    lm, _ = load_best_model(text_run / "run", workdir.read(text_run / "run"))
    for size in (1, 2, BLOCK + 1, BLOCK + 2):
        found = surprise.choose_passage(lm, None, "line 1: not to be"[:size])
        assert (found.text, found.source) == ("line 1: not to be"[:size], "first sample")
        assert found.nats.shape == (size - 1,) and np.isfinite(found.nats).all()


def test_page_of_a_text(text_run):
    """Samples keep their newlines, Surprise has every character, captions know no lines."""
    folder = text_run / "run"
    found = collect(folder, None, seed=5, num=20)
    assert len(found.samples) == MAX_TEXT_SAMPLES and "\n" in found.samples[0].text
    write(found, text_run / "page")
    page = (text_run / "page" / "index.html").read_text("utf-8")
    assert re.findall("<h2>(.*)</h2>", page) == [
        *("Training", "Samples", "Surprise", "The characters", "Config"),
    ]
    for sample in found.samples:
        assert f"<pre>\n{html.escape(sample.text)}</pre>" in page
    (spans,) = re.findall("<pre>(?!\n)(.*?)</pre>", page, re.DOTALL)
    text = html.unescape(re.sub("<[^>]*>", "", spans))
    assert text.replace("↵\n", "\n") == found.passage.text
    assert spans.count("<span") == len(found.passage.text) - 1
    prose = re.sub(r'base64,[^"]*|<style>.*?</style>|<pre>.*?</pre>', "", page, flags=re.DOTALL)
    assert not re.search(r"\blines?\b|•", prose)


@pytest.mark.parametrize("is_finished", [True, False])
def test_facts(runs, tmp_path, is_finished):
    """Config, device and duration, as far as the run has written them."""
    shutil.copytree(runs / "bigram", tmp_path / "run")
    if not is_finished:
        (tmp_path / "run" / "summary.json").unlink()
    found = collect(tmp_path / "run", None, seed=5, num=1).facts
    assert "model.kind=bigram" in found["config"] and "train.steps=20" in found["config"]
    assert "optimizer" not in found["config"]  # which is as the defaults have it
    assert ("device" in found) == is_finished
    if is_finished:
        assert found["device"] == f"1 cpu, jax {jax.__version__}"
        assert re.fullmatch(r"20 steps in [\d.]+ s \([\d,.]+ steps/s\)", found["training"])
    else:
        assert re.fullmatch(r"20 of 20 steps in [\d.]+ s, not finished", found["training"])


def test_durations():
    shown = {t: facts.show_seconds(t) for t in (0.04, 59.94, 59.96, 200, 3599.7, 7500)}
    assert list(shown.values()) == [
        *("0.0 s", "59.9 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "2 h 5 min"),
    ]


def test_probabilities_of_samples():
    assert page._one_in(-np.log(1234)) == "1,234"
    assert page._one_in(-100.0) == "10<sup>43</sup>"


def test_facts_are_plain_text():
    assert html_parts.facts({"a<b": "<i>&"}) == ("<dl><dt>a&lt;b</dt><dd>&lt;i&gt;&amp;</dd></dl>")


def test_letters_do_not_overlap():
    """Also where many start at the same position; those that have room stay."""
    points = np.concatenate([np.zeros((20, 2)), np.random.RandomState(6).randn(19, 2)])
    points = np.concatenate([points, [[50.0, 50.0]]])
    places = learned.separate(points, distance=0.5)
    gaps = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(len(places), dtype=bool)]
    assert gaps.min() > 0.49
    assert_close(places[-1], [50, 50])


def histogram(low, high, std=1.0):
    return {"low": low, "high": high, "counts": [1, 3, 0], "mean": 0.0, "std": std}


def found_at(step, **changed):
    """A line of metrics.jsonl as a look inside leaves it, of a model with two matrices."""
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


def inside_of(folder, lines):
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), "utf-8"
    )
    return history.read_diagnostics(folder, PARAMS)


def test_what_was_found_inside_is_read(tmp_path):
    """Matrices alone, in the order of the parameters; nan and no histogram where null stands."""
    relu = {"h tanh": None, "h relu": 0.5}
    partly = {"h tanh": histogram(-1.0, 1.0), "h relu": histogram(None, None)}
    lines = [
        found_at(0, dead=relu),
        {"step": 5, "train_loss": 2.0, "learning_rate": 0.1},
        found_at(10),
        {"step": 10, "dev_loss": 2.0},
        found_at(20, activations=partly),
    ]
    inside_of(tmp_path, lines)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found_at(30))[:400])  # it is being written
    found = history.read_diagnostics(tmp_path, PARAMS)
    assert found.steps == [0, 10, 20]
    np.testing.assert_equal(found.dead, {"h tanh": [np.nan, 0, 0], "h relu": [0.5, 0, 0]})
    assert found.saturated == {"h tanh": [0.25] * 3, "h relu": [0.25] * 3}
    assert list(found.update_to_data) == ["wte.embedding", "lm_head.kernel"]
    updates = {"wte.embedding": [0, 1e-3, 2e-3], "lm_head.kernel": [0.01] * 3}
    assert found.update_to_data == updates
    ratios = {"wte.embedding": [np.nan] * 3, "lm_head.kernel": [0.1] * 3}
    np.testing.assert_equal(found.grad_to_data, ratios)
    assert (found.first.step, found.last.step) == (0, 20)
    assert list(found.first.activations) == ["h tanh", "h relu"]
    assert found.last.activations == {"h tanh": Histogram(-1.0, 1.0, [1, 3, 0], 0.0, 1.0)}
    assert list(found.last.gradients) == ["wte.embedding", "lm_head.kernel"]


@pytest.mark.parametrize("lines", [[], [{"step": 5, "train_loss": 2.0, "learning_rate": 0.1}]])
def test_nothing_was_looked_at(lines, tmp_path):
    assert history.read_diagnostics(tmp_path, PARAMS) is None  # there is no file
    assert inside_of(tmp_path, lines) is None


@pytest.mark.parametrize("kind", FAMILIES)
def test_parameters_in_the_order_of_their_use(kind):
    model, params = small_model(kind)
    found = history.parameter_order(model, BLOCK)
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    assert sorted(found) == sorted(names)
    if kind == "transformer":
        assert found[:2] == ["wte.embedding", "wpe.embedding"]
        assert found[2].startswith("h_0.ln_1") and found[-1].startswith("lm_head")


@pytest.mark.slow
def test_the_looks_of_a_run_are_on_its_page(runs):
    """With the names that training writes, all of those that have two axes."""
    found = collect(runs / "transformer", None, seed=1, num=1).diagnostics
    lines = read_metrics(runs / "transformer")
    *_, last = (line for line in lines if "gradients" in line)
    assert found.steps == [0, 10, 20]
    assert found.update_to_data.keys() == last["gradients"].keys()
    for name, values in found.update_to_data.items():
        assert values[-1] == last["update_to_data"][name]
    assert found.saturated.keys() == last["saturated"].keys() != set()


@pytest.fixture
def figures(monkeypatch):
    """What is drawn, by the name of its file, instead of the files."""
    kept = {}
    monkeypatch.setattr(style, "save", lambda figure, file: kept.update({file.stem: figure}))
    yield kept
    for figure in kept.values():
        style.plt.close(figure)


def test_pictures_show_the_numbers(figures, tmp_path):
    found = inside_of(tmp_path, [found_at(0), found_at(10), found_at(20)])
    diagnostics.draw(found, tmp_path)
    assert set(figures) == {f"inside_{name}" for name in (BY_MATRIX | BY_LAYER)}
    (ax,) = figures["inside_updates"].axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines) == ["0.001, rule of thumb", "wte", "lm_head"]
    assert_close(lines["0.001, rule of thumb"], [1e-3, 1e-3])
    assert_close(lines["wte"], [0, 1e-3, 2e-3])
    assert ax.get_yscale() == "log"
    above, below = figures["inside_saturated"].axes
    assert_close(above.lines[0].get_ydata(), [0.25] * 3)
    assert_close(below.lines[0].get_ydata(), [0] * 3)
    (ax,) = figures["inside_activations"].axes
    tops, edges, baseline = ax.patches[0].get_data()
    assert baseline == 0 and np.argmin(tops) == 1  # the axis goes down
    assert_close(edges, [-1, 0, 1, 2])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["h tanh", "h relu"]
    names = [text.get_text() for text in figures["inside_activations"].legends[0].get_texts()]
    assert names == ["step 0", "step 20"]
    (ax,) = figures["inside_gradients"].axes
    assert len(ax.patches) == 2  # the last step alone


def test_a_single_number_is_drawn_as_a_line(figures, tmp_path):
    found = Histogram(0.5, 0.5, [7, 0, 0], 0.5, 0.0)
    diagnostics.histograms({0: {"h relu": found}}, "", tmp_path / "one")
    (ax,) = figures["one"].axes
    (line,) = ax.collections
    assert_close(line.get_segments()[0][:, 0], [0.5, 0.5])
    assert not ax.patches and ax.get_xlim()[0] < 0.5 < ax.get_xlim()[1]


def test_pictures_of_many_matrices(figures, tmp_path):
    """The legend names some of them, the first and the last among them."""
    names = [f"h_{i}" for i in range(101)]
    diagnostics.ratios([0, 1], {name: [0.1, 0.2] for name in names}, "", tmp_path / "many", None)
    (legend,) = figures["many"].legends
    told = [text.get_text() for text in legend.get_texts()]
    assert len(told) <= diagnostics.MAX_LEGEND_NAMES + 1 and (told[0], told[-1]) == ("h_0", "h_100")
    assert len(figures["many"].axes[0].lines) == 101


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("lines", "drawn"),
    [
        ([found_at(0)], {"activations", "activation_gradients", "gradients"}),
        (
            [found_at(i, update_to_data={}, grad_to_data={"wte.embedding": 0.0}) for i in (0, 1)],
            BY_LAYER | {"gradients"},
        ),
        (
            [found_at(i, saturated={}, dead={}, gradients={}) for i in (0, 1)],
            set(),
        ),
        (
            [
                found_at(
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
    ids=["one look", "no ratio", "neither layers nor matrices", "all zero"],
)
def test_what_cannot_be_drawn_is_left_out(lines, drawn, figures, tmp_path):
    diagnostics.draw(inside_of(tmp_path, lines), tmp_path)
    for figure in figures.values():
        figure.canvas.draw()
    assert set(figures) == {f"inside_{name}" for name in drawn}


def test_the_best_step_is_marked_at_its_dev_loss(figures, tmp_path):
    found = Curves([(10, 3.0), (20, 2.0)], [(10, 3.5), (20, 2.5)], [(1, 0.1)], [(10, 1.0)])
    curves.loss_curves(found, 20, tmp_path / "loss")
    (best,) = (line for line in figures["loss"].axes[0].lines if line.get_marker() == "*")
    assert best.get_xydata().tolist() == [[20, 2.5]]
    assert best.get_label() == "best, 2.5000"


def test_red_is_what_the_model_gives_too_much(figures, tmp_path):
    learnt, counted = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    learned.difference(bigrams.BigramTables(learnt, counted), ["a", "b"], tmp_path / "difference")
    (image,) = figures["difference"].axes[0].images
    assert image.get_array().tolist() == [[0.25, -0.25], [0, 0]]
    assert image.cmap(image.norm(0.25))[0] > image.cmap(image.norm(0.25))[2]  # more red than blue


# The command.


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        pytest.param("bigram", set(), marks=pytest.mark.slow),
        pytest.param("bigram_inside", BY_MATRIX, marks=pytest.mark.slow),
        ("transformer", BY_MATRIX | BY_LAYER),
    ],
)
def test_command(runs, kind, inside):
    """Writes the page and its pictures, and leaves the run as it was."""
    folder = runs / kind
    before = files_of(folder)
    done = command("--workdir", folder, "--num", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "plots" / "index.html") in done.stdout
    assert files_of(folder) == before
    expected = {"loss", "learning_rate"}
    expected |= {f"bigrams_{name}" for name in ("learnt", "counted", "difference")}
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
def test_other_names(runs, tmp_path):
    """The pictures of an earlier call go, and nothing else that lies there."""
    (tmp_path / "attention_2_1.png").write_bytes(b"")
    (tmp_path / "mine.png").write_bytes(b"")
    found = collect(runs / "transformer", ["élise"], seed=5, num=4)
    write(found, tmp_path)
    now = {file.stem for file in tmp_path.glob("[am]*.png")}
    assert now == {"attention_1_1", "attention_1_2", "mine"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<tr>") == 1 + 4 + 1 and "<h3>élise</h3>" in page


@pytest.mark.slow
def test_looks_of_an_earlier_call_go(runs, tmp_path):
    """As where a run was trained anew without them."""
    found = collect(runs / "bigram_inside", None, seed=5, num=1)
    write(found, tmp_path)
    assert {file.stem for file in tmp_path.glob("inside_*.png")} == {
        f"inside_{name}" for name in BY_MATRIX
    }
    write(found._replace(diagnostics=None), tmp_path)
    assert not list(tmp_path.glob("inside_*.png"))
    assert "<h2>Inside</h2>" not in (tmp_path / "index.html").read_text("utf-8")


def test_what_is_collected(runs):
    """Samples and places as sample.py tells them; losses and the best step as training wrote."""
    found = collect(runs / "bigram", None, seed=5, num=40)
    known = workdir.read(runs / "bigram")
    lm, best_step = load_best_model(runs / "bigram", known)
    drawn = sampling.sample(lm, jax.random.key(5), 40)
    dataset = load_data(known.config.data, known.config.seed)
    assert [(line.text, line.log_prob) for line in found.samples] == [line[:2] for line in drawn]
    assert [line.found_in for line in found.samples] == dataset.found_in(
        [d.text for d in drawn], [d.is_cut for d in drawn]
    )
    for line in found.samples:
        assert line.nearest in dataset.words["train"]
        assert (line.edits == 0) == (line.found_in == "train")
    assert found.names == dataset.words["dev"][:3]
    summary = json.loads((runs / "bigram" / "summary.json").read_text("utf-8"))
    assert found.best_step == best_step == summary["best_step"]
    assert dict(found.curves.dev_loss)[best_step] == summary["dev_loss"]
    assert [step for step, _ in found.curves.train_loss] == [5, 10, 15, 20]
    assert found.curves.learning_rate == [(i, pytest.approx(5e-4)) for i in range(1, 21)]


def test_without_data_and_metrics(runs, tmp_path):
    """As of a run that was converted and carried to another machine."""
    folder = tmp_path / ("a <b>run<b>" if os.name == "posix" else "a &run")
    shutil.copytree(runs / "bigram", folder, ignore=shutil.ignore_patterns("plots", "metrics.*"))
    content = json.loads((folder / "config.json").read_text("utf-8"))
    content["data_file"] = str(tmp_path / "gone.txt")
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    found = collect(folder, None, seed=1, num=5)
    assert found.names == list(dict.fromkeys(d.text for d in found.samples if d.text))[:3]
    write(found, folder / "plots")
    assert [file.name for file in (folder / "plots").iterdir()] == ["index.html"]
    page = (folder / "plots" / "index.html").read_text("utf-8")
    assert re.findall("<h2>(.*)</h2>", page) == ["Samples", "Surprise", "Config"]
    assert "gone.txt, missing or changed" in page
    assert "<b>" not in page and "a &lt;b&gt;run&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["fee", "Zoe"], "--names: 'Zoe' has 'Z', which is not in the vocabulary"),
        (["feefeef"], "'feefeef' has 7 characters; the lines of this model have at most 6"),
        (["fee", ""], "--names: a name is empty"),
    ],
)
def test_bad_names(names, told):
    with pytest.raises(UserError, match=re.escape(told)):
        check_names(names, CHARS, BLOCK)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--workdir", "{tmp}/none"), "none holds no run"),
        (("--names", "anna"), "--workdir is missing"),
        (("--workdir", "{run}", "--names", "anna,Zoe"), "'Zoe' has 'Z'"),
        (("--workdir", "{run}", "--names=", "--num=1"), "--names is empty"),
        (("--workdir", "{run}", "--num", "0"), "--num: 0 must be at least 1"),
    ],
)
def test_bad_input_ends_in_one_line(flags, told, runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "bigram", folder, ignore=shutil.ignore_patterns("plots"))
    done = command(*(flag.format(run=folder, tmp=tmp_path) for flag in flags))
    assert_one_line(done, "plots", told)
    assert not (folder / "plots").exists() and not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written(runs, tmp_path):
    (tmp_path / "plots").write_text("mine", "utf-8")
    found = collect(runs / "bigram", None, seed=1, num=1)
    with pytest.raises(UserError, match="plots can't be written: File exists"):
        write(found, tmp_path / "plots")
    assert (tmp_path / "plots").read_text("utf-8") == "mine"


def test_help_names_the_defaults():
    done = command("--help")
    assert re.search(r"--num +number of samples \(20\)", done.stdout)


def test_without_matplotlib(runs, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')", "utf-8")
    done = command("--workdir", runs / "bigram", fresh=True, PYTHONPATH=str(tmp_path))
    assert_one_line(done, "plots", "figures need matplotlib: pip install matplotlib")


# Several runs.


def test_comparison(runs, tmp_path):
    """One table, printed and on the page: config differences, losses, speed."""
    flags = [f"--workdir={runs / name}" for name in ("bigram", "transformer")]
    done = command(*flags, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"index.html", "loss.png", "loss_by_time.png"}
    images = [(tmp_path / "out" / name).read_bytes() for name in ("loss.png", "loss_by_time.png")]
    assert images[0] != images[1]
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
        json.loads((runs / name / "summary.json").read_text("utf-8"))
        for name in ("bigram", "transformer")
    ]
    losses = [f"{summary['test_loss']:.4f}" for summary in summaries]
    best = int(summaries[0]["test_loss"] > summaries[1]["test_loss"])
    assert rows["test loss"][best] == f"{losses[best]} (best)"
    assert rows["test loss"][1 - best] == losses[1 - best]
    assert rows["parameters"] == [f"{summary['num_params']:,}" for summary in summaries]
    assert rows["steps/s"] == [f"{summary['steps_per_second']:,.1f}" for summary in summaries]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    on_page = [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td.*?</td>", row)]
        for row in re.findall("<tr>(<td.*?)</tr>", page)
    ]
    assert on_page == printed[2:]
    assert page.count('src="data:image/png;base64,') == page.count("src=") == 2


def test_comparison_of_other_data_and_of_a_run_that_is_not_finished(runs, text_run, tmp_path):
    shutil.copytree(runs / "bigram", tmp_path / "bigram")
    (tmp_path / "bigram" / "summary.json").unlink()
    compared = comparison.read_runs([tmp_path / "bigram", text_run / "run", runs / "bigram"])
    assert [run.name for run in compared] == [
        *(str(tmp_path / "bigram"), str(text_run / "run"), str(runs / "bigram")),
    ]
    assert not comparison.have_same_data(compared)
    rows = {row.name: row for row in comparison.make_rows(compared)}
    assert rows["steps"].cells == ["20 of 20", "20", "20"]
    assert rows["test loss"].cells[0] == rows["device"].cells[0] == ""
    assert rows["dev loss"].cells[0] == rows["dev loss"].cells[2] != ""
    assert {row.best for row in rows.values()} == {None}
    assert comparison.have_same_data([compared[0], compared[2]])


def test_curves_of_all_runs_are_in_one_chart(figures, runs, tmp_path):
    compared = comparison.read_runs([runs / "bigram", runs / "transformer"])
    draw_losses(compared, tmp_path / "loss")
    (ax,) = figures["loss"].axes
    lines = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata())]
    curves = [getattr(r.curves, k) for r in compared for k in ("train_loss", "dev_loss")]
    assert lines == [[list(point) for point in curve] for curve in curves]
    draw_losses_by_time(compared, tmp_path / "time")
    seconds = dict(compared[1].curves.seconds)
    expected = [[seconds[step], loss] for step, loss in compared[1].curves.dev_loss]
    assert figures["time"].axes[0].lines[1].get_xydata().tolist() == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workdir={runs}/bigram", "--workdir={runs}/bigram/../bigram"), "appears twice"),
        (("--workdir={runs}/bigram", "--workdir={runs}/gone"), "gone holds no run"),
        (("--workdir={runs}/bigram", "--workdir={runs}/transformer", "--num=3"), "--num: only"),
    ],
)
def test_bad_comparisons_end_in_one_line(flags, message, runs, tmp_path):
    done = command(*(flag.format(runs=runs) for flag in flags), "--out", tmp_path / "out")
    assert_one_line(done, "plots", message)
    assert not (tmp_path / "out").exists()

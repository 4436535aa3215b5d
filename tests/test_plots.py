"""The page of a run: the numbers behind its pictures, and that it needs nothing but itself."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from conftest import BLOCK, FAMILIES, ROOT, VOCAB, assert_close, run, small_config, small_model

from makemore_jax import data, report, sampling, workdir
from makemore_jax.data.lines import encode
from makemore_jax.data.text_file import Vocab
from makemore_jax.errors import UserError
from makemore_jax.plots import write
from makemore_jax.sampling import LanguageModel
from makemore_jax.training import loop

CHARS = Vocab(tuple("abcdefghijklmnopqrstuvwxyz"[: VOCAB - 1]))
WORDS = ["dill", "a", "gecked", "fee"]


def small_lm(kind: str) -> LanguageModel:
    model, params = small_model(kind)
    return LanguageModel(model, {"params": params}, CHARS, BLOCK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two families trained for a moment on a few lines, by their name."""
    folder = tmp_path_factory.mktemp("runs")
    words = (ROOT / "names.txt").read_text("utf-8").split()[:200]
    (folder / "few.txt").write_text("\n".join([*words, "élise"]), "utf-8")
    for kind in ("bigram", "transformer"):
        config = small_config(kind, steps=20, log_every=5, eval_every=10, num_samples=0)
        config.data.path = str(folder / "few.txt")
        loop.train(config, str(folder / kind))
    return folder


def plots(*flags, **env):
    return run("-m", "makemore_jax.plots", *flags, **env)


def files_of(folder):
    """All files but those of the page, with what is in them."""
    found = (f for f in folder.rglob("*") if f.is_file() and f.parent.name != "plots")
    return {f: f.read_bytes() for f in found}


# The numbers.


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
def test_surprise_adds_up_to_the_log_probability(kind):
    lm = small_lm(kind)
    found = report.surprise(lm, WORDS)
    assert [len(nats) for nats in found] == [5, 2, 7, 4]
    assert_close([nats.sum() for nats in found], -np.array(sampling.score(lm, WORDS)))


def test_surprise_of_a_bigram_is_read_off_its_table():
    lm = small_lm("bigram")
    p = jax.nn.softmax(lm.variables["params"]["logits"])
    expected = [-np.log(p[i, j]) for i, j in ((0, 6), (6, 5), (5, 5), (5, 0))]  # 0 f e e 0
    assert_close(report.surprise(lm, ["fee"])[0], expected)


def test_attention_is_a_distribution_over_the_past():
    lm = small_lm("transformer")
    found = report.attention_weights(lm, WORDS)
    assert [a.shape for a in found] == [(2, 2, T, T) for T in (5, 2, 7, 4)]
    for weights in found:
        assert_close(weights.sum(axis=-1), np.ones(weights.shape[:-1]))
        assert (weights[..., *np.triu_indices(weights.shape[-1], 1)] == 0).all()
    assert found[0].std() > 0.1  # not all alike


def test_attention_is_what_the_model_computes_with():
    """The weights by the values, through c_proj, are what the model's own c_proj gave."""
    lm = small_lm("transformer")
    (weights,) = report.attention_weights(lm, ["gecked"])
    for layer, captured in enumerate(report._captured(lm, ["gecked"])):
        v = np.split(np.asarray(captured["c_attn"]), 3, axis=-1)[2].reshape(7, 2, -1)  # T, nh, hs
        y = np.einsum("nts,snh->tnh", weights[layer], v).reshape(7, -1)
        c_proj = lm.variables["params"][f"h_{layer}"]["attn"]["c_proj"]
        assert_close(y @ c_proj["kernel"] + c_proj["bias"], captured["c_proj"][0])


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k != "transformer"])
def test_families_without_attention_show_none(kind):
    assert report.attention_weights(small_lm(kind), WORDS) == []


def test_projection_finds_the_plane_in_which_points_lie():
    noise = np.random.RandomState(2)
    plane = noise.randn(11, 2) * [5, 2]
    plane -= plane.mean(axis=0)
    directions, _ = np.linalg.qr(noise.randn(7, 2))
    found = report.project(plane @ directions.T + noise.randn(7))
    assert_close(found.shares.sum(), 1)
    assert found.shares[0] > found.shares[1]
    distances = [np.linalg.norm(a[:, None] - a, axis=-1) for a in (plane, found.points)]
    assert_close(*distances)
    assert_close(found.points[:, 0] @ found.points[:, 1], 0)
    assert (np.abs(found.points).max(axis=0) == found.points.max(axis=0)).all()


def test_projection_of_what_has_one_direction_alone():
    found = report.project(np.array([[0.0], [1.0], [5.0]]))
    assert_close(found.points, [[-2, 0], [-1, 0], [3, 0]])
    assert_close(found.shares, [1, 0])


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_token_is_embedded_or_none(kind):
    found = report.embedded_characters(small_lm(kind))
    assert found is None if kind == "bigram" else found.points.shape == (VOCAB, 2)


def test_kinds_of_characters():
    kinds = {c: report.kind_of(c) for c in "aEéöxñ•7-я"}
    assert [c for c, kind in kinds.items() if kind == "vowel"] == list("aEéö")
    assert [c for c, kind in kinds.items() if kind == "other"] == list("•7-")


def test_bigrams_of_the_bigram_model_are_its_table():
    lm = small_lm("bigram")
    split = encode(WORDS * 3, CHARS, BLOCK)
    found = report.learnt_bigrams(lm, split)
    stand = sorted({0, *CHARS.encode("".join(WORDS))})
    assert_close(found[stand], jax.nn.softmax(lm.variables["params"]["logits"])[np.array(stand)])
    others = [i for i in range(VOCAB) if i not in stand]
    assert others and np.isnan(found[others]).all()


def test_learnt_bigrams_are_the_mean_of_the_predictions():
    """Over two batches, of which the last is not full, and over no line after the 600th."""
    lm = small_lm("transformer")
    noise = np.random.RandomState(4)
    words = ["".join(noise.choice(list("abcde"), noise.randint(1, BLOCK))) for _ in range(650)]
    words[600:] = ["f"] * 50
    split = encode(words, CHARS, BLOCK)
    found = report.learnt_bigrams(lm, split, at_most=600)
    inputs, targets = split.take(np.arange(600))
    probs = np.asarray(jax.nn.softmax(lm.model.apply(lm.variables, inputs)))
    for token in range(6):
        stands = (np.asarray(inputs) == token) & (np.asarray(targets) != -1)
        assert_close(found[token], probs[stands].mean(axis=0))
    assert np.isnan(found[6:]).all()
    assert 300 < split.batch_size() < 600


def test_counted_bigrams_and_their_difference():
    found = report.counted_bigrams(encode(["ab", "aab"], CHARS, BLOCK), VOCAB)
    a, b = 1, 2
    assert found[0, a] == 1 and found[b, 0] == 1
    assert_close(found[a, [a, b]], [1 / 3, 2 / 3])
    assert_close(found[:3].sum(axis=1), np.ones(3))
    assert np.isnan(found[3:]).all()
    learnt = found.copy()
    learnt[0, :2] = 0.25, 0.75
    assert_close(report.Bigrams(learnt, found).difference, 0.5 / (3 * VOCAB))


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
        np.testing.assert_array_equal(report.edit_distances(text, words), expected)


def test_nearest_words(monkeypatch):
    words = ["maria", "mariana", "ann", "anna", "elisabeth", "ann"]
    texts = ["mario", "anna", "anni", "", "lisabet", "nna"]
    expected = [("maria", 1), ("anna", 0), ("anna", 1), ("ann", 3), ("elisabeth", 2), ("anna", 1)]
    assert report.nearest(texts, words) == expected
    monkeypatch.setattr(report, "WORDS_AT_ONCE", 1)
    assert report.nearest(texts, words) == expected


def test_nearest_of_all_names(names):
    """The distance is the least over all of train, whichever words are left out on the way."""
    texts = ["jonathon", "xqz", "maryannabella"]
    words = names.words["train"]
    least = [int(report.edit_distances(text, words).min()) for text in texts]
    assert [edits for _, edits in report.nearest(texts, words)] == least


# The command.


@pytest.mark.parametrize("kind", ["bigram", "transformer"])
def test_command(runs, kind):
    """Writes the page and its pictures, and leaves the run as it was."""
    folder = runs / kind
    before = files_of(folder)
    done = plots("--workdir", folder, "--num", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "plots" / "index.html") in done.stdout
    assert files_of(folder) == before
    expected = {"loss", "learning_rate"}
    expected |= {f"bigrams_{name}" for name in ("learnt", "counted", "difference")}
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


def test_other_names(runs, tmp_path):
    """The pictures of an earlier call go, and nothing else that lies there."""
    (tmp_path / "attention_2_1.png").write_bytes(b"")
    (tmp_path / "mine.png").write_bytes(b"")
    found = report.collect(runs / "transformer", ["élise"], seed=5, num=4)
    write(found, tmp_path)
    now = {file.stem for file in tmp_path.glob("[am]*.png")}
    assert now == {"attention_1_1", "attention_1_2", "mine"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<tr>") == 1 + 4 + 1 and "<h3>élise</h3>" in page


def test_what_is_collected(runs):
    """Samples and places as sample.py tells them; losses and the best step as training wrote."""
    found = report.collect(runs / "bigram", None, seed=5, num=40)
    known = workdir.read(runs / "bigram")
    lm, best_step = report.load(runs / "bigram", known)
    drawn = sampling.sample(lm, jax.random.key(5), 40)
    dataset = data.load(known.config.data, known.config.seed)
    assert [(line.text, line.log_prob) for line in found.samples] == drawn
    assert [line.found_in for line in found.samples] == dataset.found_in([d.text for d in drawn])
    for line in found.samples:
        assert line.nearest in dataset.words["train"]
        assert (line.edits == 0) == (line.found_in == "train")
    assert found.names == dataset.words["dev"][:3]
    summary = json.loads((runs / "bigram" / "summary.json").read_text())
    assert found.best_step == best_step == summary["best_step"]
    assert dict(found.curves.dev_loss)[best_step] == summary["dev_loss"]
    assert [step for step, _ in found.curves.train_loss] == [5, 10, 15, 20]
    assert found.curves.learning_rate == [(i, pytest.approx(5e-4)) for i in range(1, 21)]


def test_without_data_and_metrics(runs, tmp_path):
    """As of a run that was converted and carried to another machine."""
    folder = tmp_path / "a <b>run<b>"
    shutil.copytree(runs / "bigram", folder, ignore=shutil.ignore_patterns("plots", "metrics.*"))
    content = json.loads((folder / "config.json").read_text())
    content["data_file"] = str(tmp_path / "gone.txt")
    (folder / "config.json").write_text(json.dumps(content))
    found = report.collect(folder, None, seed=1, num=5)
    assert found.names == list(dict.fromkeys(d.text for d in found.samples if d.text))[:3]
    write(found, folder / "plots")
    assert [file.name for file in (folder / "plots").iterdir()] == ["index.html"]
    page = (folder / "plots" / "index.html").read_text("utf-8")
    assert re.findall("<h2>(.*)</h2>", page) == ["Samples", "Surprise"]
    assert "gone.txt, gone or changed since" in page
    assert "<b>" not in page and "a &lt;b&gt;run&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["fee", "Zoe"], "--names: training never saw 'Z', which is in 'Zoe'"),
        (["feefeef"], "'feefeef' has 7 characters; the lines of this model have at most 6"),
        (["fee", ""], "--names: one of them is empty"),
    ],
)
def test_bad_names(names, told):
    with pytest.raises(UserError, match=re.escape(told)):
        report.check_names(names, CHARS, BLOCK)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--workdir", "{tmp}/none"), "none holds no run"),
        (("--names", "anna"), "--workdir is missing"),
        (("--workdir", "{run}", "--names", "anna,Zoe"), "never saw 'Z', which is in 'Zoe'"),
        (("--workdir", "{run}", "--names=", "--num=1"), "--names: none is given"),
        (("--workdir", "{run}", "--num", "0"), "--num: 0 must be at least 1"),
    ],
)
def test_bad_input_ends_in_one_line(flags, told, runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "bigram", folder, ignore=shutil.ignore_patterns("plots"))
    done = plots(*(flag.format(run=folder, tmp=tmp_path) for flag in flags))
    assert_one_line(done, told)
    assert not (folder / "plots").exists() and not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written(runs, tmp_path):
    (tmp_path / "plots").write_text("mine")
    found = report.collect(runs / "bigram", None, seed=1, num=1)
    with pytest.raises(UserError, match="plots can't be written: File exists"):
        write(found, tmp_path / "plots")
    assert (tmp_path / "plots").read_text() == "mine"


def test_without_matplotlib(runs, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')")
    done = plots("--workdir", runs / "bigram", PYTHONPATH=str(tmp_path))
    assert_one_line(done, 'pictures need matplotlib: pip install -e ".[plots]"')


def assert_one_line(done, told):
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("plots: ") and told in line

"""The numbers of a report, compared with direct computations."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    VOCAB,
    assert_close,
    small_config,
)
from report_helpers import CHARS, WORDS, small_lm

from makemore_jax import assemble, sampling, scoring, workdir
from makemore_jax.assemble import create_model, load_data
from makemore_jax.data.lines import encode
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.report import (
    attention,
    bigrams,
    embeddings,
    facts,
    history,
    page,
    samples,
    surprise,
)
from makemore_jax.report.collect import (
    check_names,
    collect,
    find_data,
    load_best_model,
)
from makemore_jax.report.labels import char_class, token_labels

WITH_ATTENTION = ("transformer", "modern")


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
def test_surprise_adds_up_to_the_log_probability(kind):
    lm = small_lm(kind)
    result = surprise.name_surprise(lm, WORDS)
    assert [len(nats) for nats in result] == [5, 2, 7, 4]
    assert_close([nats.sum() for nats in result], -np.array(scoring.score(lm, WORDS)))


@pytest.mark.slow
def test_surprise_of_names_longer_than_the_window():
    model = create_model(small_config("window_mlp").model, VOCAB, 3)
    variables = model.init(jax.random.key(3), np.zeros((1, 3), np.int32))
    lm = LanguageModel(model, variables, CHARS, BLOCK)
    result = surprise.name_surprise(lm, WORDS)
    assert [len(nats) for nats in result] == [5, 2, 7, 4]
    assert_close([nats.sum() for nats in result], -np.array(scoring.score(lm, WORDS)))


def test_names_that_a_model_can_not_read_are_refused():
    """A notebook calls these functions directly. One long name must not change the others."""
    lm = small_lm("transformer")
    for name, message in (("a" * 99, "has 99 characters"), ("aZ", "never saw 'Z'")):
        for function in (surprise.name_surprise, attention.attention_weights):
            with pytest.raises(UserError, match=message):
                function(lm, ["a", name])
    assert surprise.name_surprise(lm, []) == []


def test_surprise_of_a_bigram_comes_from_its_table():
    lm = small_lm("bigram")
    p = jax.nn.softmax(lm.variables["params"]["logits"])
    expected = [-np.log(p[i, j]) for i, j in ((0, 6), (6, 5), (5, 5), (5, 0))]  # 0 f e e 0
    assert_close(surprise.name_surprise(lm, ["fee"])[0], expected)


def test_surprise_of_a_passage(small_text_run):
    """Every character but the first occurs once, with a context of at least half the block size."""
    run_dir = small_text_run / "run"
    lm, _ = load_best_model(run_dir, workdir.read(run_dir))
    dev = find_data(workdir.read(run_dir), run_dir).splits["dev"]
    text, nats = surprise.read_passage(lm, dev, max_chars=50)
    source = (small_text_run / "few.txt").read_text("utf-8")
    assert text == source[int(0.9 * len(source)) :][:50]
    tokens = np.array(lm.vocab.encode(text))
    stride, apply = BLOCK // 2, jax.jit(lm.model.apply)
    for i in (1, 2, BLOCK, BLOCK + 1, 30, 49):
        crop = max(0, -(-(i - BLOCK) // stride))  # the first crop with this target
        context = tokens[crop * stride : i]
        assert i <= BLOCK or len(context) > BLOCK // 2
        padded = np.pad(context, (0, BLOCK - len(context)))
        p = jax.nn.softmax(apply(lm.variables, padded[None])[0, len(context) - 1])
        assert_close(nats[i - 1], -np.log(p[tokens[i]]))


def test_a_passage_with_one_different_character_has_colors():
    passage = surprise.Passage("aaa", np.zeros(2), "dev text")
    assert "nan" not in page._surprise_of_passage(passage, vocab_size=1)


@pytest.mark.slow
def test_passage_of_a_short_text(small_text_run):
    lm, _ = load_best_model(small_text_run / "run", workdir.read(small_text_run / "run"))
    for size in (1, 2, BLOCK + 1, BLOCK + 2):
        result = surprise.choose_passage(lm, None, "line 1: not to be"[:size])
        assert (result.text, result.source) == ("line 1: not to be"[:size], "first sample")
        assert result.nats.shape == (size - 1,) and np.isfinite(result.nats).all()


@pytest.mark.parametrize("kind", WITH_ATTENTION)
def test_attention_is_a_distribution_over_the_past(kind):
    lm = small_lm(kind)
    result = attention.attention_weights(lm, WORDS)
    assert [a.shape for a in result] == [(2, 2, T, T) for T in (5, 2, 7, 4)]
    for weights in result:
        assert_close(weights.sum(axis=-1), np.ones(weights.shape[:-1]))
        assert (weights[..., *np.triu_indices(weights.shape[-1], 1)] == 0).all()
    assert result[0].std() > 0.1  # not uniform


@pytest.mark.versions
@pytest.mark.parametrize("kind", WITH_ATTENTION)
def test_attention_weights_reproduce_the_output_of_the_model(kind):
    """Weights times values, through c_proj, equal the captured output of c_proj."""
    lm = small_lm(kind)
    (weights,) = attention.attention_weights(lm, ["gecked"])
    for layer, captured in enumerate(attention.capture_outputs(lm, ["gecked"])):
        if kind == "modern":
            v = captured["project"][2][0]  # (T, nh, hs)
        else:
            v = np.split(np.asarray(captured["c_attn"]), 3, axis=-1)[2].reshape(7, 2, -1)
        y = np.einsum("nts,snh->tnh", weights[layer], v).reshape(7, -1)
        c_proj = lm.variables["params"][f"h_{layer}"]["attn"]["c_proj"]
        assert_close(y @ c_proj["kernel"] + c_proj.get("bias", 0), captured["c_proj"][0])


@pytest.mark.slow
def test_attention_weights_are_in_the_order_of_the_layers():
    """Also of more than ten. Layer 10 has queries and keys of zero, so it is uniform."""
    config = small_config("transformer").model
    config.n_layer = 11
    model = create_model(config, VOCAB, BLOCK)
    params = jax.jit(model.init)(jax.random.key(3), np.zeros((1, BLOCK), np.int32))["params"]
    params = jax.tree.map(lambda a: a + 1, params)
    attn = params["h_10"]["attn"]
    attn["c_attn"] = jax.tree.map(jnp.zeros_like, attn["c_attn"])
    lm = LanguageModel(model, {"params": params}, CHARS, BLOCK)
    (weights,) = attention.attention_weights(lm, ["a"])
    uniform = [[[1, 0], [0.5, 0.5]]] * 2
    is_uniform = [np.allclose(layer, uniform) for layer in weights]
    assert is_uniform == [False] * 10 + [True]


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k not in WITH_ATTENTION])
def test_families_without_attention(kind):
    assert attention.attention_weights(small_lm(kind), WORDS) == []


def test_projection_finds_the_plane_of_the_points():
    noise = np.random.RandomState(2)
    plane = noise.randn(11, 2) * [5, 2]
    plane -= plane.mean(axis=0)
    directions, _ = np.linalg.qr(noise.randn(7, 2))
    result = embeddings.project(plane @ directions.T + noise.randn(7))
    assert_close(result.shares.sum(), 1)
    assert result.shares[0] > result.shares[1]
    distances = [np.linalg.norm(a[:, None] - a, axis=-1) for a in (plane, result.points)]
    assert_close(*distances)
    assert_close(result.points[:, 0] @ result.points[:, 1], 0)
    assert (np.abs(result.points).max(axis=0) == result.points.max(axis=0)).all()


def test_projection_of_one_dimension():
    result = embeddings.project(np.array([[0.0], [1.0], [5.0]]))
    assert_close(result.points, [[-2, 0], [-1, 0], [3, 0]])
    assert_close(result.shares, [1, 0])


@pytest.mark.parametrize("kind", FAMILIES)
def test_embeddings_of_all_tokens(kind):
    result = embeddings.project_embeddings(small_lm(kind))
    assert result is None if kind == "bigram" else result.points.shape == (VOCAB, 2)


def test_classes_of_characters():
    kinds = {c: char_class(c) for c in "aEéöxñ•7-я"}
    vowels, consonants = list("aEéöя"), list("xñ")
    assert [c for c, kind in kinds.items() if kind == "vowel"] == vowels
    assert [c for c, kind in kinds.items() if kind == "consonant"] == consonants
    assert (kinds["•"], kinds["7"], kinds["-"]) == ("other", "number", "punctuation")


def test_labels_of_tokens():
    """Token 0 of lines is their edge; a text has only its characters."""
    assert token_labels(Vocab(("a", "b"))) == ["•", "a", "b"]
    assert token_labels(Vocab(("\n", "b"), has_end=False)) == ["↵", "b"]


def test_bigrams_of_the_bigram_model_are_its_table():
    lm = small_lm("bigram")
    split = encode(WORDS * 3, CHARS, BLOCK)
    result = bigrams.learned_bigrams(lm, split)
    rows = sorted({0, *CHARS.encode("".join(WORDS))})
    assert_close(result[rows], jax.nn.softmax(lm.variables["params"]["logits"])[np.array(rows)])
    others = [i for i in range(VOCAB) if i not in rows]
    assert others and np.isnan(result[others]).all()


@pytest.mark.slow
def test_learned_bigrams_are_the_mean_of_the_predictions():
    """The 600 lines are two batches, the second not full. Later lines are ignored."""
    lm = small_lm("transformer")
    noise = np.random.RandomState(4)
    words = ["".join(noise.choice(list("abcde"), noise.randint(1, BLOCK))) for _ in range(650)]
    words[600:] = ["f"] * 50
    split = encode(words, CHARS, BLOCK)
    result = bigrams.learned_bigrams(lm, split, max_lines=600)
    inputs, targets, _ = split.take(np.arange(600))
    probs = np.asarray(jax.nn.softmax(lm.model.apply(lm.variables, inputs)))
    for token in range(6):
        is_input = (np.asarray(inputs) == token) & (np.asarray(targets) != -1)
        assert_close(result[token], probs[is_input].mean(axis=0))
    assert np.isnan(result[6:]).all()
    assert 300 < split.eval_batch_size() < 600


def test_counted_bigrams_and_their_difference():
    result = bigrams.counted_bigrams(encode(["ab", "aab"], CHARS, BLOCK), VOCAB)
    a, b = 1, 2
    assert result[0, a] == 1 and result[b, 0] == 1
    assert_close(result[a, [a, b]], [1 / 3, 2 / 3])
    assert_close(result[:3].sum(axis=1), np.ones(3))
    assert np.isnan(result[3:]).all()
    learned = result.copy()
    learned[0, :2] = 0.25, 0.75
    assert_close(bigrams.BigramTables(learned, result, 2).difference, 0.5 / (3 * VOCAB))


def levenshtein(a: str, b: str) -> int:
    """Compute the Levenshtein distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    rest = levenshtein(a[1:], b[1:]) + (a[0] != b[0])
    return min(rest, levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1)


def test_edit_distances():
    noise = np.random.RandomState(3)
    words = ["".join(noise.choice(list("abé"), noise.randint(0, 6))) for _ in range(60)]
    for text in ["", "a", "ab", "abéba", "bbbbbb"]:
        expected = [levenshtein(text, word) for word in words]
        np.testing.assert_array_equal(samples.edit_distances(text, words), expected)


def test_nearest_words(monkeypatch):
    words = ["maria", "mariana", "ann", "anna", "elisabeth", "ann"]
    texts = ["mario", "anna", "anni", "", "lisabet", "nna"]
    expected = [("maria", 1), ("anna", 0), ("anna", 1), ("ann", 3), ("elisabeth", 2), ("anna", 1)]
    assert samples.nearest_words(texts, words) == expected
    monkeypatch.setattr(samples, "WORD_BATCH", 1)
    assert samples.nearest_words(texts, words) == expected


def test_nearest_words_of_names_txt(names):
    """Skipping words does not change the minimum over train."""
    texts = ["jonathon", "xqz", "maryannabella"]
    words = names.words["train"]
    expected = [int(samples.edit_distances(text, words).min()) for text in texts]
    assert [edits for _, edits in samples.nearest_words(texts, words)] == expected


@pytest.mark.parametrize("is_finished", [True, False])
def test_facts(small_runs, tmp_path, is_finished):
    """Config, losses, device and duration; an unfinished run has only some of them."""
    folder = tmp_path / "run"
    shutil.copytree(small_runs / "bigram", folder)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    summary |= {"train_loss": 1.0, "dev_loss": 2.0, "test_loss": 3.0}
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    if not is_finished:
        (folder / "summary.json").unlink()
    run = workdir.read(folder)
    curves = history.read_curves(folder, run)
    result = facts.collect_facts(folder, run, curves, 7, best_step=10, dataset=None)
    assert result["checkpoint"] == "best dev loss, step 10"
    assert "model.kind=bigram" in result["config"] and "train.steps=20" in result["config"]
    assert "optimizer" not in result["config"]  # all optimizer fields have their defaults
    assert ("device" in result) == ("loss" in result) == is_finished
    if is_finished:
        assert result["loss"] == "test 3.0000, dev 2.0000, train 1.0000 nats per character"
        assert result["device"] == f"1 cpu, jax {jax.__version__}"
        assert re.fullmatch(r"20 steps in [\d.]+ s \([\d,.]+ steps/s\)", result["training"])
    else:
        assert re.fullmatch(r"20 of 20 steps in [\d.]+ s, not finished", result["training"])


def test_the_learning_rate_of_a_run_that_did_not_log_it():
    """It is that of the config, at each step from 1 on."""
    config = small_config("bigram", steps=20)
    config.optimizer.warmup_steps = 20
    rate = config.optimizer.learning_rate
    expected = [(step, pytest.approx(rate * step / 20)) for step in range(1, 21)]
    assert history._schedule(config, 20) == expected


def test_durations():
    shown = {t: facts.show_seconds(t) for t in (0.04, 59.94, 59.96, 200, 3599.7, 7500)}
    assert list(shown.values()) == [
        *("0.0 s", "59.9 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "2 h 5 min"),
    ]


def test_collect(small_runs):
    """Samples equal those of sample.py; losses and the best step equal those of training."""
    result = collect(small_runs / "bigram", None, seed=5, num=40)
    known = workdir.read(small_runs / "bigram")
    lm, best_step = load_best_model(small_runs / "bigram", known)
    drawn = sampling.sample(lm, jax.random.key(5), 40)
    dataset = load_data(known.config.data, known.config.seed)
    assert [(line.text, line.log_prob) for line in result.samples] == [line[:2] for line in drawn]
    assert [line.found_in for line in result.samples] == dataset.found_in(
        [d.text for d in drawn], [d.is_cut for d in drawn]
    )
    for line in result.samples:
        assert line.nearest in dataset.words["train"]
        assert (line.edits == 0) == (line.found_in == "train")
    assert result.names == dataset.words["dev"][:3]
    train = encode(dataset.words["train"], lm.vocab, lm.max_len)
    counted = bigrams.counted_bigrams(train, lm.vocab.size)
    np.testing.assert_array_equal(result.bigrams.counted, counted)
    assert result.bigrams.num_lines == len(dataset.words["train"]) < bigrams.MAX_LINES
    summary = json.loads((small_runs / "bigram" / "summary.json").read_text("utf-8"))
    assert result.best_step == best_step == summary["best_step"]
    assert dict(result.curves.dev_loss)[best_step] == summary["dev_loss"]
    assert [step for step, _ in result.curves.train_loss] == [5, 10, 15, 20]
    assert result.curves.learning_rate == [(i, pytest.approx(5e-4)) for i in (5, 10, 15, 20)]


def test_names_of_a_run_without_its_data(tmp_path):
    """They are samples. Those of an untrained model are as long as the model can read."""
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(f"{first}{second}" for first in "abcdef" for second in "ghijkl"), "utf-8"
    )
    config = small_config("bigram", steps=1, num_samples=0)
    config.data.path = str(words)
    assemble.train(config, str(tmp_path / "run"))
    words.unlink()
    run = workdir.read(tmp_path / "run")
    result = collect(tmp_path / "run", None, seed=1, num=10)
    texts = [sample.text for sample in result.samples if sample.text]
    assert result.names == list(dict.fromkeys(texts))[:3]
    assert max(map(len, result.names)) == run.max_len - 1
    assert all(np.isfinite(values).all() for values in result.surprise)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fee", "Zoe"], "--names: training never saw 'Z', which is in 'Zoe'"),
        (["feefeef"], "'feefeef' has 7 characters; the lines of this model have at most 6"),
        (["fee", ""], "--names: a name is empty"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_names(names, CHARS, BLOCK)

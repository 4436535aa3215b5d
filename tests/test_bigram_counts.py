"""Lecture 2: bigram counts of makemore's names, and a network that learns the same table."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close, published

from makemore_jax import scoring
from makemore_jax.data.lines import split_lines
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.lectures import bigram_counts as bc
from makemore_jax.lectures import ngrams
from makemore_jax.lectures.command import read_words
from makemore_jax.losses import token_losses

KEY = jax.random.key(7)
WORDS = ["aab", "ba", "cb"]
VOCAB = Vocab(("a", "b", "c"))
# Counted by hand: the row is a token, the column the next token; token 0 is the end of a word.
COUNTS = np.array([[0, 1, 1, 1], [1, 1, 1, 0], [2, 1, 0, 0], [0, 0, 1, 0]])


@pytest.fixture(scope="module")
def makemore() -> list[str]:
    return split_lines(published("names").read_text("utf-8"))


@pytest.fixture(scope="module")
def makemore_counts(makemore) -> np.ndarray:
    return bc.count(makemore, Vocab(bc.statistics(makemore).chars))


def every_pair() -> np.ndarray:
    """Return counts (5, 5) from 3 to 61, with different sums of rows."""
    counts = np.random.RandomState(3).randint(3, 20, size=(5, 5))
    counts[2] *= 3
    counts[1, 3] = 61
    return counts


def log_probs(W) -> np.ndarray:
    """Return log-probabilities, which do not depend on a constant added to a row of logits."""
    return np.asarray(jax.nn.log_softmax(W))


def trained(counts, num_steps, rate, *regularised):
    W = bc.init_weights(KEY, len(counts))
    return bc.train(W, counts, num_steps, rate, *regularised)


def test_statistics():
    assert bc.statistics(WORDS) == (3, 2, 3, ("a", "b", "c"))
    assert bc.most_frequent(COUNTS * np.arange(1, 5), 3) == [(0, 3, 4), (0, 2, 3), (1, 2, 3)]
    assert len(bc.most_frequent(COUNTS, 99)) == 9  # pairs that never occur are left out


def test_counts_of_a_list_by_hand():
    np.testing.assert_array_equal(bc.count(WORDS, VOCAB), COUNTS)
    np.testing.assert_array_equal(bc.count(WORDS * 2, VOCAB), 2 * COUNTS)


def test_smoothing_by_hand():
    probs = bc.probabilities(COUNTS, 0.5)
    np.testing.assert_allclose(probs[3], np.array([0.5, 0.5, 1.5, 0.5]) / 3)
    np.testing.assert_allclose(bc.probabilities(COUNTS, 0)[3], [0, 0, 1, 0])
    np.testing.assert_allclose(bc.probabilities(np.diag([5, 0]), 0), [[1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(bc.probabilities(COUNTS, 1e9), 1 / 4, atol=1e-8)


@pytest.mark.parametrize("smoothing", [-1, -1e-9, float("inf"), float("nan")])
def test_invalid_smoothing(smoothing):
    with pytest.raises(UserError, match="--smoothing"):
        bc.probabilities(COUNTS, smoothing)


def test_likelihood_by_hand():
    """One of ten pairs has probability 1, two have 2/3, and seven have 1/3."""
    expected = (2 * np.log(3 / 2) + 7 * np.log(3)) / 10
    assert bc.nll(bc.probabilities(COUNTS, 0), COUNTS) == pytest.approx(expected, abs=1e-12)
    unseen = bc.count(["cc"], VOCAB)
    assert bc.nll(bc.probabilities(COUNTS, 0), unseen) == np.inf
    assert bc.nll(bc.probabilities(COUNTS, 1), unseen) < 3


def test_statistics_of_makemores_list(makemore, makemore_counts):
    result = bc.statistics(makemore)
    assert (result.num_lines, result.shortest, result.longest) == (32_033, 2, 15)
    assert "".join(result.chars) == "abcdefghijklmnopqrstuvwxyz"
    assert makemore_counts.sum() == 228_146
    # tokens 14 and 1 are n and a
    assert bc.most_frequent(makemore_counts, 3) == [(14, 0, 6763), (1, 0, 6640), (1, 14, 5438)]


@pytest.mark.parametrize(("smoothing", "expected"), [(0, 2.454014), (1, 2.454577)])
def test_likelihood_of_makemores_list(makemore_counts, smoothing, expected):
    result = bc.nll(bc.probabilities(makemore_counts, smoothing), makemore_counts)
    assert result == pytest.approx(expected, abs=5.1e-7)


def test_likelihood_of_the_lecture_split(makemore):
    counts = bc.count_splits(makemore, Vocab(bc.statistics(makemore).chars))
    probs = bc.probabilities(counts["train"], 1)
    result = {name: bc.nll(probs, each) for name, each in counts.items()}
    assert result == pytest.approx({"train": 2.454837, "dev": 2.453264, "test": 2.458391}, abs=5e-7)


def test_loss_and_gradient_of_counts_equal_those_of_all_pairs():
    """Weighting each pair by its count equals using every pair of the text as an example."""
    W = bc.init_weights(KEY, 4)
    tokens = jnp.array([0, 1, 1, 2, 0, 2, 1, 0, 3, 2, 0])

    @jax.jit
    def loss_of_pairs(W):
        return token_losses(bc.network(W, tokens[:-1]), tokens[1:]).mean()

    result = jax.jit(jax.value_and_grad(bc.network_nll))(W, 2 * COUNTS)
    jax.tree.map(assert_close, result, jax.value_and_grad(loss_of_pairs)(W))
    assert_close(bc.network(W, tokens), W[tokens])
    assert float(result[0]) == pytest.approx(bc.nll(np.exp(log_probs(W)), COUNTS), abs=1e-6)


def test_logits_converge_to_the_log_counts():
    counts = every_pair()
    W, losses = trained(counts, 4_000, bc.steady_rate(counts))
    constants = np.asarray(W) - np.log(counts)  # one for each row
    assert_close(constants, np.broadcast_to(constants.mean(axis=1)[:, None], (5, 5)), 1e-3)
    assert_close(np.exp(log_probs(W)), bc.probabilities(counts, 0), 1e-4)
    assert (np.diff(losses) <= 1e-6).all()  # a steady rate never overshoots


def test_pairs_that_never_occur_lose_their_probability():
    counts = every_pair()
    counts[[0, 3, 3], [2, 0, 4]] = 0
    early, late = (
        np.exp(log_probs(trained(counts, steps, bc.steady_rate(counts))[0]))
        for steps in (500, 5_000)
    )
    assert early[counts == 0].min() > 1e-4  # no finite number of steps reaches the log of 0
    assert late[counts == 0].max() < 0.2 * early[counts == 0].min()
    assert_close(late, bc.probabilities(counts, 0), 2e-3)


def test_the_network_approaches_the_counts_of_makemores_list(makemore_counts):
    W, losses = trained(makemore_counts, 10_001, bc.steady_rate(makemore_counts))
    above = np.asarray(losses)[[0, 100, 1_000, 10_000]] - 2.454014
    assert (above > 0).all()
    assert above[0] > 1
    assert (above[1:] < [0.15, 0.01, 0.001]).all()
    probs = bc.probabilities(makemore_counts, 0)
    np.testing.assert_allclose(
        log_probs(W)[makemore_counts > 1000], np.log(probs[makemore_counts > 1000]), atol=0.01
    )


@pytest.mark.parametrize("smoothing", [0.5, 1.0, 17.0])
def test_kl_regularizer_is_smoothing(smoothing):
    """The equality is exact, also for counts of 0."""
    counts = every_pair()
    counts[[0, 3, 3], [2, 0, 4]] = 0
    W, _ = trained(counts, 10_000, 5.0, bc.kl_strength(smoothing, counts), bc.kl)
    expected = np.log(bc.probabilities(counts, smoothing))
    assert_close(log_probs(W), expected, 1e-3)
    assert np.abs(expected - np.log(bc.probabilities(counts, 1.1 * smoothing))).max() > 5e-3


def test_l2_moves_counts_from_likely_to_unlikely_pairs():
    """Check the property of the minimum that the docstring of l2 states."""
    counts, strength = every_pair(), 0.1
    counts[0, 2] = 0
    W, _ = trained(counts, 8_000, 4.0, strength)
    moved = -bc.l2_smoothing(strength, counts) * np.asarray(W)
    expected = (counts + moved) / counts.sum(axis=1, keepdims=True)
    assert_close(np.exp(log_probs(W)), expected, 1e-4)
    assert np.abs(moved).max() > 1  # 0 without a regularizer
    assert_close(moved.sum(axis=1), np.zeros(5), 1e-2)


def test_more_l2_or_smoothing_makes_each_row_more_uniform():
    counts = every_pair()

    def from_uniform(probs):  # KL divergence of each row
        return (np.log(1 / 5) - np.log(probs)).mean(axis=1)

    strengths = [0.0, 0.01, 0.1, 1.0]
    rows = [from_uniform(np.exp(log_probs(trained(counts, 4_000, 3.0, s)[0]))) for s in strengths]
    assert (np.diff(rows, axis=0) < -1e-4).all()
    rows = [from_uniform(bc.probabilities(counts, s)) for s in (0, 1, 10, 100)]
    assert (np.diff(rows, axis=0) < -1e-4).all()


def test_strong_l2_is_smoothing_to_first_order():
    """At ten times the strength, logits are a tenth and their error is a hundredth as large."""
    counts, ratios = every_pair(), []
    for strength in (10.0, 100.0):
        W, _ = trained(counts, 300, 5 / strength, strength)
        smoothing = bc.l2_smoothing(strength, counts)
        expected = np.log(5 * bc.probabilities(counts, smoothing))
        expected -= expected.mean(axis=1, keepdims=True)
        ratios.append(np.abs(W - expected).max() / np.abs(expected).max())
    assert ratios[0] < 0.1
    assert ratios[1] < 0.15 * ratios[0]


def test_l2_strength_of_the_lecture_on_makemores_list(makemore_counts):
    assert bc.l2_smoothing(0.01, makemore_counts) == pytest.approx(6.2592, abs=1e-4)
    assert float(bc.l2(jnp.array([[3.0, -1.0], [1.0, 1.0]]))) == 3.0


def drawn(seed, smoothing):
    """Draw 200 lines with the program that all tests share."""
    return bc.sample(jax.random.key(seed), bc.probabilities(COUNTS, smoothing), VOCAB, 200, 60)


def test_frequencies_of_drawn_lines():
    lines = [line for seed in range(12) for line in drawn(seed, 0.2)]
    counts = bc.count(lines, VOCAB)
    assert counts.sum(axis=1).min() > 900
    # 3.5 standard deviations of a frequency in the row with the fewest counts
    bound = 3.5 * np.sqrt(0.25 / counts.sum(axis=1).min())
    assert_close(bc.probabilities(counts, 0), bc.probabilities(COUNTS, 0.2), bound)


def test_samples_depend_only_on_the_key():
    lines = drawn(7, 0.2)
    assert len(lines) == 200
    assert lines == drawn(7, 0.2)
    assert lines != drawn(8, 0.2)


def test_pairs_with_a_count_of_0_are_never_drawn():
    lines = drawn(7, 0)
    assert not bc.count(lines, VOCAB)[COUNTS == 0].any()
    assert len(set(lines)) > 20


def test_the_language_model_scores_lines_by_the_table():
    probs = bc.probabilities(COUNTS, 1)
    lm = bc.language_model(probs, VOCAB, 5)
    expected = np.log([probs[0, 1] * probs[1, 2] * probs[2, 0], probs[0, 3] * probs[3, 0]])
    np.testing.assert_allclose(scoring.score(lm, ["ab", "c"]), expected, atol=1e-5)


def test_picture_of_any_symbols(tmp_path):
    """A $ does not start a formula, and counts that are all 0 still have a color scale."""
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    pictures.bigram_table(np.zeros((4, 4), int), [".", "$", "\\", "{"], tmp_path / "counts.png")
    assert (tmp_path / "counts.png").read_bytes().startswith(b"\x89PNG")


def test_picture_shows_each_pair_above_its_count(tmp_path, monkeypatch):
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    monkeypatch.setattr(pictures.plt, "close", lambda figure: None)
    pictures.bigram_table(COUNTS * 7, bc.symbols(VOCAB), tmp_path / "counts.png")
    monkeypatch.undo()
    ax = pictures.plt.gcf().axes[0]
    positions = {text.get_text(): text.get_position() for text in ax.texts}
    assert len(ax.texts) == 2 * 4 * 4
    assert np.round(positions["ab"]).tolist() == [2, 1]  # column, row
    shown = [
        text.get_text() for text in ax.texts if np.round(text.get_position()).tolist() == [2, 1]
    ]
    assert shown == ["ab", "7"]
    np.testing.assert_array_equal(ax.images[0].get_array(), COUNTS * 7)
    pictures.plt.close("all")


@pytest.mark.slow
def test_picture_of_makemores_list_is_a_small_file(makemore_counts, tmp_path):
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    file = tmp_path / "counts.png"
    pictures.bigram_table(makemore_counts, [".", *"abcdefghijklmnopqrstuvwxyz"], file)
    height, width, _ = pictures.plt.imread(file).shape
    assert height == width and 1_000 < width < 1_200
    assert file.stat().st_size < 400_000


def test_symbols_are_all_different():
    assert bc.symbols(VOCAB) == [".", "a", "b", "c"]
    assert bc.symbols(Vocab((".", "a"))) == ["<>", ".", "a"]


def test_command(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bc, "STEPS", 1_000)
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS * 7), "utf-8-sig")
    options = ["--data", str(words), "--out", str(tmp_path / "out"), "--smoothing", "0.5"]
    bc.main([*options, "--num", "3"])
    printed = capsys.readouterr().out
    assert "21 lines of 2 to 3 characters, 3 different: abc" in printed
    assert "70 pairs, 9 different; b. 14, .a 7, .b 7" in printed
    counts = 7 * COUNTS
    assert f"counted        {bc.nll(bc.probabilities(counts, 0), counts):.6f}" in printed
    assert f"0.5 added      {bc.nll(bc.probabilities(counts, 0.5), counts):.6f}" in printed
    plain, smoothed = (-70 * bc.nll(bc.probabilities(counts, n), counts) for n in (0, 0.5))
    assert f"log likelihood of the text: {plain:.0f} and {smoothed:.0f}\n" in printed
    splits = bc.count_splits(WORDS * 7, VOCAB)
    probs = bc.probabilities(splits["train"], 0.5)
    losses = ", ".join(f"{name} {bc.nll(probs, each):.6f}" for name, each in splits.items())
    assert f"counted on 80% of the lines, 0.5 added: {losses}\n" in printed
    (last,) = re.findall(r"^ 1,000 +(.+) +(.+)\n\n", printed, re.MULTILINE)
    assert bc.nll(bc.probabilities(counts, 0), counts) < float(last[0]) < float(last[1])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["counts.png"]
    bc.main([*options, "--num", "3"])
    assert capsys.readouterr().out == printed
    bc.main([*options, "--num", "3", "--seed", "1"])
    assert capsys.readouterr().out != printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "wrods.txt"], "--data: wrods.txt does not exist; did you mean words.txt?"),
        (["--data", "empty.txt"], "--data: empty.txt is empty; it needs one word per line"),
        (["--data", "latin.txt"], "--data: latin.txt is not utf-8 at byte 1; convert it"),
        (["--data", "wide.txt"], "--data: wide.txt is utf-16, not utf-8; convert it"),
        (["--data", "."], "--data: . is a folder, not a text file"),
        (["--smoothing", "-1"], "--smoothing: -1.0 must be between 0 and 1e+300"),
        (["--smoothing", "nan"], "--smoothing: nan must be between 0 and 1e+300"),
        (["--smoothing", "1.7e308"], "--smoothing: 1.7e+308 must be between 0 and 1e+300"),
        (["--smoothing", "much"], "argument --smoothing: invalid float value: 'much'"),
        (["--num", "0"], "--num: 0 must be at least 1, below 2**31"),
        (["--seed", "-1"], "--seed: -1 must be between 0 and 4294967295"),
        (["--out", "words.txt"], "--out: words.txt/counts.png can't be written: File exists"),
        (["--dat", "words.txt"], "unrecognized arguments: --dat words.txt"),
    ],
)
def test_mistakes_print_one_line_and_write_nothing(options, message, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("anna\nbob\n", "utf-8")
    (tmp_path / "empty.txt").write_text(" \n\n", "utf-8")
    (tmp_path / "latin.txt").write_bytes("zoë\n".encode("latin-1").replace(b"zo", b"z"))
    (tmp_path / "wide.txt").write_text("anna\nbob\n", "utf-16")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        bc.main(options if "--data" in options else ["--data", "words.txt", *options])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == f"bigram_counts: {message}\n"
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_the_default_list_is_found_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ngrams.main(["--num", "1"])
    elsewhere = capsys.readouterr().out
    monkeypatch.chdir(ROOT)
    ngrams.main(["--num", "1"])
    assert capsys.readouterr().out == elsewhere


def test_names_txt_can_be_read():
    assert read_words(str(ROOT / "names.txt"))[0] == "aaban"

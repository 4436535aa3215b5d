"""N-grams with Kneser-Ney smoothing, against a slow version that follows the formulas."""

from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest
from conftest import ROOT, assert_close, published

from makemore_jax.assemble import load_data
from makemore_jax.config import DataConfig
from makemore_jax.data.lines import encode, split_lines
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.lectures import ngrams
from makemore_jax.mixture import counting

WORDS = ["aab", "ba", "cb", "aab", "abba", "caab", "b", "bbc"]
VOCAB = Vocab(("a", "b", "c"))


def tokens_of(word: str) -> list[int]:
    return [0, *VOCAB.encode(word), 0]


def slow_probability(words: list[str], context: tuple, token: int, order: int) -> float:
    """Return P(token | context), from the definition, one count at a time.

    `context` starts with the 0 before the line, or has `order` - 1 tokens.
    """

    def grams(k):  # raw counts of k tokens of context and one more
        rows = (tokens_of(word) for word in words)
        return Counter(
            tuple(row[i - k : i + 1]) for row in rows for i in range(max(k, 1), len(row))
        )

    def counts(k):
        raw = grams(k)
        if k == order - 1:
            return raw
        before = defaultdict(set)
        for gram in grams(k + 1):
            before[gram[1:]].add(gram[0])
        continuation = {gram: len(tokens) for gram, tokens in before.items()}
        starts_line = {gram: n for gram, n in raw.items() if k and gram[0] == 0}
        return continuation | starts_line

    prob = 1 / VOCAB.size
    for k in range(len(context) + 1):
        table = counts(k)
        once, twice = (sum(n == number for n in table.values()) for number in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        suffix = context[len(context) - k :]
        after = {gram[-1]: n for gram, n in table.items() if gram[:-1] == suffix}
        if after:
            rest = discount * len(after) * prob
            prob = (max(after.get(token, 0) - discount, 0) + rest) / sum(after.values())
    return prob


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_losses_follow_the_definition(order):
    model = counting.count(encode(WORDS, VOCAB, 7), order, VOCAB.size)
    unseen = ["cab", "acca", "bbcb"]  # contexts that do not occur, too
    expected = [
        -np.log(slow_probability(WORDS, tuple(row[max(0, i - order + 1) : i]), row[i], order))
        for row in map(tokens_of, unseen)
        for i in range(1, len(row))
    ]
    measured = counting.nll(model, encode(unseen, VOCAB, 7))
    np.testing.assert_allclose(measured, np.mean(expected), rtol=1e-12)


def test_probabilities_add_up_to_one():
    model = counting.count(encode(WORDS, VOCAB, 7), 3, VOCAB.size)
    for context in product(range(VOCAB.size), repeat=2):
        grams = (context[0] * 4 + context[1]) * 4 + np.arange(4)
        probs = counting.probabilities(model, grams)
        assert probs.min() > 0
        np.testing.assert_allclose(probs.sum(), 1, rtol=1e-12)


def test_order_two_without_discount_is_the_bigram_table_of_makemore():
    words = split_lines(published("names").read_text("utf-8"))
    vocab = Vocab(tuple(sorted(set("".join(words)))))
    split = encode(words, vocab, 17)
    model = counting.count(split, 2, vocab.size)
    exact = model._replace(tables=tuple(t._replace(discount=0.0) for t in model.tables))
    assert round(counting.nll(exact, split), 6) == 2.454014  # published, counted without smoothing


def test_samples_follow_the_probabilities():
    model = counting.count(encode(WORDS, VOCAB, 7), 4, VOCAB.size)
    samples = counting.sample(model, np.random.default_rng(3), 20_000, 7)
    firsts = np.bincount([[*row, 0][0] for row in samples], minlength=4) / len(samples)
    expected = counting.probabilities(model, np.arange(4))
    np.testing.assert_allclose(firsts, expected, atol=0.015)
    after_a = [[*row, 0][1] for row in samples if row[:1] == [1]]
    expected = counting.probabilities(model, 4 + np.arange(4))
    np.testing.assert_allclose(
        np.bincount(after_a, minlength=4) / len(after_a), expected, atol=0.02
    )
    assert all(0 not in row and len(row) <= 7 for row in samples)


def test_longer_contexts_help_until_they_are_rare(capsys):
    path = ROOT / "names.txt"
    ngrams.main(["--data", str(path), "--num", "3"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    dev = [float(row[3]) for row in rows[1:7]]
    assert dev[0] > dev[1] > dev[2] > dev[3]
    dataset = load_data(DataConfig(path=str(path), split="lecture"), 3407)
    model = counting.count(dataset.splits["train"], 4, dataset.vocab.size)
    assert float(rows[4][3]) == round(counting.nll(model, dataset.splits["dev"]), 4)
    assert len(rows) == 12  # a heading, six orders, an empty line, a heading, three samples


def test_the_samples_are_of_the_order_with_the_lowest_dev_loss(tmp_path, capsys):
    """The highest order has the lowest train loss, but few lines are too few for it."""
    words = (ROOT / "names.txt").read_text("utf-8").split()[:300]
    (tmp_path / "few.txt").write_text("\n".join(words), "utf-8")
    ngrams.main(["--data", str(tmp_path / "few.txt"), "--num", "1"])
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()[1:7]]
    by_train, by_dev = (min(rows, key=lambda row: float(row[i]))[0] for i in (2, 3))
    assert f"samples of order {by_dev}:" in printed and by_dev != by_train


@pytest.mark.parametrize(
    ("words", "unseen"),
    [
        (["aa", "ab", "ba", "b"], "aaaaab"),  # no line has an n-gram of order 5
        (["ab", "ab", "ba", "ba"], "abb"),  # no n-gram occurs only once
    ],
)
def test_few_short_lines_leave_every_token_a_probability(words, unseen):
    model = counting.count(encode(words, VOCAB, 9), 5, VOCAB.size)
    for lines in (words, [unseen]):
        assert 0 < counting.nll(model, encode(lines, VOCAB, 9)) < np.inf
    assert_close(counting.probabilities(model, np.arange(VOCAB.size)).sum(), 1)


def test_too_large_vocabularies_and_bad_flags(capsys):
    with pytest.raises(UserError, match="3000 different tokens are too many"):
        counting.count(encode(["a"], VOCAB, 7), 6, 3000)
    with pytest.raises(SystemExit) as error:
        ngrams.main(["--num", "0"])
    assert error.value.code == 2
    assert capsys.readouterr().err == "ngrams: --num: 0 must be at least 1, below 2**31\n"

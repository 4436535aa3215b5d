"""Sampling lines: frequencies, keys, and log-probabilities."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BLOCK, FAMILIES, VOCAB, quick_of, small_model

from makemore_jax import assemble, new_lines, sampling, scoring
from makemore_jax.assemble import create_model
from makemore_jax.config import ModelConfig
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import Decoding, LanguageModel, Sample, filter_logits, sample_token
from makemore_jax.errors import UserError
from makemore_jax.parallel import sampling as fast_sampling
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_lines_mesh

CHARS = Vocab(tuple("abcdefghijklmnopqrstuvwxyz"[: VOCAB - 1]))
KEY = jax.random.key(7)


def small_lm(kind: str) -> LanguageModel:
    model, params = small_model(kind)
    return LanguageModel(model, {"params": params}, CHARS, BLOCK)


def bigram_lm(table: np.ndarray, block_size: int = 11) -> LanguageModel:
    """Return a language model with the rows of a table as next-token probabilities."""
    model = create_model(ModelConfig(kind="bigram"), len(table), block_size)
    vocab = Vocab(CHARS.chars[: len(table) - 1])
    with np.errstate(divide="ignore"):
        return LanguageModel(
            model, {"params": {"logits": jnp.log(jnp.asarray(table))}}, vocab, block_size
        )


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_lines_depend_on_the_key(kind):
    lm = small_lm(kind)
    lines = sampling.sample(lm, KEY, 23)
    assert lines == sampling.sample(lm, KEY, 23)
    assert lines != sampling.sample(lm, jax.random.key(8), 23)
    assert len({line.text for line in lines}) > 5


@pytest.mark.versions
@pytest.mark.parametrize("sample", [sampling.sample, assemble.sample])
def test_a_line_depends_only_on_its_number(sample, monkeypatch):
    """The first ten of fifty lines equal ten lines, also if they are sampled in several calls."""
    lm = small_lm("gru")
    fifty = [line.text for line in sampling.sample(lm, KEY, 50)]
    assert [line.text for line in sample(lm, KEY, 10)] == fifty[:10]
    assert [line.text for line in sample(lm, KEY, 10, first=31)] == fifty[31:41]
    monkeypatch.setattr(sampling, "MAX_BATCH", 17)
    assert [line.text for line in sample(lm, KEY, 50)] == fifty


def test_no_lines_are_sampled_and_scored():
    lm = small_lm("bigram")
    for sample in (sampling.sample, assemble.sample):
        assert sample(lm, KEY, 0) == []
    assert scoring.score(lm, []) == []


def test_scoring_shows_its_progress():
    seen = []
    scoring.score(small_lm("bigram"), ["fee", "a"], lambda batches: seen.append(batches) or batches)
    assert [list(batches) for batches in seen] == [[0]]


@pytest.mark.parametrize("kind", ["bigram", "gru"])  # without and with a state
def test_the_batch_size_on_an_accelerator_depends_on_its_memory(kind, monkeypatch):
    lm = small_lm(kind)
    assert fast_sampling.max_batch(lm) == sampling.MAX_BATCH
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fast_sampling.max_batch(lm) > 100_000
    monkeypatch.setattr(fast_sampling, "ACCELERATOR_BYTES", 10)
    assert fast_sampling.max_batch(lm) == sampling.MAX_BATCH


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_pauses_during_sampling(was_enabled):
    """Also if the sampling is interrupted, the setting is the one before."""
    states = []

    def stop():
        states.append(gc.isenabled())
        raise KeyboardInterrupt

    (gc.enable if was_enabled else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt):
            assemble.sample(small_lm("bigram"), KEY, 3, check=stop)
        assert states == [False] and gc.isenabled() == was_enabled
    finally:
        gc.enable()


def test_parameters_are_placed_on_the_devices_once():
    """Sampling costs 0.1 ms for each array that is placed, also if nothing has to be done."""
    mesh = make_lines_mesh(2)
    sharding = shardings.replicated(mesh)
    placed = shardings.put_if_needed({"a": np.ones(3), "b": jnp.ones(2)}, sharding)
    assert all(a.sharding.is_equivalent_to(sharding, 1) for a in placed.values())
    assert shardings.put_if_needed(placed, sharding) is placed


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["gru"]))
def test_removing_finished_lines_from_a_batch_changes_no_sample(kind, monkeypatch):
    lm = small_lm(kind)

    def end_early(keys, logits, decoding):  # end each line with probability 0.3
        ends = jax.vmap(lambda key: jax.random.bernoulli(key, 0.3))(keys)
        return jnp.where(ends, 0, sample_token(keys, logits, decoding))

    monkeypatch.setattr(sampling, "sample_token", end_early)
    monkeypatch.setattr(fast_sampling, "MIN_LINES", 5)  # batches of 41, 20 and 4 lines
    sampling.generate.clear_cache()
    fast_sampling.generate.clear_cache()
    plain = sampling.sample(lm, KEY, 41)
    lines = assemble.sample(lm, KEY, 41)
    assert [line.text for line in lines] == [line.text for line in plain]
    log_probs = [[line.log_prob for line in drawn] for drawn in (lines, plain)]
    np.testing.assert_allclose(*log_probs, atol=1e-4)
    assert max(len(line.text) for line in lines) > 3
    sampling.generate.clear_cache()
    fast_sampling.generate.clear_cache()


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["mlp"]))
def test_log_prob_equals_the_score_of_the_line(kind):
    """The sum over single steps equals the score of the whole line."""
    lm = small_lm(kind)
    for decoding in (Decoding(), Decoding(0.5, top_k=5)):  # changes the draw, not the score
        drawn = sampling.sample(lm, KEY, 19, decoding=decoding)
        scores = scoring.score(lm, [line.text for line in drawn])
        np.testing.assert_allclose([line.log_prob for line in drawn], scores, atol=2e-4)


def test_lines_end_or_are_cut():
    """Lines of a model that never ends a line are cut at block_size - 1 characters."""
    table = np.full((3, 3), 0.5)
    table[:, 0] = 0
    lines = sampling.sample(bigram_lm(table, block_size=5), KEY, 13)
    assert {len(line.text) for line in lines} == {4}
    table[:, 0] = 1
    assert {line.text for line in sampling.sample(bigram_lm(table * [1, 0, 0]), KEY, 3)} == {""}


@pytest.mark.versions
def test_sampled_frequencies_agree_with_a_known_table():
    """Chi-square tests of the characters after each character, at significance 1e-3."""
    table = np.random.RandomState(3).dirichlet([2.0] * 5, size=5)
    table = 0.8 * table + 0.2 * np.eye(5)[0]  # the probability of an end is at least 0.2
    lm = bigram_lm(table, block_size=61)  # so long that no line is cut
    lines = [line.text for line in sampling.sample(lm, KEY, 4000)]
    counts = np.zeros((5, 5))
    for line in lines:
        tokens = [0, *lm.vocab.encode(line), 0]
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    assert max(map(len, lines)) < 60
    for row, expected in zip(counts, table, strict=True):
        expected = expected * row.sum()
        assert ((row - expected) ** 2 / expected).sum() < 18.47  # 4 degrees of freedom


def test_temperature_changes_frequencies():
    """At temperature 0.5 probabilities are squared and normalized."""
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    keys = jax.random.split(KEY, 20_000)
    drawn = sample_token(keys, jnp.tile(logits, (20_000, 1)), Decoding(temperature=0.5))
    expected = 20_000 * np.array([1, 4, 9, 16]) / 30
    counts = np.bincount(drawn, minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # 3 degrees of freedom, 1e-3


def test_a_low_temperature_is_not_greedy():
    logits = jnp.tile(jnp.array([0.0, 0.01]), (1000, 1))
    drawn = sample_token(jax.random.split(KEY, 1000), logits, Decoding(temperature=0.01))
    assert 0.65 < drawn.mean() < 0.8  # the second token has probability 1 / (1 + 1 / e) = 0.73


@pytest.mark.parametrize("top_k", [1, 3, 50, 3_000_000_000])
def test_top_k_draws_only_from_its_set(top_k):
    logits = jax.random.normal(KEY, (11, VOCAB))
    filtered = filter_logits(logits, Decoding(top_k=top_k))
    for row, kept in zip(logits, jnp.isfinite(filtered), strict=True):
        expected = set(np.argsort(row)[::-1][:top_k].tolist())
        assert set(np.flatnonzero(kept).tolist()) == expected
    drawn = [
        sample_token(jax.random.split(jax.random.key(i), 11), logits, Decoding(top_k=top_k))
        for i in range(200)
    ]
    assert jnp.isfinite(filtered)[jnp.arange(11), jnp.stack(drawn)].all()


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
def test_top_p_draws_only_from_its_set(top_p):
    """The set has the most likely tokens up to a total probability of at least p."""
    logits = 2 * jax.random.normal(KEY, (11, VOCAB))
    filtered = filter_logits(logits, Decoding(top_p=top_p))
    for row, kept in zip(jax.nn.softmax(logits), jnp.isfinite(filtered), strict=True):
        order, expected, mass = np.argsort(row)[::-1], set(), 0.0
        for token in order.tolist():
            if mass >= top_p:
                break
            expected.add(token)
            mass += float(row[token])
        assert set(np.flatnonzero(kept).tolist()) == expected
    drawn = [
        sample_token(jax.random.split(jax.random.key(i), 11), logits, Decoding(top_p=top_p))
        for i in range(200)
    ]
    assert jnp.isfinite(filtered)[jnp.arange(11), jnp.stack(drawn)].all()


def test_a_top_p_of_1_excludes_no_token():
    """The sum of the most likely tokens is 1 before the least likely ones are added."""
    logits = 8 * jax.random.normal(KEY, (200, VOCAB))
    assert jnp.isfinite(filter_logits(logits, Decoding(top_p=1.0))).all()


@pytest.mark.parametrize(
    ("decoding", "num_kept"),
    [
        (Decoding(top_p=0.5), 2),
        (Decoding(temperature=0.5, top_p=0.5), 1),  # probabilities 16/30, 9/30, 4/30, 1/30
        (Decoding(top_p=0.55), 2),
        (Decoding(top_k=2, top_p=0.55), 1),  # probabilities 4/7, 3/7
    ],
)
def test_top_p_is_a_share_of_what_temperature_and_top_k_leave(decoding, num_kept):
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    assert jnp.isfinite(filter_logits(logits, decoding)).sum() == num_kept


def test_equal_logits_do_not_widen_top_k():
    filtered = filter_logits(jnp.zeros((2, VOCAB)), Decoding(top_k=3))
    assert (jnp.isfinite(filtered).sum(axis=1) == 3).all()


@pytest.mark.versions
def test_temperature_zero_is_greedy():
    lm = small_lm("lstm")
    lines = sampling.sample(lm, KEY, 3, decoding=Decoding(temperature=0))
    assert len(set(lines)) == 1
    text, apply = "", jax.jit(lm.model.apply)
    while len(text) < BLOCK - 1:
        tokens = np.zeros((1, BLOCK), np.int32)
        tokens[0, 1 : len(text) + 1] = CHARS.encode(text)
        token = int(np.argmax(apply(lm.variables, tokens)[0, len(text)]))
        if token == 0:
            break
        text += CHARS.chars[token - 1]
    assert lines[0].text == text


def test_of_equal_logits_greedy_decoding_takes_the_first():
    logits = jnp.array([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    drawn = sample_token(jax.random.split(KEY, 2), logits, Decoding(temperature=0))
    assert drawn.tolist() == [1, 0]


@pytest.mark.parametrize("kind", quick_of(["mlp", "gru", "transformer"], ["mlp"]))
def test_every_line_starts_with_the_prompt(kind):
    lm = small_lm(kind)
    lines = sampling.sample(lm, KEY, 17, prompt="dab")
    assert all(line.text.startswith("dab") for line in lines)
    assert len({line.text for line in lines}) > 3
    full = sampling.sample(lm, KEY, 3, prompt="dabdab")  # as long as a line can be
    assert {line.text for line in full} == {"dabdab"}


def test_frequencies_after_a_prompt():
    """The prompt goes through the carry, so the next token depends on its last token."""
    table = np.random.RandomState(4).dirichlet([2.0] * 4, size=4)
    lines = sampling.sample(bigram_lm(table, 40), KEY, 3000, prompt="cab")
    follows = [CHARS.encode(line.text[3])[0] if len(line.text) > 3 else 0 for line in lines]
    counts, expected = np.bincount(follows, minlength=4), 3000 * table[2]
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_bad_prompts_and_lines():
    lm = small_lm("bigram")
    with pytest.raises(UserError, match="--prompt: training never saw 'é', 'Z'"):
        assemble.sample(lm, KEY, 1, prompt="aéZé")
    with pytest.raises(UserError, match="--prompt: 7 characters are too many"):
        assemble.sample(lm, KEY, 1, prompt="abababa")
    with pytest.raises(UserError, match="--score: training never saw 'Z', which is in 'aZ'"):
        scoring.score(lm, ["a", "aZ"])
    with pytest.raises(UserError, match="--score: 'abababa' has 7 characters"):
        scoring.score(lm, ["a", "abababa"])


@pytest.mark.parametrize("num", [41, 600])  # finished lines are removed from the batch of 600
def test_cut_lines_are_marked(num):
    """Lines of the same keys with a smaller limit are prefixes of the longer lines."""
    lm = small_lm("bigram")
    whole = assemble.sample(lm, KEY, num)
    short = assemble.sample(lm._replace(max_len=4), KEY, num)
    assert [line.text for line in short] == [line.text[:3] for line in whole]
    assert [line.is_cut for line in short] == [len(line.text) > 3 for line in whole]
    assert {len(line.text) for line in short if not line.is_cut} == {0, 1, 2, 3}
    assert {len(line.text) for line in whole if line.is_cut} == {BLOCK - 1}


def test_sample_new_gives_only_lines_that_are_not_in_the_data(names):
    uniform = np.full((names.vocab.size, names.vocab.size), 1 / names.vocab.size)
    lm = bigram_lm(uniform, names.block_size)._replace(vocab=names.vocab)
    params = lm.variables["params"]
    params["logits"] = params["logits"].at[:, 0].add(2.0)  # short lines, many of them in the data
    some_known = sampling.sample(lm, KEY, 400)
    assert "train" in names.found_in([line.text for line in some_known])
    new = new_lines.sample_new(lm, names, KEY, 400)
    assert len(new) == 400
    assert set(names.found_in([line.text for line in new])) == {"new"}
    assert not any(
        line.is_cut for line in new_lines.sample_new(lm._replace(max_len=5), names, KEY, 40)
    )


def test_each_round_of_new_lines_continues_the_previous_one(names, monkeypatch):
    """No line number is drawn twice. Greedy decoding has one round, as all its lines are equal."""
    drawn = []

    def sample(lm, key, num, prompt, decoding, first):
        drawn.append(range(first, first + num))
        return [Sample("emma", 0.0)] * num  # a name that is in the data

    monkeypatch.setattr(assemble, "sample", sample)
    monkeypatch.setattr(new_lines, "MAX_ROUNDS", 4)
    lm = small_lm("bigram")
    assert new_lines.sample_new(lm, names, KEY, 3) == []
    assert drawn == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    drawn.clear()
    assert new_lines.sample_new(lm, names, KEY, 3, decoding=Decoding(temperature=0)) == []
    assert drawn == [range(3)]


def test_score_of_a_known_table():
    table = np.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25], [0.1, 0.3, 0.6]])
    scores = scoring.score(bigram_lm(table), ["a", "ab", "aab"])
    expected = [0.8 * 0.5, 0.8 * 0.25 * 0.1, 0.8 * 0.25 * 0.25 * 0.1]
    np.testing.assert_allclose(scores, np.log(expected), atol=1e-6)

"""Networks mixed with counted n-grams."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close, assert_one_line, run, small_config

from makemore_jax import assemble
from makemore_jax.assemble import create_model, load_data
from makemore_jax.assemble.programs import make_programs
from makemore_jax.assemble.parts import validate
from makemore_jax.data.lines import Lines
from makemore_jax.ngrams import counting, mixture

ROWS = 4096
FLAGS = [f"--config.model.ngram_contexts={ROWS}", "--config.model.ngram_weight=0.3"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A file with 500 names."""
    path = tmp_path_factory.mktemp("words") / "words.txt"
    lines = (ROOT / "names.txt").read_text("utf-8").splitlines()[:500]
    path.write_text("\n".join(lines), "utf-8")
    return path


def make(words, weight=0.3, rows=ROWS, **model):
    """Return the data, the programs and the first state of a small mixture."""
    config = small_config("modern")
    config.data.path = str(words)
    config.model.ngram_contexts, config.model.ngram_weight = rows, weight
    for name, value in model.items():
        setattr(config.model, name, value)
    validate(config)
    data = load_data(config.data, config.seed)
    config.data.block_size = data.block_size
    programs = make_programs(config, data)
    return data, programs, programs.create_state(jax.random.key(1))


def test_with_a_weight_near_1_losses_are_those_of_the_counts(words):
    data, programs, state = make(words, weight=1 - 1e-7)
    counts = counting.count(data.splits["train"], mixture.MAX_ORDER, data.vocab.size)
    for split in data.splits.values():
        assert_close(programs.evaluate(state.variables, split), counting.nll(counts, split))


def test_the_mixture_is_a_weighted_mean_of_probabilities(words):
    data, programs, state = make(words)
    counts = counting.count(data.splits["train"], mixture.MAX_ORDER, data.vocab.size)
    line = np.array([[0, *data.vocab.encode("anelia")]])
    plain = create_model(small_config("modern").model, data.vocab.size, data.block_size)
    network = jax.nn.softmax(plain.apply({"params": state.params}, line))[0]
    mixed = jnp.exp(programs.model.apply(state.variables, line))[0]
    for t in range(line.shape[1]):
        newest = line[0, max(0, t + 2 - mixture.MAX_ORDER) : t + 1]
        context = sum(int(token) * data.vocab.size**i for i, token in enumerate(newest[::-1]))
        grams = context * data.vocab.size + np.arange(data.vocab.size)
        expected = 0.7 * network[t] + 0.3 * counting.probabilities(counts, grams)
        assert_close(mixed[t], expected)


def test_one_position_at_a_time_gives_the_same(words):
    data, programs, state = make(words)
    tokens = data.splits["dev"].take(jnp.arange(5)).inputs
    whole = programs.model.apply(state.variables, tokens)
    carry = programs.model.apply(state.variables, 5, method="init_carry")
    step = jax.jit(partial(programs.model.apply, state.variables, method="step"))
    for t in range(tokens.shape[1]):
        carry, logits = step(carry, tokens[:, t])
        assert_close(logits, whole[:, t])


def test_a_packed_line_does_not_see_the_line_before_it(words):
    data, programs, state = make(words)
    first, second = [0, *data.vocab.encode("emma")], [0, *data.vocab.encode("ann")]
    positions = jnp.array([[*range(len(first)), *range(len(second))]])
    packed = programs.model.apply(state.variables, jnp.array([first + second]), positions=positions)
    alone = programs.model.apply(state.variables, jnp.array([second]))
    assert_close(packed[0, len(first) :], alone[0])


def test_training_is_that_of_the_network_alone(words):
    data, programs, state = make(words, dropout=0.1)
    _, plain, plain_state = make(words, weight=0.0, rows=None, dropout=0.1)
    key = jax.random.key(2)
    table = jax.device_get(state.model_state)
    state, metrics = programs.train_steps(state, data.splits["train"], key, 3)
    plain_state, plain_metrics = plain.train_steps(plain_state, data.splits["train"], key, 3)
    jax.tree.map(np.testing.assert_array_equal, state.params, plain_state.params)
    np.testing.assert_array_equal(metrics["train_loss"], plain_metrics["train_loss"])
    jax.tree.map(np.testing.assert_array_equal, state.model_state, table)


def test_a_run_saves_and_samples_the_mixture(words, tmp_path):
    config = small_config("modern", steps=4, eval_every=2, checkpoint_every=2, sample_every=4)
    config.data.path = str(words)
    config.model.ngram_contexts, config.model.ngram_weight = ROWS, 1 - 1e-7
    summary = assemble.train(config, str(tmp_path))
    data = load_data(config.data, config.seed)
    counts = counting.count(data.splits["train"], mixture.MAX_ORDER, data.vocab.size)
    assert_close(summary["test_loss"], counting.nll(counts, data.splits["test"]))
    lm = assemble.load_language_model(tmp_path, assemble.read_run(tmp_path))
    for sample in assemble.sample(lm, jax.random.key(3), 5):
        tokens = [0, *data.vocab.encode(sample.text), 0]
        line = Lines(np.array(tokens), np.array([0, len(tokens) - 1]), data.block_size)
        assert_close(sample.log_prob, -counting.nll(counts, line) * (len(tokens) - 1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.ngram_contexts=50"], "model.ngram_contexts: 50 must be at least "),
        (["--config.model.ngram_weight=0.5"], "model.ngram_weight: 0.5 must be 0 without"),
        ([*FLAGS, "--config.data.kind=text"], f"model.ngram_contexts: {ROWS} must be null"),
        ([*FLAGS, "--config.model.kind=gru"], f"model.ngram_contexts: {ROWS} must be null"),
    ],
)
def test_a_mixture_that_is_not_possible_is_refused(flags, message, tmp_path):
    done = run("train.py", "--config", "modern", *flags, "--workdir", tmp_path / "w")
    assert_one_line(done, "train.py", message)
    assert not (tmp_path / "w").exists()

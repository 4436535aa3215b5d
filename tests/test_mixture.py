"""The family mixture: several networks and counted n-grams as one model."""

import operator
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, assert_close, assert_one_line, on_devices, run, small_config

from makemore_jax import assemble
from makemore_jax.assemble import load_data
from makemore_jax.assemble.components import validate
from makemore_jax.assemble.programs import make_programs
from makemore_jax.data.lines import Lines
from makemore_jax.decoding import LanguageModel
from makemore_jax.diagnostics import make_diagnose
from makemore_jax.errors import UserError
from makemore_jax.mixture import counting, table
from makemore_jax.mixture.gradients import each_network
from makemore_jax.report.attention import attention_weights
from makemore_jax.report.collect import first_network
from makemore_jax.sweep.axes import with_values
from makemore_jax.training.step import gradients

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
    config = small_config("mixture")
    config.data.path = str(words)
    config.model.ngram_contexts, config.model.ngram_weight = rows, weight
    config.model.networks, config.model.n_layer, config.train.batch_size = 2, 1, 6
    for name, value in model.items():
        setattr(config.model, name, value)
    validate(config)
    data = load_data(config.data, config.seed)
    config.data.block_size = data.block_size
    programs = make_programs(config, data)
    return data, programs, programs.create_state(jax.random.key(1))


@pytest.fixture(scope="module")
def mixture(words):
    """A mixture that no test trains, because the training steps delete the arrays of its state."""
    return make(words)


@pytest.mark.slow
def test_with_a_weight_near_1_losses_are_those_of_the_counts(words):
    data, programs, state = make(words, weight=1 - 1e-7)
    counts = counting.count(data.splits["train"], table.MAX_ORDER, data.vocab.size)
    for split in data.splits.values():
        assert_close(programs.evaluate(state.variables, split), counting.nll(counts, split))


def test_the_mixture_is_a_weighted_mean_of_probabilities(mixture):
    data, programs, state = mixture
    counts = counting.count(data.splits["train"], table.MAX_ORDER, data.vocab.size)
    line = np.array([[0, *data.vocab.encode("anelia")]])
    network = programs.model.network(parent=None)
    apply = jax.jit(network.apply)
    networks = [
        jax.nn.softmax(apply({"params": params}, line))[0] for params in state.params.values()
    ]
    assert len(networks) == 2
    mixed = jnp.exp(jax.jit(programs.model.apply)(state.variables, line))[0]
    for t in range(line.shape[1]):
        newest = line[0, max(0, t + 2 - table.MAX_ORDER) : t + 1]
        context = sum(int(token) * data.vocab.size**i for i, token in enumerate(newest[::-1]))
        grams = context * data.vocab.size + np.arange(data.vocab.size)
        mean = (networks[0][t] + networks[1][t]) / 2
        expected = 0.7 * mean + 0.3 * counting.probabilities(counts, grams)
        assert_close(mixed[t], expected)


def test_one_position_at_a_time_gives_the_same(mixture):
    data, programs, state = mixture
    tokens = data.splits["dev"].take(jnp.arange(5)).inputs
    whole = jax.jit(programs.model.apply)(state.variables, tokens)
    carry = programs.model.apply(state.variables, 5, method="init_carry")
    step = jax.jit(partial(programs.model.apply, state.variables, method="step"))
    for t in range(tokens.shape[1]):
        carry, logits = step(carry, tokens[:, t])
        assert_close(logits, whole[:, t])


def test_a_packed_line_does_not_see_the_line_before_it(mixture):
    data, programs, state = mixture
    first, second = [0, *data.vocab.encode("emma")], [0, *data.vocab.encode("ann")]
    positions = jnp.array([[*range(len(first)), *range(len(second))]])
    apply = jax.jit(programs.model.apply)
    packed = apply(state.variables, jnp.array([first + second]), positions=positions)
    alone = apply(state.variables, jnp.array([second]))
    assert_close(packed[0, len(first) :], alone[0])


def test_the_history_of_a_packed_line_that_continues_in_the_next_row():
    """Two lines, (0, 5, 6, 7) and (0, 8), in rows of three tokens."""
    packed = jnp.array([[0, 5, 6], [7, 0, 8]])
    histories = table.histories(packed, jnp.array([[0, 1, 2], [3, 0, 1]]), vocab_size=9)
    whole = table.histories(jnp.array([[0, 5, 6, 7], [0, 8, 0, 0]]), None, vocab_size=9)
    np.testing.assert_array_equal(histories.reshape(6, -1)[:4], whole[0])
    np.testing.assert_array_equal(histories.reshape(6, -1)[4:], whole[1, :2])
    assert histories[1, 0].tolist() == [8, 7, 6, 1, 0]


def test_each_network_learns_from_its_part_of_the_batch(mixture):
    data, programs, state = mixture
    network, split = programs.model.network(parent=None), data.splits["train"]
    indices, key = jnp.array([3, 1, 4, 1, 5, 9]), jax.random.key(2)
    sums = jax.jit(each_network(gradients(network), 2))(state.variables, split, indices, key)
    alone = jax.jit(gradients(network))
    parts = [
        alone({"params": params}, split, part, key)
        for params, part in zip(state.params.values(), (indices[:3], indices[3:]), strict=True)
    ]
    assert_close(sums.loss, parts[0].loss + parts[1].loss)
    assert sums.count == parts[0].count + parts[1].count
    for grads, part in zip(sums.grads.values(), parts, strict=True):
        mean = jax.tree.map(lambda g: g / part.count, part.grads)  # noqa: B023
        jax.tree.map(lambda g, m: assert_close(g / sums.count, m), grads, mean)


@pytest.mark.slow
def test_training_changes_all_networks_but_not_the_table(words):
    data, programs, state = make(words, dropout=0.1)
    before = jax.device_get(state)
    state, _ = programs.train_steps(state, data.splits["train"], jax.random.key(2), 3)
    is_same = jax.tree.map(lambda a, b: bool((a == b).all()), before.params, state.params)
    assert not any(jax.tree.leaves(is_same))
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before.model_state)


@pytest.mark.slow
def test_a_sharded_mixture_resumes(words, tmp_path):
    flags = ["--config", "best", *FLAGS, f"--config.data.path={words}", "--workdir", tmp_path / "w"]
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "networks": 2}
    flags += [f"--config.model.{name}={size}" for name, size in sizes.items()]
    flags += ["--config.mesh.data=2", "--config.mesh.fsdp=True", "--config.train.num_samples=0"]
    flags += ["--config.train.batch_size=8"]
    for steps in (2, 4):
        done = run("train.py", *flags, f"--config.train.steps={steps}", **on_devices(2))
        assert done.returncode == 0, done.stderr
    assert "resuming from step 2" in done.stdout


@pytest.mark.slow
def test_diagnostics_are_those_of_each_network_and_its_part_of_the_batch(words):
    data, programs, state = make(words, dropout=0.2)
    split, key = data.splits["train"], jax.random.key(2)
    indices = jnp.array([3, 1, 4, 1, 5, 9])
    result = make_diagnose(programs.model, optax.sgd(0.1))(
        state.replace(opt_state=optax.sgd(0.1).init(state.params)), split.take(indices), key
    )
    gradient_fn = each_network(gradients(programs.model.network(parent=None)), 2)
    sums = jax.jit(gradient_fn)(state.variables, split, indices, key)
    for path, grad in jax.tree_util.tree_leaves_with_path(sums.grads):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        param = reduce(operator.getitem, name.split("."), state.params)
        expected = (grad / sums.count).std() / param.std()
        assert result["grad_to_data"][name] == pytest.approx(float(expected), rel=1e-4), name
    layers = list(result["activations"])
    assert {name.partition(".")[0] for name in layers} == {"members_0", "members_1"}
    assert result["activations"].keys() == result["activation_gradients"].keys()


@pytest.mark.slow
def test_two_states_share_no_arrays(words):
    """The training steps delete the arrays of their input."""
    data, programs, state = make(words)
    other = programs.create_state(jax.random.key(1))
    programs.train_steps(state, data.splits["train"], jax.random.key(2), 3)
    assert np.isfinite(programs.evaluate(other.variables, data.splits["dev"]))


def test_a_run_saves_and_samples_the_mixture(words, tmp_path):
    config = small_config("mixture", steps=4, eval_every=2, checkpoint_every=2, sample_every=4)
    config.data.path = str(words)
    config.model.ngram_contexts, config.model.ngram_weight = ROWS, 1 - 1e-7
    summary = assemble.train(config, str(tmp_path))
    data = load_data(config.data, config.seed)
    counts = counting.count(data.splits["train"], table.MAX_ORDER, data.vocab.size)
    assert_close(summary["test_loss"], counting.nll(counts, data.splits["test"]))
    lm = assemble.load_language_model(tmp_path, assemble.read_run(tmp_path))
    for sample in assemble.sample(lm, jax.random.key(3), 5):
        tokens = [0, *data.vocab.encode(sample.text), 0]
        line = Lines(np.array(tokens), np.array([0, len(tokens) - 1]), data.block_size)
        assert_close(sample.log_prob, -counting.nll(counts, line) * (len(tokens) - 1))


@pytest.mark.slow
def test_networks_continue_a_text(words, tmp_path):
    """With a loop over the layers, as on a TPU, logits change only by rounding."""
    config = small_config("mixture", steps=2, eval_every=2, checkpoint_every=2, sample_every=4)
    config.data.path, config.data.kind, config.data.block_size = str(words), "text", 8
    config.model.networks, config.train.batch_size = 2, 6
    config.model.dropout, config.model.dropout_rng = 0.2, "rbg"
    assemble.train(config, str(tmp_path))
    lm = assemble.load_language_model(tmp_path, assemble.read_run(tmp_path), max_len=20)
    (text,) = assemble.sample(lm, jax.random.key(3), 1)
    assert len(text.text) == 20
    tokens = jnp.array([lm.vocab.encode(text.text[:8])])
    unrolled, looped = lm.model, lm.model.clone(layer_loop="scan")
    logits = [jax.jit(model.apply)(lm.variables, tokens) for model in (unrolled, looped)]
    assert_close(*logits)


def test_a_report_shows_the_first_network(mixture):
    data, programs, state = mixture
    lm = LanguageModel(programs.model, state.variables, data.vocab, data.max_len, data.block_size)
    first = first_network(lm)
    tokens = jnp.array([[0, *data.vocab.encode("emma")]])
    network = programs.model.network(parent=None)
    expected = jax.jit(network.apply)({"params": state.params["members_0"]}, tokens)
    logits = jax.jit(first.model.apply)(first.variables, tokens)
    np.testing.assert_array_equal(logits, expected)
    (weights,) = attention_weights(first, ["emma"])
    assert weights.shape == (1, 2, 5, 5)  # layers, heads, tokens
    assert first_network(first) is first


def test_a_table_that_is_too_large_is_refused(words):
    with pytest.raises(UserError, match=r"20000000 rows of 26 probabilities are"):
        make(words, rows=20_000_000)


def test_a_sweep_refuses_a_mixture():
    with pytest.raises(UserError, match=r"^model.kind: a sweep can't train a mixture"):
        with_values(small_config("mixture"), {"optimizer.learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.ngram_contexts=50"], "model.ngram_contexts: 50 must be at least "),
        (["--config.model.ngram_contexts=None"], "model.ngram_weight: 0.35 must be 0 without"),
        ([*FLAGS, "--config.data.kind=text"], f"model.ngram_contexts: {ROWS} must be None"),
        (["--config.model.kind=gru"], "gru models do not have it"),
        (["--config.train.batch_size=5"], "train.batch_size: 5 must be divisible by"),
        (
            ["--config.train.batch_size=12", "--config.train.accumulate=2"],
            "train.batch_size: 12 must be divisible by model.networks * train.accumulate=8",
        ),
        (
            ["--config.train.batch_size=100", "--config.mesh.data=2"],
            "mesh.data: a batch of 100 is not divisible by 2 devices x 4 networks",
        ),
    ],
)
def test_a_mixture_that_is_not_possible_is_refused(flags, message, tmp_path):
    done = run("train.py", "--config", "best", *flags, "--workdir", tmp_path / "w", **on_devices(2))
    assert_one_line(done, "train.py", message)
    assert not (tmp_path / "w").exists()

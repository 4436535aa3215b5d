"""The step, the optimizer and the evaluation, each compared with a direct computation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
    AS_USERS_RUN,
    BLOCK,
    FAMILIES,
    VOCAB,
    assert_close,
    assert_same,
    make_batch_step,
    quick_of,
    run,
    small_config,
    small_model,
)

from makemore_jax import data, losses
from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.config import OptimizerConfig
from makemore_jax.kernels import layouts
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import evaluate
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer, make_schedule
from makemore_jax.training.step import step_keys

pytestmark = pytest.mark.versions

B, T = 3, 5


def random_batch(batch_size=B, length=BLOCK):
    """Return inputs, and targets with some entries -1."""
    key, mask_key = jax.random.split(jax.random.key(9))
    tokens = jax.random.randint(key, (2, batch_size, length), 0, VOCAB)
    is_real = jax.random.bernoulli(mask_key, 0.6, (batch_size, length))
    return tokens[0], jnp.where(is_real, tokens[1], -1)


def test_loss_is_the_mean_over_targets_that_are_not_padding():
    _, targets = random_batch()
    logits = 3 * jax.random.normal(jax.random.key(1), (B, BLOCK, VOCAB))
    expected = []
    for row, target in zip(
        np.asarray(logits, np.float64).reshape(-1, VOCAB), targets.ravel(), strict=True
    ):
        if target != -1:
            expected.append(np.log(np.exp(row).sum()) - row[target])
    assert len(expected) < B * BLOCK
    assert_close(losses.mean_loss(logits, targets), np.mean(expected), 1e-6)
    by_optax = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    assert_close(losses.mean_loss(logits, targets), by_optax[targets != -1].mean(), 1e-6)


def test_loss_ignores_padding_exactly():
    """The logits of padding change no bit of the loss or of the gradient."""
    _, targets = random_batch()
    padding = targets == -1
    logits = jax.random.normal(jax.random.key(1), (B, BLOCK, VOCAB))
    other = jnp.where(padding[..., None], 1e4 * logits - 7, logits)
    loss, gradient = jax.value_and_grad(losses.mean_loss)(logits, targets)
    other_loss, other_gradient = jax.value_and_grad(losses.mean_loss)(other, targets)
    assert loss == other_loss
    assert_same(gradient, other_gradient)
    assert (gradient[padding] == 0).all()
    assert (np.abs(gradient[~padding]).sum(axis=-1) > 0).all()


def test_the_loss_of_a_batch_of_padding_is_0():
    assert losses.mean_loss(jnp.ones((B, T, VOCAB)), jnp.full((B, T), -1)) == 0


def apply_gradients(optimizer, gradients: np.ndarray, start: np.ndarray) -> list:
    """Return the parameters after each gradient."""
    params = jnp.asarray(start)
    state, path = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def run_optimizer(config: OptimizerConfig, gradients: np.ndarray, start: np.ndarray) -> list:
    return apply_gradients(make_optimizer(config, steps=len(gradients)), gradients, start)


GRADIENTS = np.random.RandomState(1).randn(7, 3).astype(np.float32)
START = np.array([1.0, -2.0, 0.5], np.float32)


def test_adamw_matches_pytorch():
    """Follow the documentation of torch.optim.AdamW: decay first, eps outside the root."""
    config = OptimizerConfig(learning_rate=0.1, b1=0.9, b2=0.99, weight_decay=0.3)
    p, m, v = START.astype(np.float64), 0.0, 0.0
    for t, (g, result) in enumerate(
        zip(GRADIENTS, run_optimizer(config, GRADIENTS, START), strict=True), start=1
    ):
        p = p * (1 - 0.1 * 0.3)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        assert_close(result, p, 2e-6)


def test_sgd_with_weight_decay_and_steps_matches_pytorch():
    config = OptimizerConfig("sgd", 0.1, weight_decay=0.3, schedule="step", step_size=3, gamma=0.5)
    p = START.astype(np.float64)
    for t, (g, result) in enumerate(
        zip(GRADIENTS, run_optimizer(config, GRADIENTS, START), strict=True)
    ):
        p = p - 0.1 * 0.5 ** (t // 3) * (g + 0.3 * p)
        assert_close(result, p, 1e-6)


def test_muon_orthogonalizes_matrices_and_leaves_the_rest_to_adamw():
    """All singular values of an update are nearly equal, and its RMS is that of AdamW, about 0.2.

    Weight decay is decoupled, and decay="matrices" does not decay the rest.
    """
    noise = np.random.RandomState(3)
    params = {"matrix": noise.randn(7, 5), "vector": noise.randn(5), "table": noise.randn(2, 3, 5)}
    grads = jax.tree.map(lambda a: noise.randn(*a.shape), params)
    config = OptimizerConfig("muon", 0.1, b1=0.8, b2=0.95, weight_decay=0.0)

    def first_update(config):
        optimizer = make_optimizer(config, steps=1)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    update = first_update(config)
    _, expected, _ = np.linalg.svd(update["matrix"])
    assert np.allclose(expected, 0.1 * 0.2 * 7**0.5, rtol=0.4)
    assert np.ptp(np.linalg.svd(grads["matrix"])[1]) > 2.5
    assert (np.einsum("ij,ij", update["matrix"], grads["matrix"])) < 0  # downhill
    adam = optax.adamw(0.1, b1=0.8, b2=0.95, weight_decay=0.0, nesterov=True)
    for name in ("vector", "table"):
        expected, _ = adam.update(grads[name], adam.init(params[name]), params[name])
        assert_close(update[name], expected, 1e-6)
    for decay, in_rest in (("all", 0.3), ("matrices", 0.0)):
        decayed = first_update(dataclasses.replace(config, weight_decay=0.3, decay=decay))
        difference = jax.tree.map(lambda a, b: a - b, decayed, update)
        assert_close(difference["matrix"], -0.1 * 0.3 * params["matrix"], 1e-6)
        for name in ("vector", "table"):
            assert_close(difference[name], -0.1 * in_rest * params[name], 1e-6)


def test_muon_updates_the_rest_with_both_decays():
    """From the second step on, an update depends on b1 and b2."""
    config = OptimizerConfig("muon", 0.1, b1=0.8, b2=0.5, weight_decay=0.0)
    adam = optax.adamw(0.1, b1=0.8, b2=0.5, weight_decay=0.0, nesterov=True)
    result = run_optimizer(config, GRADIENTS, START)
    assert_close(result, apply_gradients(adam, GRADIENTS, START), 1e-6)


def test_clipping_is_by_the_global_norm():
    """The gradient is clipped before weight decay and learning rate."""
    config = OptimizerConfig("sgd", 0.1, weight_decay=0.3, grad_clip=0.5)
    long, short = np.array([3.0, 4.0, 0.0], np.float32), np.array([0.3, 0.0, 0.0], np.float32)
    first, second = run_optimizer(config, np.stack([long, short]), START)
    assert_close(START - first, 0.1 * (0.5 * long / 5 + 0.3 * START), 1e-6)
    assert_close(first - second, 0.1 * (short + 0.3 * first), 1e-6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [2, 2, 2, 2, 2, 2, 2, 2]),
        ({"schedule": "step", "step_size": 3, "gamma": 0.1}, [2, 2, 2, 0.2, 0.2, 0.2, 0.02, 0.02]),
        (
            {"schedule": "step", "step_size": 3, "gamma": 0.1, "warmup_steps": 2},
            [1, 2, 2, 2, 2, 0.2, 0.2, 0.2],
        ),
        ({"warmup_steps": 4}, [0.5, 1, 1.5, 2, 2, 2, 2, 2]),
        ({"warmup_steps": 1}, [2, 2, 2, 2, 2, 2, 2, 2]),
        (
            {"schedule": "cosine", "warmup_steps": 2, "min_learning_rate": 1.0},
            [1, 2, *(1.5 + 0.5 * np.cos(np.pi * np.arange(6) / 6))],
        ),
        (
            {"schedule": "cosine", "decay_steps": 4, "min_learning_rate": 1.0},
            [*(1.5 + 0.5 * np.cos(np.pi * np.arange(4) / 4)), 1, 1, 1, 1],
        ),
        (
            {"schedule": "cosine", "warmup_steps": 2, "decay_steps": 6, "min_learning_rate": 1.0},
            [1, 2, *(1.5 + 0.5 * np.cos(np.pi * np.arange(4) / 4)), 1, 1],
        ),
        (  # steps 0 and 1 have 1/3 and 2/3 of the learning rate, step 2 has all of it
            {"schedule": "nanogpt", "warmup_steps": 2, "min_learning_rate": 1.0},
            [2 / 3, 4 / 3, *(1.5 + 0.5 * np.cos(np.pi * np.arange(6) / 6))],
        ),
    ],
)
def test_schedules(fields, expected):
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, **fields), steps=8)
    assert_close([schedule(i) for i in range(8)], expected, 1e-6)


def test_cosine_ends_at_its_minimum():
    config = OptimizerConfig(schedule="cosine", min_learning_rate=1e-5)
    assert_close(1e5 * make_schedule(config, 100)(100), 1.0, 1e-5)


def start(kind, batch_size=5, devices=1):
    """Return compiled steps of a small model, a function for its first state, and names.txt."""
    config = small_config(kind)
    config.mesh.data = devices
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, 20)
    mesh = make_mesh(config.mesh, batch_size, num_params=0)
    chosen = layouts.choose(dataset.splits["train"], batch_size, model, devices)
    steps = programs.compile_steps(model, optimizer, batch_size, chosen, mesh)

    def first():
        return state_lib.create(model, optimizer, jax.random.key(0), dataset.block_size)

    return steps, first, dataset.splits["train"]


CUT = """
import sys
sys.path.insert(0, "tests")
import jax
import jax.numpy as jnp
from test_training import assert_same, start

steps, first, split = start(sys.argv[1])
key = jax.random.key(2)
whole, metrics = steps(first(), split, key, num_steps=12)
state, losses = first(), []
for _ in range(12):  # a program for another number of steps would take seconds to compile
    state, part = steps(state, split, key, num_steps=1)
    losses.append(part["train_loss"])
assert_same(state, whole)
assert_same(jnp.concatenate(losses), metrics["train_loss"])
assert int(whole.step) == 12
"""


@pytest.mark.parametrize("kind", quick_of(["bigram", "gru", "transformer"], []))
def test_steps_do_not_depend_on_their_division_into_calls(kind):
    """They are equal bit for bit, so the step at which a run stops does not matter."""
    done = run("-c", CUT, kind, **AS_USERS_RUN)
    assert done.returncode == 0, done.stderr


def test_batch_and_dropout_of_each_step_have_different_keys():
    run_keys = jax.random.split(jax.random.key(1))
    keys = [key for step in range(2) for key in step_keys(run_keys, step)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4


@pytest.mark.slow
def test_each_step_has_its_own_batch_and_dropout_mask():
    """With a learning rate of almost 0, only batch and dropout change the loss."""
    config = small_config("transformer")
    config.optimizer.learning_rate = 1e-30
    vocab = data.Vocab(tuple("abcdefgh"))
    many = data.lines.encode([a + b for a in vocab.chars for b in vocab.chars], vocab, 3)
    one = data.lines.encode(["ab"], vocab, 3)
    optimizer = make_optimizer(config.optimizer, 20)
    mesh = make_mesh(config.mesh, 5, num_params=0)
    for dropout, split in ((0.0, many), (0.5, one)):
        config.model.dropout = dropout
        model = create_model(config.model, vocab.size, 3)
        chosen = layouts.choose(split, 5, model)
        steps = programs.compile_steps(model, optimizer, 5, chosen, mesh)
        state = state_lib.create(model, optimizer, jax.random.key(0), 3)
        _, metrics = steps(state, split, jax.random.key(1), num_steps=7)
        assert len(set(metrics["train_loss"].tolist())) == 7


def test_the_state_is_donated():
    """The new state reuses the memory of the old one, so the old state can't be read again."""
    steps, first, split = start("mlp")
    state = first()
    steps(state, split, jax.random.key(2), num_steps=2)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_train_step_is_pure():
    model, _ = small_model("rnn")
    optimizer = optax.adam(0.1)
    train_step = jax.jit(make_batch_step(model, optimizer))
    state = state_lib.create(model, optimizer, jax.random.key(0), BLOCK)
    first = train_step(state, random_batch(), jax.random.key(1))
    assert_same(first, train_step(state, random_batch(), jax.random.key(1)))
    assert int(state.step) == 0


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["bigram", "mlp"]))
def test_evaluation_is_exact(kind, names):
    """Every line counts once, weighted by tokens, although the last batch is not full."""
    model, params = small_model(kind, names.vocab.size, names.block_size)
    split = names.splits["dev"]
    assert split.size > split.eval_batch_size() and split.size % split.eval_batch_size() != 0
    inputs, targets, _ = split.take(jnp.arange(split.size))
    log_probs = jax.nn.log_softmax(jax.jit(model.apply)({"params": params}, inputs))
    rows = np.asarray(log_probs).reshape(-1, names.vocab.size)
    chosen = np.asarray(targets).ravel()
    expected = -rows[np.arange(len(rows)), chosen][chosen != -1].mean()
    result = evaluate.make_evaluate(model)({"params": params}, split)
    assert abs(result - expected) < 1e-5


def test_evaluation_of_the_first_lines(names):
    model, params = small_model("bigram", names.vocab.size, names.block_size)
    variables, run = {"params": params}, evaluate.make_evaluate(model)
    head = data.lines.encode(names.words["dev"][:37], names.vocab, names.block_size)
    assert run(variables, names.splits["dev"], 37) == pytest.approx(run(variables, head), rel=1e-6)

"""Layouts: removing padding changes neither loss nor gradient."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    FAMILIES,
    assert_close,
    make_loss_and_grads,
    on_devices,
    quick_of,
    run,
    small_config,
)

from makemore_jax import data, losses, models
from makemore_jax.assemble import create_model, programs
from makemore_jax.kernels import layouts
from makemore_jax.kernels.layouts import Packed, Rows, choose, layout_index
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

WORDS = ["ab", "abcdefg", "a", "hgfedcb", "bb", "cdc", "e", "fgh", "dddd", "hhhhhh", "ga", "f"]
VOCAB = data.Vocab(tuple("abcdefgh"))
SPLIT = data.lines.encode(WORDS, VOCAB, block_size=9)
ALL = jnp.arange(len(WORDS))
PACKING = [kind for kind in FAMILIES if kind not in ("rnn", "gru", "lstm")]


def model_of(kind):
    """Return a small model of a family for WORDS, and parameters that are all nonzero."""
    config = small_config(kind)
    model = create_model(config.model, VOCAB.size, SPLIT.block_size)
    shapes = models.variable_shapes(model, SPLIT.block_size)["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), a.dtype), shapes)


def test_packed_lines_follow_each_other():
    batch = layouts.take_packed(SPLIT, jnp.array([1, 0, 2, 7]), num_rows=3, width=9)
    inputs, targets, positions = batch.inputs, batch.targets, batch.options["positions"]
    tokens = [0, *VOCAB.encode("abcdefg"), 0, *VOCAB.encode("ab"), 0, *VOCAB.encode("a")]
    tokens += [0, *VOCAB.encode("fgh"), 0]
    assert inputs.shape == targets.shape == positions.shape == (3, 9)
    assert inputs.flatten()[:17].tolist() == tokens[:17]
    assert targets.flatten()[:17].tolist() == tokens[1:]
    assert (targets.flatten()[17:] == -1).all()
    assert positions.flatten()[:17].tolist() == [*range(8), *range(3), *range(2), *range(4)]


@pytest.mark.parametrize("kind", quick_of(PACKING, ["transformer"]))
@pytest.mark.parametrize("num_rows", quick_of([6, 8], [6]))
def test_packed_lines_equal_rows(kind, num_rows):
    """Values agree to 1e-6 and gradients to 1e-5, also if lines continue in the next row."""
    model, params = model_of(kind)
    loss_and_grads, key = jax.jit(make_loss_and_grads(model)), jax.random.key(0)
    packed = layouts.take_packed(SPLIT, ALL, num_rows, width=9)
    assert int((packed[1] != -1).sum()) == sum(len(word) + 1 for word in WORDS)
    (loss, _), grads = loss_and_grads(params, {}, packed, key)
    (plain_loss, _), plain_grads = loss_and_grads(params, {}, SPLIT.take(ALL), key)
    assert float(plain_loss) > 1.5
    assert_close(loss, plain_loss, 1e-6)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), grads, plain_grads)

    apply = jax.jit(model.apply)
    logits = apply({"params": params}, packed[0], **packed.options)
    inputs, targets, _ = SPLIT.take(ALL)
    plain = apply({"params": params}, inputs)
    assert_close(logits[packed[1] != -1], plain[targets != -1], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["gru"]))
def test_rows_cut_to_the_longest_line_compute_the_same(kind):
    model, params = model_of(kind)
    short, key = jnp.array([0, 2, 4, 6]), jax.random.key(0)
    loss_and_grads = jax.jit(make_loss_and_grads(model))
    (loss, _), grads = loss_and_grads(params, {}, Rows(3).take(SPLIT, short), key)
    (plain_loss, _), plain_grads = loss_and_grads(params, {}, SPLIT.take(short), key)
    assert_close(loss, plain_loss, 1e-6)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), grads, plain_grads)


def test_each_batch_uses_the_first_layout_that_fits():
    chosen = [Rows(3), Rows(6), Rows(9)]
    for lengths, expected in (([3, 1], 0), ([4, 1], 1), ([6, 6], 1), ([7, 1], 2), ([9, 9], 2)):
        assert layout_index(chosen, jnp.array(lengths)) == expected
    # If each device has one part of the batch, all parts must fit.
    assert layout_index(chosen, jnp.array([[1, 1], [1, 7]])) == 2
    chosen = [Packed(2, 8), Rows(9)]
    for lengths, expected in (([8, 8], 0), ([9, 8], 1), ([[8, 8], [8, 9]], 1)):
        assert layout_index(chosen, jnp.array(lengths)) == expected


@pytest.mark.parametrize("kind", FAMILIES)
def test_layouts_for_names(kind, names):
    """Few batches of names need whole rows."""
    split, model = names.splits["train"], model_of(kind)[0]
    chosen = choose(split, 32, model)
    assert chosen[-1] == Rows(split.block_size)
    assert isinstance(chosen[0], Packed if kind in PACKING else Rows)
    assert ("positions" in inspect.signature(type(model).__call__).parameters) == (kind in PACKING)
    indices = jax.random.randint(jax.random.key(0), (500, 32), 0, split.size)
    results = jax.vmap(lambda i: layout_index(chosen, split.lengths(i)))(indices)
    share = np.bincount(results, minlength=len(chosen)) / 500
    assert share[-1] < (0.01 if kind in PACKING else 0.12)
    assert share[0] > (0.99 if kind in PACKING else 0.45)


def test_lines_of_one_length_stay_in_rows():
    split = data.lines.encode(["abcdefg"] * 40, VOCAB, block_size=8)
    for kind in ("rnn", "transformer"):
        assert choose(split, 8, model_of(kind)[0]) == [Rows(8)]


STEPS = """
import sys
sys.path.insert(0, "tests")
from test_layouts import check_steps
check_steps(sys.argv[1], int(sys.argv[2]))
"""


def check_steps(kind, devices):
    """Twelve steps that switch between layouts equal twelve steps in whole rows."""
    config = small_config(kind)
    config.mesh.data = devices
    config.optimizer.name = "sgd"  # Adam would amplify rounding errors in gradients of 0
    model, params = model_of(kind)
    optimizer, key = make_optimizer(config.optimizer, 20), jax.random.key(2)
    mesh = make_mesh(config.mesh, 4, num_params=0)
    first = Packed(3 - devices, 9) if kind in PACKING else Rows(6)
    results, used = {}, set()
    for name, chosen in (("all", [first, Rows(9)]), ("whole", [Rows(9)])):
        start = state_lib.create(model, optimizer, key, SPLIT.block_size)
        start = start.replace(params=jax.tree.map(jnp.copy, params))
        start = jax.device_put(start, shardings.replicated(mesh))
        split = jax.device_put(SPLIT, shardings.replicated(mesh))
        steps = programs.compile_steps(model, optimizer, 4, chosen, mesh)
        results[name] = steps(start, split, key, num_steps=12)
    data_key, _ = jax.random.split(key)
    for i in range(12):
        indices = data.draw_indices(SPLIT, jax.random.fold_in(data_key, i), 4)
        lengths = SPLIT.lengths(indices).reshape(devices, -1)
        used.add(int(layout_index([first, Rows(9)], lengths)))
    assert used == {0, 1}
    (state, metrics), (plain, plain_metrics) = results["all"], results["whole"]
    assert_close(metrics["train_loss"], plain_metrics["train_loss"], 1e-5)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), state.params, plain.params)


STEPS_CASES = [
    ("gru", 1),
    pytest.param("transformer", 1, marks=pytest.mark.slow),
    pytest.param("gru", 2, marks=pytest.mark.slow),
    pytest.param("transformer", 2, marks=pytest.mark.slow),
]


@pytest.mark.versions
@pytest.mark.parametrize(("kind", "devices"), STEPS_CASES)
def test_steps_use_the_layout_of_each_batch(kind, devices):
    if devices == 1:
        check_steps(kind, 1)
    else:
        done = run("-c", STEPS, kind, devices, **on_devices(devices))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", quick_of(["lstm", "transformer"], []))
def test_microbatches_equal_the_whole_batch(kind, monkeypatch):
    """Three microbatches with different numbers of tokens give the same loss and state."""
    config = small_config(kind)
    config.optimizer.name = "sgd"
    model, params = model_of(kind)
    optimizer, key = make_optimizer(config.optimizer, 20), jax.random.key(2)
    mesh, results = make_mesh(config.mesh, 12, num_params=0), []
    for microbatch_size in (12, 4):
        monkeypatch.setattr(layouts, "MAX_TOKENS_PER_BATCH", microbatch_size * SPLIT.block_size)
        assert layouts.num_microbatches(12, SPLIT.block_size) == 12 // microbatch_size
        chosen = choose(SPLIT, 12, model)
        start = state_lib.create(model, optimizer, key, SPLIT.block_size)
        start = start.replace(params=jax.tree.map(jnp.copy, params))
        steps = programs.compile_steps(model, optimizer, 12, chosen, mesh)
        state, metrics = steps(start, SPLIT, key, num_steps=5)
        results.append((metrics["train_loss"], state.params))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), *results)


def test_number_of_microbatches():
    assert [layouts.num_microbatches(n, 16) for n in (1, 32, 256, 512, 8_192)] == [1, 1, 1, 2, 32]
    assert [layouts.num_microbatches(n, 1_024) for n in (1, 4, 16)] == [1, 1, 4]
    assert layouts.num_microbatches(300, 16) == 2
    assert layouts.num_microbatches(257, 16) == 1  # a prime


def test_loss_of_a_batch_is_its_mean():
    model, params = model_of("gru")
    inputs, targets, _ = SPLIT.take(ALL)
    loss_and_grads, key = jax.jit(make_loss_and_grads(model)), jax.random.key(0)
    (loss, _), _ = loss_and_grads(params, {}, (inputs, targets), key)
    plain = losses.mean_loss(model.apply({"params": params}, inputs), targets)
    assert_close(loss, plain, 1e-6)

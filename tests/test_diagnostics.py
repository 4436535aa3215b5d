"""The diagnostics: taps against the model itself, statistics against a computation by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    VOCAB,
    assert_close,
    assert_same,
    make_batch_step,
    make_loss_and_grads,
    quick_of,
    small_config,
    small_model,
)
from flax import linen as nn

from makemore_jax import losses
from makemore_jax.assemble import create_model
from makemore_jax.data import Batch
from makemore_jax.data.lines import Lines
from makemore_jax.diagnostics import (
    N_BINS,
    Tap,
    counted,
    histogram,
    make_diagnose,
    saturated_and_dead,
    trace,
)
from makemore_jax.kernels.layouts import take_packed
from makemore_jax.training import state as state_lib
from makemore_jax.training.state import TrainState

pytestmark = pytest.mark.versions

B, T, C = 3, BLOCK, 11  # C is the small models' n_embd2
KEY = jax.random.key(5)


def rows(seed=9):
    """Inputs and targets in rows, each padded behind its end, but for the last."""
    tokens = jax.random.randint(jax.random.key(seed), (2, B, T), 0, VOCAB)
    is_real = jnp.arange(T) < jnp.array([2, 5, T])[:, None]
    return tokens[0], jnp.where(is_real, tokens[1], -1)


def state_of(params, optimizer) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def diagnose(model, params, batch, optimizer=None, key=KEY):
    optimizer = optimizer or optax.sgd(0.1)
    return make_diagnose(model, optimizer)(state_of(params, optimizer), Batch(*batch), key)


def traced(model, params, batch):
    """The taps of a model's loss, and the compiled (add, params) -> (loss, logits), values."""

    def forward(params):
        logits = model.apply({"params": params}, batch[0])
        return losses.mean_loss(logits, batch[1]), logits

    taps, tapped = trace(forward, params)
    return taps, jax.jit(tapped), [jnp.zeros(tap.shape) for tap in taps]


def names_and_leaves(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {".".join(entry.key for entry in path): np.asarray(a) for path, a in leaves}


TAPS = {
    "bigram": [],
    "bow": ["context_block.mlp tanh"],
    "mlp": ["tanh"],
    "rnn": ["tanh"],
    "gru": ["sigmoid", "tanh"],
    "lstm": ["sigmoid 1", "sigmoid 2", "tanh 1", "sigmoid 3", "tanh 2"],
    "cnn": ["h_0 tanh", "h_0 sigmoid", "h_1 tanh", "h_1 sigmoid", "tanh 1", "tanh 2"],
    "transformer": ["h_0.mlp tanh", "h_1.mlp tanh"],
}


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["mlp", "gru"]))
def test_the_tapped_program_is_the_model(kind):
    model, params = small_model(kind)
    batch = rows()
    taps, tapped, zeros = traced(model, params, batch)
    assert [tap.name for tap in taps] == TAPS[kind]
    (_, logits), values = tapped(zeros, params)
    assert_close(logits, jax.jit(model.apply)({"params": params}, batch[0]), 1e-6)
    assert [(a.shape, a.dtype) for a in values] == [(tap.shape, tap.dtype) for tap in taps]


@pytest.mark.parametrize("kind", quick_of(["bigram", "cnn", "lstm", "transformer"], ["bigram"]))
def test_gradients_and_updates_are_those_of_the_step(kind):
    """Also with dropout, where there is any, and not only in the first step."""
    config = small_config(kind)
    config.model.n_layer, config.model.dropout = 1, 0.5
    check_step(create_model(config.model, VOCAB, T), rows())


def check_step(model, batch):
    """Diagnose the second step and hold it against that step. -> the state, what was found"""
    optimizer = optax.adamw(0.1, weight_decay=0.3)
    state = state_lib.create(model, optimizer, jax.random.key(0), T)
    train_step, loss_and_grads = make_batch_step(model, optimizer), make_loss_and_grads(model)

    @jax.jit  # both at once compiles in half the time
    def step(state, key):
        _, grads = loss_and_grads(state.params, state.model_state, batch, key)
        return train_step(state, batch, key)[0], grads

    state, _ = step(state, jax.random.key(6))
    before = jax.tree.map(np.asarray, state)
    found = make_diagnose(model, optimizer)(state, Batch(*batch), KEY)
    assert_same(state, before)

    after, grads = step(state, KEY)
    after, grads = names_and_leaves(after.params), names_and_leaves(grads)
    params = names_and_leaves(state.params)
    assert list(found["grad_to_data"]) == list(found["update_to_data"]) == list(params)
    for name, p in params.items():
        if p.std() < 1e-6 * np.abs(p).max():  # Adam's first steps are as long for all
            assert found["grad_to_data"][name] is found["update_to_data"][name] is None
            continue
        assert_close(found["grad_to_data"][name], grads[name].std() / p.std(), 1e-5)
        assert_close(found["update_to_data"][name], (after[name] - p).std() / p.std(), 1e-4)
    assert list(found["gradients"]) == [name for name, p in params.items() if p.ndim == 2]
    for name, of in found["gradients"].items():
        scale = np.abs(grads[name]).max()
        assert_close(of["low"] / scale, grads[name].min() / scale, 1e-4)
        assert_close(of["high"] / scale, grads[name].max() / scale, 1e-4)
        assert sum(of["counts"]) == grads[name].size
    return state, found


class Windows(nn.Module):
    """A network of lecture 4 on windows: batch norm between its layers, and ReLU at last."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        x = nn.Embed(VOCAB, 5)(tokens).reshape(len(tokens), -1)  # (B, T) -> (B, T * 5)
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(C, use_bias=False)(x))
        x = nn.relu(nn.Dense(C)(jnp.tanh(x)))
        return nn.Dense(VOCAB)(x)[:, None]  # (B, 1, V)


def test_batch_statistics_and_windows():
    """Statistics of the batch are taken as in the step; and where a window begins, all count."""
    inputs = rows()[0]
    state, found = check_step(Windows(), (inputs, inputs[:, :1]))
    assert list(found["saturated"]) == ["tanh", "relu"]
    assert sum(found["activations"]["tanh"]["counts"]) == B * C
    # Normed by the batch itself: by the running statistics, 0 and 1, they would be larger or less.
    params = jax.tree.map(np.asarray, state.params)
    x = params["Embed_0"]["embedding"][inputs].reshape(B, -1) @ params["Dense_0"]["kernel"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    y = np.tanh(x * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"])
    assert_close(found["activations"]["tanh"]["std"], y.std(), 1e-5)


def mlp_by_hand(params, inputs):
    """The hidden layer of the MLP. (B, T, C)"""
    table, T = np.asarray(params["wte"]["embedding"]), inputs.shape[1]
    h = []
    for t in range(T):
        context = [inputs[:, t - n] if n <= t else np.full(len(inputs), VOCAB) for n in range(T)]
        x = np.concatenate([table[np.asarray(tokens)] for tokens in context], axis=-1)
        h.append(np.tanh(x @ params["mlp_0"]["kernel"] + params["mlp_0"]["bias"]))
    return np.stack(h, axis=1)


def test_values_and_gradients_of_the_mlp_by_hand():
    model, params = small_model("mlp")
    batch = inputs, targets = rows()
    _, tapped, zeros = traced(model, params, batch)
    (_, logits), (h,) = tapped(zeros, params)
    assert_close(h, mlp_by_hand(params, inputs), 1e-5)
    (dh,), _ = jax.jit(jax.grad(lambda *a: tapped(*a)[0][0], (0, 1)))(zeros, params)
    is_real = (targets != -1)[..., None]
    dlogits = jax.nn.softmax(logits) - jax.nn.one_hot(targets, VOCAB)
    dlogits = jnp.where(is_real, dlogits, 0) / is_real.sum()
    assert_close(1e3 * dh, 1e3 * dlogits @ params["mlp_2"]["kernel"].T, 1e-5)
    found, dh = diagnose(model, params, batch), np.asarray(dh)[targets != -1]
    for kind, x in (("activations", np.asarray(h)[targets != -1]), ("activation_gradients", dh)):
        of = found[kind]["tanh"]
        expected = [x.min(), x.max(), x.mean(), x.std()]
        ours = [of["low"], of["high"], of["mean"], of["std"]]
        assert_close(np.array(ours) / x.std(), np.array(expected) / x.std(), 1e-4)


def test_what_is_added_to_a_state_goes_into_those_after_it():
    """In the scan of the RNN, each step has its own part of `add`, and all after it are moved."""
    model, params = small_model("rnn")
    batch = inputs, _ = rows()
    (tap,), tapped, _ = traced(model, params, batch)
    assert (tap.shape, tap.num_stacked) == ((T, B, C), 1)
    add = jax.random.normal(jax.random.key(4), tap.shape)
    _, (values,) = tapped([add], params)
    step = jax.jit(lambda *args: model.apply({"params": params}, *args, method="step"))
    carry = model.apply({"params": params}, B, method="init_carry")
    for t in range(T):
        carry = step(carry, inputs[:, t])[0] + add[t]
        assert_close(values[t], carry, 1e-5)


@pytest.mark.parametrize("kind", quick_of(["gru", "lstm", "transformer"], ["gru"]))
def test_gradients_by_activations_are_slopes(kind):
    """Along a direction at random, by finite differences, for each nonlinearity."""
    model, params = small_model(kind)
    _, tapped, zeros = traced(model, params, rows())
    loss = jax.jit(lambda add: tapped(add, params)[0][0])
    grads = jax.jit(jax.grad(loss))(zeros)
    for i, gradient in enumerate(grads):
        direction = gradient / jnp.linalg.norm(gradient)
        moved = [loss([*zeros[:i], e * direction, *zeros[i + 1 :]]) for e in (-0.1, 0.1)]
        assert_close((moved[1] - moved[0]) / 0.2, jnp.linalg.norm(gradient), 2e-3)
        assert jnp.linalg.norm(gradient) > 0.02


def test_saturated_and_dead_units_of_tanh():
    model, params = small_model("mlp")
    batch = inputs, targets = rows()
    kernel, bias = (np.array(params["mlp_0"][name]) for name in ("kernel", "bias"))
    kernel, bias[3], bias[8] = 2 * kernel, 90, -90
    params = params | {"mlp_0": {"kernel": kernel, "bias": bias}}
    found = diagnose(model, params, batch)
    h = np.abs(mlp_by_hand(params, inputs)[targets != -1])  # (N, C)
    assert 3 / C < (h > 0.97).mean() < 0.7
    assert found["saturated"]["tanh"] == pytest.approx((h > 0.97).mean())
    assert found["dead"]["tanh"] == pytest.approx(2 / C)
    params = params | {"mlp_0": {"kernel": kernel, "bias": np.full_like(bias, 90)}}
    found = diagnose(model, params, batch)
    assert found["saturated"]["tanh"] == found["dead"]["tanh"] == 1


def test_a_unit_is_dead_where_it_is_saturated_for_all_that_counts():
    values = jnp.array([[1, -0.98, 0.96], [-1, 0.5, 1], [0, 1, 1]])  # of 3 tokens, 3 units
    tap = Tap("", "tanh", (3, 3), np.float32, 0)
    for counts, saturated, dead in (([1, 1, 1], 6 / 9, 0), ([1, 1, 0], 4 / 6, 1 / 3)):
        found = saturated_and_dead(tap, values, jnp.array(counts, bool)[:, None])
        assert_close(found, [saturated, dead], 1e-6)


@pytest.mark.slow
def test_saturated_and_dead_gates():
    """Both ends of a sigmoid; and the tanh in a GELU, which is -1 where the unit is dead."""
    model, params = small_model("lstm")
    bias = np.zeros(C, np.float32)
    bias[2], bias[5], bias[7] = 90, -90, np.log(0.98 / 0.02)
    cell = {name: {"kernel": 0 * of["kernel"], "bias": bias} for name, of in params["cell"].items()}
    found = diagnose(model, params | {"cell": cell}, rows())
    for i in (1, 2, 3):
        assert found["saturated"][f"sigmoid {i}"] == pytest.approx(2 / C)  # 0.98 is too far away
        assert found["dead"][f"sigmoid {i}"] == pytest.approx(2 / C)

    model, params = small_model("transformer")
    params["h_1"]["mlp"]["c_fc"]["bias"] = np.zeros(40, np.float32)
    params["h_1"]["mlp"]["c_fc"]["bias"][[1, 20, 33]] = -90
    found = diagnose(model, params, rows())
    assert found["dead"] == {"h_0.mlp tanh": 0, "h_1.mlp tanh": pytest.approx(3 / 40)}


SHIFTS = np.array([[0, -90, 0, 0, 9], [-90, 0, -90, 0, 0]], np.float32)


class ReLUs(nn.Module):
    """Two layers with dead units, after a norm that clamps its variance as ReLU would."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        x = nn.LayerNorm(name="norm")(nn.Embed(VOCAB, 5, name="wte")(tokens))  # (B, T, 5)
        x = nn.relu(nn.Dense(5, name="first")(x) + SHIFTS[0])
        x = jnp.maximum(nn.Dense(5, name="second")(x) + SHIFTS[1], 0)
        return nn.Dense(VOCAB, name="lm_head")(x)


def test_saturated_and_dead_units_of_relu():
    batch = inputs, targets = rows()
    params = ReLUs().init(jax.random.key(1), inputs)["params"]
    found = diagnose(ReLUs(), params, batch)
    x = nn.LayerNorm().apply({"params": params["norm"]}, params["wte"]["embedding"][inputs])
    assert list(found["saturated"]) == ["relu 1", "relu 2"]
    for name, module, shift in zip(found["dead"], ("first", "second"), SHIFTS, strict=True):
        x = np.maximum(x @ params[module]["kernel"] + shift, 0)
        is_zero = x[targets != -1] == 0  # (N, 5)
        assert found["saturated"][name] == pytest.approx(is_zero.mean())
        assert found["dead"][name] == pytest.approx(is_zero.all(axis=0).mean())
        assert is_zero.all(axis=0).mean() >= (shift < -1).mean() < is_zero.mean() < 1


@pytest.mark.parametrize("kind", quick_of(["mlp", "lstm", "transformer"], ["mlp"]))
def test_padding_does_not_count(kind):
    """Not one bit depends on what stands behind the end of a line."""
    model, params = small_model(kind)
    run, state = make_diagnose(model, optax.sgd(0.1)), state_of(params, optax.sgd(0.1))
    inputs, targets = rows()
    found = run(state, Batch(inputs, targets), KEY)
    other = jnp.where(targets == -1, (inputs + 1) % VOCAB, inputs)
    assert run(state, Batch(other, targets), KEY) == found
    assert list(found["saturated"]) == list(found["dead"]) == TAPS[kind]
    num = int((targets != -1).sum())
    for kind in ("activations", "activation_gradients"):
        for of in found[kind].values():
            assert sum(of["counts"]) % num == 0 < sum(of["counts"])


def test_rows_may_be_cut_off_where_there_is_padding_alone():
    model, params = small_model("mlp")
    inputs, targets = rows()
    targets = targets.at[:, 5:].set(-1)
    found = diagnose(model, params, (inputs[:, :5], targets[:, :5]))
    assert_statistics(found, diagnose(model, params, (inputs, targets)))


def assert_statistics(found, expected):
    """The same but for rounding, by which a number may come into the bin beside."""

    def check(a, b):
        assert (sum(a) == sum(b)) if isinstance(a, list) else (a == pytest.approx(b, 1e-3, 1e-6))

    jax.tree.map(check, found, expected, is_leaf=lambda a: isinstance(a, list))


@pytest.mark.slow
def test_packed_lines_have_the_statistics_of_lines_in_rows():
    lengths = np.array([4, 2, 7])
    stream = np.arange(lengths.sum() + 1) % (VOCAB - 1) + 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    stream[starts] = 0
    lines, indices = Lines(jnp.asarray(stream), jnp.asarray(starts), T), jnp.arange(B)
    model, params = small_model("mlp")
    packed = take_packed(lines, indices, num_rows=2, width=T)
    assert_statistics(diagnose(model, params, packed), diagnose(model, params, lines.take(indices)))


REAL = np.asarray(rows()[1]) != -1


@pytest.mark.parametrize(
    ("shape", "num_stacked", "expected"),
    [
        ((B, T, C), 0, REAL[..., None]),
        ((B, T, 2, C), 0, REAL[..., None, None]),
        ((B * T, C), 0, REAL.reshape(-1, 1)),
        ((T, B, C), 0, REAL.T[..., None]),
        ((T, B, C), 1, REAL.T[..., None]),
        ((T, B, T), 1, REAL.T[..., None]),  # as many units as steps
        ((2, B, T, C), 1, REAL[None, ..., None]),  # a scan over layers
        ((2, T, B, C), 2, REAL.T[None, ..., None]),  # and in each over time
        ((B, 2, T, T), 0, np.ones((1, 1, 1, 1), bool)),
        ((B, C), 0, np.ones((1, 1), bool)),
        ((B, T), 0, None),
        ((T, B), 1, None),
        ((C,), 0, None),
        ((), 0, None),
    ],
)
def test_which_values_count(shape, num_stacked, expected):
    found = counted(Tap("", "tanh", shape, np.float32, num_stacked), *rows())
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, expected)


def test_as_many_steps_as_lines():
    """Then only the scan tells which axis is time."""
    tokens = jnp.zeros((T, T), int)
    is_real = jnp.tril(jnp.ones((T, T), bool), -1)
    targets = jnp.where(is_real, tokens, -1)
    for num_stacked, expected in ((0, is_real), (1, is_real.T)):
        found = counted(Tap("", "tanh", (T, T, C), np.float32, num_stacked), tokens, targets)
        np.testing.assert_array_equal(found[..., 0], expected)


def test_histogram_is_numpys():
    x = np.random.RandomState(2).randn(7, 13).astype(np.float32)
    counts = np.arange(7)[:, None] != 3
    found, kept = jax.jit(histogram)(x, counts), x[counts[:, 0]]
    np.testing.assert_array_equal(found["counts"], np.histogram(kept, N_BINS)[0])
    for name, value in {"low": kept.min(), "high": kept.max()}.items():
        assert found[name] == value
    assert_close(found["mean"], kept.mean(), 1e-6)
    assert_close(found["std"], kept.std(), 1e-6)
    assert histogram(jnp.ones(5), jnp.ones((), bool))["counts"].tolist() == [5] + [0] * (N_BINS - 1)


def test_all_is_json():
    """At the beginning, when the first state is all 0; and where nothing counts."""
    model, optimizer = small_model("rnn")[0], optax.sgd(0.1)
    state = state_lib.create(model, optimizer, jax.random.key(0), T)
    run = make_diagnose(model, optimizer)
    inputs, targets = rows()
    found = run(state, Batch(inputs, targets), KEY)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["grad_to_data"]["start"] is found["update_to_data"]["start"] is None
    ratio = found["grad_to_data"]["cell.xh_to_h.kernel"]
    assert found["update_to_data"]["cell.xh_to_h.kernel"] == pytest.approx(0.1 * ratio)
    json.dumps(run(state, Batch(inputs, jnp.full_like(targets, -1)), KEY), allow_nan=False)


def test_the_program_is_made_once():
    model, params = small_model("mlp")
    times = []

    def update(grads, *_):
        times.append(1)
        return grads, ()

    optimizer = optax.GradientTransformation(lambda params: (), update)
    run = make_diagnose(model, optimizer)
    for seed in range(3):
        run(state_of(params, optimizer), Batch(*rows(seed)), jax.random.key(seed))
    assert len(times) == 1


def test_taps_in_all_kinds_of_programs():
    """Loops and what wraps a program are gone through; branches are only computed."""

    @jax.jit
    def inside(x):
        return jax.nn.silu(x) + jax.checkpoint(lambda x: jnp.tanh(2 * x))(x)

    def function(x):
        with jax.named_scope("model"), jax.named_scope("a"):
            x = inside(x)

        def outer(c, _):
            return jax.lax.scan(lambda c, y: (jnp.tanh(c + y), c * y), c, x, reverse=True)

        c, ys = jax.lax.scan(outer, x[0], length=2)
        x = jax.lax.cond(c.sum() > 0, jnp.tanh, jnp.sin, x)
        x = jax.lax.fori_loop(0, jnp.argmax(c), lambda _, x: jnp.tanh(x), x)
        x = jnp.maximum(x, 0.1) + jax.nn.softplus(x) + jax.nn.gelu(x, approximate=False)
        return {"x": x, "ys": ys}

    x = jax.random.normal(jax.random.key(1), (B, C))
    taps, tapped = trace(function, x)
    assert [(tap.name, tap.shape, tap.num_stacked) for tap in taps] == [
        ("a sigmoid", (B, C), 0),
        ("a tanh", (B, C), 0),
        ("tanh", (2, B, C), 2),
        ("erf", (B, C), 0),
    ]
    zeros = [jnp.zeros(tap.shape) for tap in taps]
    found, values = tapped(zeros, x)
    jax.tree.map(assert_close, found, function(x))
    assert_close(values[0], jax.nn.sigmoid(x))
    assert_close(values[1], jnp.tanh(2 * x))


def test_a_gradient_of_its_own_is_kept():
    """jax.nn.relu has 0 for its slope at 0, where that of the maximum is 1 / 2."""
    for function, slope in ((jax.nn.relu, 0.0), (lambda x: jnp.maximum(x, 0), 0.5)):
        taps, tapped = trace(lambda x, f=function: f(x).sum(), jnp.zeros((2, 3)))
        zeros = [jnp.zeros(tap.shape) for tap in taps]
        gradient = jax.grad(lambda x, t=tapped, z=zeros: t(z, x)[0])(jnp.zeros((2, 3)))
        np.testing.assert_array_equal(gradient, np.full((2, 3), slope))
        assert [tap.name for tap in taps] == ["relu"]

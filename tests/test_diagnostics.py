"""Diagnostics: taps compared with the model, statistics with direct computations."""

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
    set_sizes,
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
    histogram,
    make_diagnose,
    saturated_and_dead,
    target_mask,
    trace,
)
from makemore_jax.kernels.layouts import take_packed
from makemore_jax.training import state as state_lib
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import step_keys

B, T, C = 3, BLOCK, 11  # C is the small models' n_embd2
KEY = jax.random.key(5)


def rows(seed=9):
    """Return inputs and targets (B, T). All rows but the last are padded at the end."""
    tokens = jax.random.randint(jax.random.key(seed), (2, B, T), 0, VOCAB)
    is_real = jnp.arange(T) < jnp.array([2, 5, T])[:, None]
    return tokens[0], jnp.where(is_real, tokens[1], -1)


def state_of(params, optimizer) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def diagnose(model, params, batch, optimizer=None, key=KEY):
    optimizer = optimizer or optax.sgd(0.1)
    return make_diagnose(model, optimizer)(state_of(params, optimizer), Batch(*batch), key)


def traced(model, params, batch):
    """Return the taps of a model's loss, the tapped function, and zeros to add to the taps.

    The function is compiled and maps (add, params) to ((loss, logits), values).
    """

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
    "modern": ["h_0.mlp relu", "h_1.mlp relu"],
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["mlp", "gru"]))
def test_the_tapped_program_equals_the_model(kind):
    model, params = small_model(kind)
    batch = rows()
    taps, tapped, zeros = traced(model, params, batch)
    assert [tap.name for tap in taps] == TAPS[kind]
    (_, logits), values = tapped(zeros, params)
    assert_close(logits, jax.jit(model.apply)({"params": params}, batch[0]), 1e-6)
    assert [(a.shape, a.dtype) for a in values] == [(tap.shape, tap.dtype) for tap in taps]


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(["bigram", "cnn", "lstm", "transformer"], ["bigram"]))
def test_gradients_and_updates_are_those_of_the_step(kind):
    """Check the second step, with dropout if the model has it."""
    config = small_config(kind)
    set_sizes(config.model, n_layer=1)
    if kind == "transformer":
        config.model.dropout = 0.5
    check_step(create_model(config.model, VOCAB, T), rows())


def check_step(model, batch):
    """Diagnose the second step and compare with that step. Return the state and the result."""
    optimizer = optax.adamw(0.1, weight_decay=0.3)
    state = state_lib.create(model, optimizer, jax.random.key(0), T)
    train_step, loss_and_grads = make_batch_step(model, optimizer), make_loss_and_grads(model)

    @jax.jit  # compiling both together takes half the time
    def step(state, key):
        _, dropout_key = step_keys(
            jax.random.split(key), state.step
        )  # as the training step derives it
        _, grads = loss_and_grads(state.params, state.model_state, batch, dropout_key)
        return train_step(state, batch, key)[0], grads

    state, _ = step(state, jax.random.key(6))
    before = jax.tree.map(np.asarray, state)
    _, dropout_key = step_keys(jax.random.split(KEY), state.step)
    result = make_diagnose(model, optimizer)(state, Batch(*batch), dropout_key)
    assert_same(state, before)

    after, grads = step(state, KEY)
    after, grads = names_and_leaves(after.params), names_and_leaves(grads)
    params = names_and_leaves(state.params)
    assert list(result["grad_to_data"]) == list(result["update_to_data"]) == list(params)
    for name, p in params.items():
        if p.std() < 1e-6 * np.abs(p).max():  # Adam changes equal entries equally
            assert result["grad_to_data"][name] is result["update_to_data"][name] is None
            continue
        assert_close(result["grad_to_data"][name], grads[name].std() / p.std(), 1e-5)
        assert_close(result["update_to_data"][name], (after[name] - p).std() / p.std(), 1e-4)
    assert list(result["gradients"]) == [name for name, p in params.items() if p.ndim == 2]
    for name, stats in result["gradients"].items():
        scale = np.abs(grads[name]).max()
        assert_close(stats["low"] / scale, grads[name].min() / scale, 1e-4)
        assert_close(stats["high"] / scale, grads[name].max() / scale, 1e-4)
        assert sum(stats["counts"]) == grads[name].size
    return state, result


class Windows(nn.Module):
    """A network of lecture 4 on windows: batch norm between layers, and a final ReLU."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        x = nn.Embed(VOCAB, 5)(tokens).reshape(len(tokens), -1)  # (B, T) -> (B, T * 5)
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(C, use_bias=False)(x))
        x = nn.relu(nn.Dense(C)(jnp.tanh(x)))
        return nn.Dense(VOCAB)(x)[:, None]  # (B, 1, V)


@pytest.mark.slow
def test_batch_statistics_and_windows():
    """Batch norm uses the statistics of the batch, and all values of a window count."""
    inputs = rows()[0]
    state, result = check_step(Windows(), (inputs, inputs[:, :1]))
    assert list(result["saturated"]) == ["tanh", "relu"]
    assert sum(result["activations"]["tanh"]["counts"]) == B * C
    # Normalize by the batch; the running statistics, 0 and 1, would give other values.
    params = jax.tree.map(np.asarray, state.params)
    x = params["Embed_0"]["embedding"][inputs].reshape(B, -1) @ params["Dense_0"]["kernel"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    y = np.tanh(x * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"])
    assert_close(result["activations"]["tanh"]["std"], y.std(), 1e-5)


def hidden_layer(params, inputs):
    """Return the hidden layer of the MLP, (B, T, C)."""
    table, T = np.asarray(params["wte"]["embedding"]), inputs.shape[1]
    h = []
    for t in range(T):
        context = [inputs[:, t - n] if n <= t else np.full(len(inputs), VOCAB) for n in range(T)]
        x = np.concatenate([table[np.asarray(tokens)] for tokens in context], axis=-1)
        h.append(np.tanh(x @ params["mlp_0"]["kernel"] + params["mlp_0"]["bias"]))
    return np.stack(h, axis=1)


@pytest.mark.versions
def test_values_and_gradients_of_the_mlp():
    model, params = small_model("mlp")
    batch = inputs, targets = rows()
    _, tapped, zeros = traced(model, params, batch)
    (_, logits), (h,) = tapped(zeros, params)
    assert_close(h, hidden_layer(params, inputs), 1e-5)
    (dh,), _ = jax.jit(jax.grad(lambda *a: tapped(*a)[0][0], (0, 1)))(zeros, params)
    is_real = (targets != -1)[..., None]
    dlogits = jax.nn.softmax(logits) - jax.nn.one_hot(targets, VOCAB)
    dlogits = jnp.where(is_real, dlogits, 0) / is_real.sum()
    assert_close(1e3 * dh, 1e3 * dlogits @ params["mlp_2"]["kernel"].T, 1e-5)
    result, dh = diagnose(model, params, batch), np.asarray(dh)[targets != -1]
    for kind, x in (("activations", np.asarray(h)[targets != -1]), ("activation_gradients", dh)):
        stats = result[kind]["tanh"]
        expected = [x.min(), x.max(), x.mean(), x.std()]
        ours = [stats["low"], stats["high"], stats["mean"], stats["std"]]
        assert_close(np.array(ours) / x.std(), np.array(expected) / x.std(), 1e-4)


@pytest.mark.versions
def test_a_change_of_a_state_changes_later_states():
    """In the RNN's scan, step t receives add[t], which changes all later states."""
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


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(["gru", "lstm", "transformer"], ["gru"]))
def test_activation_gradients_match_finite_differences(kind):
    """Take the differences along the gradient, for each nonlinearity."""
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
    result = diagnose(model, params, batch)
    h = np.abs(hidden_layer(params, inputs)[targets != -1])  # (N, C)
    assert 3 / C < (h > 0.97).mean() < 0.7
    assert result["saturated"]["tanh"] == pytest.approx((h > 0.97).mean())
    assert result["dead"]["tanh"] == pytest.approx(2 / C)
    params = params | {"mlp_0": {"kernel": kernel, "bias": np.full_like(bias, 90)}}
    result = diagnose(model, params, batch)
    assert result["saturated"]["tanh"] == result["dead"]["tanh"] == 1


def test_a_unit_is_dead_if_all_its_counted_values_are_saturated():
    values = jnp.array([[1, -0.98, 0.96], [-1, 0.5, 1], [0, 1, 1]])  # of 3 tokens, 3 units
    tap = Tap("", "tanh", (3, 3), np.float32, 0)
    for counts, saturated, dead in (([1, 1, 1], 6 / 9, 0), ([1, 1, 0], 4 / 6, 1 / 3)):
        result = saturated_and_dead(tap, values, jnp.array(counts, bool)[:, None])
        assert_close(result, [saturated, dead], 1e-6)


@pytest.mark.slow
def test_saturated_and_dead_gates():
    """Test both ends of a sigmoid, and the tanh in a GELU, which is -1 for a dead unit."""
    model, params = small_model("lstm")
    bias = np.zeros(C, np.float32)
    bias[2], bias[5], bias[7] = 90, -90, np.log(0.98 / 0.02)
    cell = {
        name: {"kernel": 0 * layer["kernel"], "bias": bias}
        for name, layer in params["cell"].items()
    }
    result = diagnose(model, params | {"cell": cell}, rows())
    for i in (1, 2, 3):  # a sigmoid of 0.98 is not saturated
        assert result["saturated"][f"sigmoid {i}"] == pytest.approx(2 / C)
        assert result["dead"][f"sigmoid {i}"] == pytest.approx(2 / C)

    model, params = small_model("transformer")
    params["h_1"]["mlp"]["c_fc"]["bias"] = np.zeros(40, np.float32)
    params["h_1"]["mlp"]["c_fc"]["bias"][[1, 20, 33]] = -90
    result = diagnose(model, params, rows())
    assert result["dead"] == {"h_0.mlp tanh": 0, "h_1.mlp tanh": pytest.approx(3 / 40)}


SHIFTS = np.array([[0, -90, 0, 0, 9], [-90, 0, -90, 0, 0]], np.float32)


class ReLUs(nn.Module):
    """Two layers with dead units. LayerNorm clamps its variance with a maximum, as ReLU does."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        x = nn.LayerNorm(name="norm")(nn.Embed(VOCAB, 5, name="wte")(tokens))  # (B, T, 5)
        x = nn.relu(nn.Dense(5, name="first")(x) + SHIFTS[0])
        x = jnp.maximum(nn.Dense(5, name="second")(x) + SHIFTS[1], 0)
        return nn.Dense(VOCAB, name="lm_head")(x)


@pytest.mark.slow
def test_saturated_and_dead_units_of_relu():
    batch = inputs, targets = rows()
    params = ReLUs().init(jax.random.key(1), inputs)["params"]
    result = diagnose(ReLUs(), params, batch)
    x = nn.LayerNorm().apply({"params": params["norm"]}, params["wte"]["embedding"][inputs])
    assert list(result["saturated"]) == ["relu 1", "relu 2"]
    for name, module, shift in zip(result["dead"], ("first", "second"), SHIFTS, strict=True):
        x = np.maximum(x @ params[module]["kernel"] + shift, 0)
        is_zero = x[targets != -1] == 0  # (N, 5)
        assert result["saturated"][name] == pytest.approx(is_zero.mean())
        assert result["dead"][name] == pytest.approx(is_zero.all(axis=0).mean())
        assert is_zero.all(axis=0).mean() >= (shift < -1).mean() < is_zero.mean() < 1


@pytest.mark.parametrize("kind", quick_of(["mlp", "lstm", "transformer"], ["mlp"]))
def test_padding_does_not_count(kind):
    """No bit of the result depends on the padding after a line."""
    model, params = small_model(kind)
    run, state = make_diagnose(model, optax.sgd(0.1)), state_of(params, optax.sgd(0.1))
    inputs, targets = rows()
    result = run(state, Batch(inputs, targets), KEY)
    other = jnp.where(targets == -1, (inputs + 1) % VOCAB, inputs)
    assert run(state, Batch(other, targets), KEY) == result
    assert list(result["saturated"]) == list(result["dead"]) == TAPS[kind]
    num = int((targets != -1).sum())
    for kind in ("activations", "activation_gradients"):
        for stats in result[kind].values():
            assert sum(stats["counts"]) % num == 0 < sum(stats["counts"])


def test_columns_of_padding_may_be_removed():
    model, params = small_model("mlp")
    inputs, targets = rows()
    targets = targets.at[:, 5:].set(-1)
    result = diagnose(model, params, (inputs[:, :5], targets[:, :5]))
    assert_statistics(result, diagnose(model, params, (inputs, targets)))


def assert_statistics(result, expected):
    """Compare statistics up to rounding, which may move a value to the next bin."""

    def check(a, b):
        assert (sum(a) == sum(b)) if isinstance(a, list) else (a == pytest.approx(b, 1e-3, 1e-6))

    jax.tree.map(check, result, expected, is_leaf=lambda a: isinstance(a, list))


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
        ((2, T, B, C), 2, REAL.T[None, ..., None]),  # and a scan over time in each layer
        ((B, 2, T, T), 0, np.ones((1, 1, 1, 1), bool)),
        ((B, C), 0, np.ones((1, 1), bool)),
        ((B, T), 0, None),
        ((T, B), 1, None),
        ((C,), 0, None),
        ((), 0, None),
    ],
)
def test_which_values_count(shape, num_stacked, expected):
    result = target_mask(Tap("", "tanh", shape, np.float32, num_stacked), *rows())
    if expected is None:
        assert result is None
    else:
        np.testing.assert_array_equal(result, expected)


def test_time_axis_if_batch_and_length_are_equal():
    """Only the scan shows which axis is time."""
    tokens = jnp.zeros((T, T), int)
    is_real = jnp.tril(jnp.ones((T, T), bool), -1)
    targets = jnp.where(is_real, tokens, -1)
    for num_stacked, expected in ((0, is_real), (1, is_real.T)):
        result = target_mask(Tap("", "tanh", (T, T, C), np.float32, num_stacked), tokens, targets)
        np.testing.assert_array_equal(result[..., 0], expected)


def test_histogram_matches_numpy():
    x = np.random.RandomState(2).randn(7, 13).astype(np.float32)
    counts = np.arange(7)[:, None] != 3
    result, kept = jax.jit(histogram)(x, counts), x[counts[:, 0]]
    np.testing.assert_array_equal(result["counts"], np.histogram(kept, N_BINS)[0])
    for name, value in {"low": kept.min(), "high": kept.max()}.items():
        assert result[name] == value
    assert_close(result["mean"], kept.mean(), 1e-6)
    assert_close(result["std"], kept.std(), 1e-6)
    assert histogram(jnp.ones(5), jnp.ones((), bool))["counts"].tolist() == [5] + [0] * (N_BINS - 1)


def test_results_are_json():
    """Also if the start state is all zero, and if all targets are padding."""
    model, optimizer = small_model("rnn")[0], optax.sgd(0.1)
    state = state_lib.create(model, optimizer, jax.random.key(0), T)
    run = make_diagnose(model, optimizer)
    inputs, targets = rows()
    result = run(state, Batch(inputs, targets), KEY)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["grad_to_data"]["start"] is result["update_to_data"]["start"] is None
    ratio = result["grad_to_data"]["cell.xh_to_h.kernel"]
    assert result["update_to_data"]["cell.xh_to_h.kernel"] == pytest.approx(0.1 * ratio)
    json.dumps(run(state, Batch(inputs, jnp.full_like(targets, -1)), KEY), allow_nan=False)


@pytest.mark.versions
def test_the_program_is_compiled_once():
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


@pytest.mark.versions
def test_taps_in_all_kinds_of_programs():
    """Loops and wrapped functions have taps; branches of a conditional have none."""

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
    result, values = tapped(zeros, x)
    jax.tree.map(assert_close, result, function(x))
    assert_close(values[0], jax.nn.sigmoid(x))
    assert_close(values[1], jnp.tanh(2 * x))


@pytest.mark.versions
def test_custom_gradients_are_kept():
    """At 0 the gradient of jax.nn.relu is 0, and that of jnp.maximum is 1 / 2."""
    for function, slope in ((jax.nn.relu, 0.0), (lambda x: jnp.maximum(x, 0), 0.5)):
        taps, tapped = trace(lambda x, f=function: f(x).sum(), jnp.zeros((2, 3)))
        zeros = [jnp.zeros(tap.shape) for tap in taps]
        gradient = jax.grad(lambda x, t=tapped, z=zeros: t(z, x)[0])(jnp.zeros((2, 3)))
        np.testing.assert_array_equal(gradient, np.full((2, 3), slope))
        assert [tap.name for tap in taps] == ["relu"]

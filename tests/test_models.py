"""Models: agreement of the three methods, causality, and PyTorch's initial values."""

import dataclasses
import json
import re
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    ON_LINES,
    ROOT,
    VOCAB,
    assert_close,
    make_batch_step,
    quick_of,
    small_config,
    small_model,
)
from flax import linen as nn

from makemore_jax import models
from makemore_jax.assemble import create_model
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.config import Config, ModelConfig
from makemore_jax.errors import UserError
from makemore_jax.models.layers import LayerNorm, Linear
from makemore_jax.training import state as state_lib

B, T = 3, 5
ADDED = [kind for kind in ON_LINES if kind not in FAMILIES]  # e.g. by a reader of the README

# makemore's sizes on makemore's list: 27 tokens, context 16. makemore publishes six of these
# numbers. An lstm has one gate and one start state more than a gru.
NUM_PARAMS = {
    "bigram": 729,
    "bow": 12_827,
    "rnn": 11_803,
    "mlp": 69_147,
    "gru": 28_315,
    "lstm": 28_315 + 128 * 64 + 64 + 64,
    "transformer": 204_544,
    "modern": 2 * 27 * 64 + 4 * 12 * 64**2,
}

# Number of tokens that a logit depends on, including its own; small_model's cnn has two layers.
CONTEXT = {"bigram": 1, "cnn": 4} | dict.fromkeys(
    ("bow", "rnn", "mlp", "gru", "lstm", "transformer", "modern"), BLOCK
)


@pytest.mark.versions
@pytest.mark.parametrize("kind", ON_LINES)
def test_step_equals_call(kind):
    model, params = small_model(kind)
    tokens = jax.random.randint(jax.random.key(1), (B, BLOCK), 0, VOCAB)
    whole = jax.jit(model.apply)({"params": params}, tokens)
    assert whole.shape == (B, BLOCK, VOCAB)
    carry = model.apply({"params": params}, B, method="init_carry")
    step = jax.jit(partial(model.apply, {"params": params}, method="step"))
    for t in range(BLOCK):
        carry, logits = step(carry, tokens[:, t])
        assert_close(logits, whole[:, t])


@pytest.mark.versions
@pytest.mark.parametrize("kind", ON_LINES)
def test_no_logit_depends_on_a_later_token(kind):
    """Change one token: every earlier logit keeps all its bits. Needs only the model's methods."""
    depends = dependencies(*small_model(kind))
    for t in range(BLOCK):
        assert not depends[t, t + 1 :].any(), f"position {t} sees {np.flatnonzero(depends[t])}"
        assert depends[t, t], f"position {t} does not see its own token"


@pytest.mark.parametrize("kind", CONTEXT)
def test_every_logit_depends_on_the_whole_context(kind):
    depends = dependencies(*small_model(kind))
    for t in range(BLOCK):
        expected = range(max(0, t + 1 - CONTEXT[kind]), t + 1)
        assert np.flatnonzero(depends[t]).tolist() == list(expected)


def dependencies(model, params) -> np.ndarray:
    """Return (T, T) booleans: whether the logits at position t change with the token at s."""
    apply = jax.jit(model.apply)
    tokens = np.arange(1, BLOCK + 1)[None]
    logits = np.asarray(apply({"params": params}, tokens)[0])
    # One call per change, not one batch: the same program rounds each row the same way.
    changed = [apply({"params": params}, tokens + 2 * row)[0] for row in np.eye(BLOCK, dtype=int)]
    return np.stack([(np.asarray(other) != logits).any(axis=-1) for other in changed], axis=1)


@pytest.mark.parametrize("kind", quick_of(ON_LINES, ["mlp", "gru", *ADDED]))
def test_one_batch_can_be_learned_by_heart(kind):
    """No input occurs twice with different targets, so even a bigram can reach a loss of 0."""
    model, _ = small_model(kind)
    inputs = jnp.array([[0, 1, 2, 3, 0, 0, 0], [0, 4, 5, 6, 7, 8, 0]])
    targets = jnp.array([[-1, 2, 3, 0, -1, -1, -1], [4, 5, 6, 7, 8, 9, -1]])
    optimizer = optax.adam(0.05)
    state = state_lib.create(model, optimizer, jax.random.key(0), BLOCK)
    step = jax.jit(make_batch_step(model, optimizer))
    for _ in range(300):
        state, metrics = step(state, (inputs, targets), jax.random.key(0))
    assert metrics["train_loss"] < 0.02


@pytest.mark.versions
@pytest.mark.parametrize("kind", NUM_PARAMS)
def test_number_of_parameters(kind):
    model = create_model(ModelConfig(kind=kind), vocab_size=27, block_size=16)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16), jnp.int32))
    assert state_lib.num_params(params) == NUM_PARAMS[kind]


@pytest.mark.versions
def test_linear_starts_as_in_pytorch():
    """torch.nn.Linear: weight and bias uniform within 1 / sqrt(fan_in)."""
    params = Linear(25, 4001).init(jax.random.key(0), jnp.zeros((1, 25)))["params"]
    for values in (params["kernel"], params["bias"]):
        assert np.abs(values).max() <= 0.2
        assert abs(values.mean()) < 0.01
        assert abs(values.std() - 0.2 / 3**0.5) < 0.005  # of a uniform distribution


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(["mlp", "rnn", "transformer"], ["mlp"]))
def test_embeddings_start_as_in_pytorch(kind):
    """torch.nn.Embedding: N(0, 1). (flax's own would be narrower.)"""
    model = create_model(ModelConfig(kind=kind), vocab_size=997, block_size=16)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))["params"]
    assert abs(params["wte"]["embedding"].std() - 1) < 0.01
    assert abs(params["wte"]["embedding"].mean()) < 0.01


def test_a_bigram_starts_with_equal_probabilities():
    model = create_model(small_config("bigram").model, VOCAB, BLOCK)
    params = model.init(jax.random.key(3), jnp.zeros((1, BLOCK), jnp.int32))["params"]
    assert not params["logits"].any()


@pytest.mark.versions
def test_layer_norm_has_the_epsilon_of_pytorch_and_an_exact_variance():
    x = jnp.array([[1e-3, 2e-3, 4e-3], [1000.001, 1000.002, 1000.004]], jnp.float32)
    norm = LayerNorm()
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    exact = np.asarray(x, np.float64)
    centred = exact - exact.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    assert_close(y[0], expected[0], 1e-5)
    assert_close(y[1], expected[1], 5e-2)  # float32 rounds 1000.001 by 3e-5; the spread is 1e-3


def test_gru_matches_makemore():
    """Compute a GRU directly: reset before the product, and z is the fraction replaced."""
    model, params = small_model("gru")
    cell, h = params["cell"], params["start"].repeat(B, axis=0)
    tokens = jax.random.randint(jax.random.key(1), (B, T), 0, VOCAB)
    expected = []
    for t in range(T):
        x = params["wte"]["embedding"][tokens[:, t]]

        def product(name, state, x=x):
            return np.hstack([x, state]) @ cell[name]["kernel"] + cell[name]["bias"]

        z = 1 / (1 + np.exp(-product("xh_to_z", h)))
        r = 1 / (1 + np.exp(-product("xh_to_r", h)))
        h = (1 - z) * h + z * np.tanh(product("xh_to_hbar", r * h))
        expected.append(h @ params["lm_head"]["kernel"] + params["lm_head"]["bias"])
    assert_close(model.apply({"params": params}, tokens), np.stack(expected, axis=1))


def test_only_the_rnn_is_unrolled_and_only_on_short_rows():
    """XLA:CPU is faster without a loop; the compilation of long rows would take minutes."""

    def has_loop(kind: str, length: int) -> bool:
        model, params = small_model(kind)
        tokens = jnp.zeros((B, length), jnp.int32)
        return "stablehlo.while" in jax.jit(model.apply).lower({"params": params}, tokens).as_text()

    assert [has_loop("rnn", length) for length in (16, 17)] == [False, True]
    assert has_loop("gru", 16)


def test_mlp_reads_the_latest_token_first_and_blanks_before_the_start():
    model, params = small_model("mlp")
    tokens = jax.random.randint(jax.random.key(1), (B, T), 0, VOCAB)
    for t in range(T):
        context = [tokens[:, t - k] if k <= t else np.full(B, VOCAB) for k in range(BLOCK)]
        x = np.hstack([params["wte"]["embedding"][c] for c in context])
        h = np.tanh(x @ params["mlp_0"]["kernel"] + params["mlp_0"]["bias"])
        expected = h @ params["mlp_2"]["kernel"] + params["mlp_2"]["bias"]
        assert_close(model.apply({"params": params}, tokens)[:, t], expected)


def test_transformer_block_matches_a_loop():
    """Compare with loops over heads and positions, the tanh form of GELU, and pre-norm."""
    config = small_config("transformer").model
    config.n_layer = 1
    model = create_model(config, VOCAB, BLOCK)
    tokens = jax.random.randint(jax.random.key(1), (B, T), 0, VOCAB)
    params = model.init(jax.random.key(0), tokens)["params"]
    block, hs = params["h_0"], config.n_embd // config.n_head

    def dense(layer, x):
        return x @ layer["kernel"] + layer.get("bias", 0)

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * layer["scale"] + layer["bias"]

    x = params["wte"]["embedding"][tokens] + params["wpe"]["embedding"][:T]
    q, k, v = np.split(np.asarray(dense(block["attn"]["c_attn"], norm(block["ln_1"], x))), 3, -1)
    y = np.zeros_like(q)
    for b in range(B):
        for head in range(config.n_head):
            part = slice(head * hs, (head + 1) * hs)
            for t in range(T):
                weights = np.exp(k[b, : t + 1, part] @ q[b, t, part] / hs**0.5)
                y[b, t, part] = weights / weights.sum() @ v[b, : t + 1, part]
    x = x + dense(block["attn"]["c_proj"], y)
    h = dense(block["mlp"]["c_fc"], norm(block["ln_2"], x))
    h = 0.5 * h * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3)))
    x = x + dense(block["mlp"]["c_proj"], h)
    expected = norm(params["ln_f"], x) @ params["lm_head"]["kernel"]
    assert_close(model.apply({"params": params}, tokens), expected)


def test_modern_matches_a_loop():
    """Compare with loops over heads and positions, and rotations by complex numbers."""
    model, params = small_model("modern")
    params = jax.device_get(params)
    tokens = np.random.RandomState(1).randint(VOCAB, size=(B, T))
    nh, hs = 2, 6
    frequencies = np.array([1, 1e-4 ** (1 / 3), 1e-4 ** (2 / 3)])

    def norm(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    def rotate(x, t):
        pairs = (x[: hs // 2] + 1j * x[hs // 2 :]) * np.exp(1j * t * frequencies)
        return norm(np.hstack([pairs.real, pairs.imag]))

    x = norm(params["wte"]["embedding"][tokens])
    for block in (params["h_0"], params["h_1"]):
        q, k, v = (norm(x) @ block["attn"][name]["kernel"] for name in ("c_q", "c_k", "c_v"))
        y = np.zeros_like(q)
        for b in range(B):
            for head in range(nh):
                part = slice(head * hs, (head + 1) * hs)
                keys = [rotate(k[b, s, part], s) for s in range(T)]
                for t in range(T):
                    scores = np.stack(keys[: t + 1]) @ rotate(q[b, t, part], t)
                    weights = np.exp(scores / hs**0.5)
                    y[b, t, part] = weights / weights.sum() @ v[b, : t + 1, part]
        x = x + y @ block["attn"]["c_proj"]["kernel"]
        h = np.maximum(norm(x) @ block["mlp"]["c_fc"]["kernel"], 0) ** 2
        x = x + h @ block["mlp"]["c_proj"]["kernel"]
    expected = norm(x) @ params["lm_head"]["kernel"]
    assert_close(jax.jit(model.apply)({"params": params}, tokens), expected)


def test_bow_averages_past_tokens():
    model, params = small_model("bow")
    tokens = jax.random.randint(jax.random.key(1), (B, T), 0, VOCAB)
    x = params["wte"]["embedding"][tokens] + params["wpe"]["embedding"][:T]
    mlp = params["context_block"]["mlp"]
    for t in range(T):
        y = x[:, t] + np.mean(x[:, : t + 1], axis=1)
        h = np.tanh(y @ mlp["c_fc"]["kernel"] + mlp["c_fc"]["bias"])
        y = y + h @ mlp["c_proj"]["kernel"] + mlp["c_proj"]["bias"]
        expected = y @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]
        assert_close(model.apply({"params": params}, tokens)[:, t], expected)


@pytest.mark.slow
def test_cnn_context_is_two_to_the_number_of_layers():
    """Dilations double, so two layers see the last 4 tokens and no others."""
    model, params = small_model("cnn", vocab_size=23, block_size=19)
    tokens = jnp.arange(1, 20)[None]

    def last_logit(rows):
        return model.apply({"params": params | {"wte": {"embedding": rows}}}, tokens)[0, -1].sum()

    grads = np.abs(jax.jit(jax.grad(last_logit))(params["wte"]["embedding"])).sum(axis=1)[1:20]
    assert (grads[-4:] > 0).all()
    assert (grads[:-4] == 0).all()


@pytest.mark.versions
def test_dropout_applies_only_in_training_and_depends_on_its_key():
    config = small_config("transformer").model
    config.dropout = 0.5
    model = create_model(config, VOCAB, BLOCK)
    tokens = jnp.ones((B, T), jnp.int32)
    params = model.init(jax.random.key(0), tokens)["params"]

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, train=True, rngs=rngs)

    assert (logits(1) == logits(1)).all()
    assert not (logits(1) == logits(2)).all()
    config.dropout = 0.0
    without = create_model(config, VOCAB, BLOCK).apply({"params": params}, tokens)
    assert (model.apply({"params": params}, tokens) == without).all()


def test_dropout_is_where_gpt_2_has_it():
    """After the embeddings, on the attention weights, and after attention and MLP."""
    config = small_config("transformer").model
    config.dropout, active = 0.5, []

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.Dropout) and not kwargs["deterministic"]:
            active.append("/".join(module.path))
        return call(*args, **kwargs)

    init = partial(create_model(config, VOCAB, BLOCK).init, train=True)
    with nn.intercept_methods(record):
        keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
        jax.eval_shape(init, keys, jnp.ones((B, T), jnp.int32))
    block = ("attn/drop_weights", "attn/drop_output", "mlp/drop_output")
    assert active == ["drop", *(f"h_{i}/{name}" for i in range(2) for name in block)]


FAMILIES_WITH_WINDOWS = models.MODELS | EXTENSION_MODELS


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_configs_only_set_fields_that_the_family_declares(path):
    config = runpy.run_path(str(path))["get_config"]()
    models.create(config.model, VOCAB, BLOCK, FAMILIES_WITH_WINDOWS)


@pytest.mark.parametrize("kind", FAMILIES_WITH_WINDOWS)
def test_fields_that_a_family_does_not_declare_keep_their_defaults(kind):
    """Set every field to a value that is not its default."""
    declared = {f.name for f in dataclasses.fields(FAMILIES_WITH_WINDOWS[kind])}
    for f in dataclasses.fields(ModelConfig):
        if f.name == "kind":
            continue
        config = ModelConfig(kind=kind)
        value = {bool: not f.default, str: "other"}.get(f.type, 7)
        setattr(config, f.name, value)
        if f.name in declared:
            models.create(config, VOCAB, BLOCK, FAMILIES_WITH_WINDOWS)
            continue
        # The command line accepts None, and not null.
        value, default = (json.dumps(v).replace("null", "None") for v in (value, f.default))
        message = f"model.{f.name}: {value} must be {default}: {kind} models do not have it"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            models.create(config, VOCAB, BLOCK, FAMILIES_WITH_WINDOWS)


def test_an_unknown_kind_suggests_the_nearest():
    with pytest.raises(UserError, match=r"model.kind: \"transfromer\" .*did you mean transformer"):
        create_model(Config(model=ModelConfig(kind="transfromer")).model, 3, 3)
    with pytest.raises(UserError, match=r"model.kind: \"transfromer\" .*did you mean transformer"):
        models.create(ModelConfig(kind="transfromer"), VOCAB, BLOCK)

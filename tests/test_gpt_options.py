"""The options of GPTs, each tested on its own."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
    BLOCK,
    VOCAB,
    assert_close,
    assert_same,
    on_devices,
    quick_of,
    run,
    small_config,
)
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from makemore_jax import assemble, losses, model_forms, models, workdir
from makemore_jax import config as config_lib
from makemore_jax.assemble import create_model, programs
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.config import MeshConfig, ModelConfig, OptimizerConfig
from makemore_jax.errors import UserError
from makemore_jax.kernels.layouts import Rows
from makemore_jax.models import transformer
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.report.attention import attention_weights
from makemore_jax.report.collect import load_best_model
from makemore_jax.text.dataset import Text
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

B = 3
TOKENS, TARGETS = np.random.RandomState(2).randint(VOCAB, size=(2, B, BLOCK))


@cache
def create(vocab_size: int = VOCAB, kind: str = "transformer", **options):
    """Return a small GPT with these options."""
    config = replace(small_config(kind).model, **({"n_layer": 1} | options))
    return create_model(config, vocab_size, BLOCK)


@cache
def init(**options):
    """Return its initial parameters plus noise, so that none are zero."""
    params = jax.jit(create(**options).init)(jax.random.key(3), TOKENS)["params"]
    noise = np.random.RandomState(5)
    return jax.tree.map(lambda a: a + 0.1 * noise.randn(*a.shape).astype(a.dtype), params)


def leaves(params) -> dict[str, jax.Array]:
    """Return a dict from paths to parameters."""
    result, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in result}


def loss(model, params, key=None):
    train = {"train": True, "rngs": {"dropout": key}} if key is not None else {}
    return losses.mean_loss(model.apply({"params": params}, TOKENS, **train), TARGETS)


OPTIONS = [
    {"bias": False},
    {"tied": True},
    {"activation": "relu"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "tied": True},
    {"bias": False, "tied": True, "init_scheme": "gpt2", "activation": "relu", "remat": True},
]


@pytest.mark.versions
@pytest.mark.parametrize(
    "options", quick_of(OPTIONS, OPTIONS[-1:]), ids=lambda options: "-".join(options)
)
def test_step_equals_call(options):
    model, params = create(**options), init(**options)
    step = jax.jit(partial(model.apply, {"params": params}, method="step"))
    carry, logits = model.apply({"params": params}, B, method="init_carry"), []
    for token in TOKENS.T:
        carry, result = step(carry, token)
        logits.append(result)
    expected = jax.jit(model.apply)({"params": params}, TOKENS)
    assert expected.dtype == logits[0].dtype == jnp.float32
    tolerance = 0.02 if model.dtype == "bfloat16" else 1e-5
    assert_close(jnp.stack(logits, axis=1), expected, tolerance)


@pytest.mark.slow
def test_remat_keeps_values_and_gradients():
    """Dropout masks are also equal: rematerialization draws them again from the same key."""
    plain, remat = create(dropout=0.3), create(dropout=0.3, remat=True)
    params = init()
    assert jax.tree.structure(jax.eval_shape(remat.init, jax.random.key(3), TOKENS)["params"]) == (
        jax.tree.structure(params)
    )
    result = []
    for model in plain, remat:
        both = jax.value_and_grad(partial(loss, model))
        result.append(jax.jit(both)(params, jax.random.key(1)))
        num_remat = str(jax.make_jaxpr(both)(params, jax.random.key(1))).count("= remat2[")
        assert num_remat == (1 if model is remat else 0)
    jax.tree.map(partial(assert_close, tolerance=1e-6), *result)


LOOPS = [{"remat": False}, {"remat": True}, {"kind": "modern"}]


@pytest.mark.versions
@pytest.mark.parametrize("options", quick_of(LOOPS, LOOPS[-1:]), ids=str)
def test_scanned_layers_equal_unrolled_layers(options):
    """Parameters, logits, gradients and steps are the same; the scan compiles one block."""
    sizes = {"n_layer": 3} | options
    activation = "square" if "kind" in options else "tanh"  # once per block
    plain = create(**sizes)
    scanned = create(**sizes, layer_loop="scan").clone(blockwise=False)
    params, same = (m.init(jax.random.key(3), TOKENS)["params"] for m in (plain, scanned))
    assert_same(params, same)
    result = [jax.jit(jax.value_and_grad(partial(loss, m)))(params) for m in (plain, scanned)]
    jax.tree.map(partial(assert_close, tolerance=1e-6), *result)
    jaxprs = [str(jax.make_jaxpr(partial(loss, m))(params)) for m in (plain, scanned)]
    assert [jaxpr.count(f"= {activation} ") for jaxpr in jaxprs] == [3, 1]
    carry, logits = scanned.apply({"params": params}, B, method="init_carry"), []
    for token in TOKENS.T:
        carry, step_logits = scanned.apply({"params": params}, carry, token, method="step")
        logits.append(step_logits)
    expected = plain.apply({"params": params}, TOKENS)
    assert_close(jnp.stack(logits, axis=1), expected, 1e-5)


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["transformer", "modern"])
def test_scanned_layers_draw_different_dropout_masks(kind, monkeypatch):
    """The keys of the layers differ and depend only on the key of the step."""
    scanned = create(kind=kind, n_layer=3, dropout=0.5, layer_loop="scan")
    params = scanned.init(jax.random.key(3), TOKENS)["params"]
    scan, keys = jax.lax.scan, []

    def record_keys(body, x, layers):
        keys.append(jax.random.key_data(layers[1]))
        return scan(body, x, layers)

    monkeypatch.setattr(jax.lax, "scan", record_keys)
    for seed in (1, 1, 2):
        loss(scanned, params, jax.random.key(seed))
    assert_same(keys[0], keys[1])
    assert len(np.unique(np.concatenate([keys[0], keys[2]]), axis=0)) == 6


@pytest.mark.versions
def test_dropout_masks_from_the_hardware_generator():
    """The fraction of zeros is the dropout rate, and the masks depend only on the key."""
    model = create(dropout=0.3, dropout_rng="rbg")
    draws = [model_forms.dropout_key(model, jax.random.key(i)) for i in (1, 1, 2)]
    masks = [np.asarray(jax.random.bernoulli(key, 0.7, (10_000,))) for key in draws]
    assert "rbg" in str(jax.random.key_impl(draws[0]))
    assert_same(masks[0], masks[1])
    assert (masks[0] != masks[2]).mean() > 0.2
    assert abs(masks[0].mean() - 0.7) < 0.02
    plain = create(dropout=0.3)
    assert_same(
        jax.random.key_data(model_forms.dropout_key(plain, jax.random.key(1))),
        jax.random.key_data(jax.random.key(1)),
    )


@pytest.mark.parametrize("kind", ["transformer", "modern"])
def test_the_layer_loop_depends_on_the_platform(kind):
    config = small_config(kind).model
    forms = [create_model(config, VOCAB, BLOCK, platform) for platform in ("cpu", "gpu", "tpu")]
    assert [m.layer_loop for m in forms] == ["unroll", "unroll", "scan"]
    assert [m.blockwise for m in forms] == [True, False, False]
    config.layer_loop = "scan"
    assert create_model(config, VOCAB, BLOCK).layer_loop == "scan"


@pytest.mark.versions
def test_bfloat16_keeps_parameters_and_logits_in_float32():
    exact, coarse = create(), create(dtype="bfloat16")
    params = init(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert_same(params, init())
    expected, expected_grads = jax.jit(jax.value_and_grad(partial(loss, exact)))(params)
    result, grads = jax.jit(jax.value_and_grad(partial(loss, coarse)))(params)
    assert result.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype("float32")}
    assert 0 < abs(result - expected) < 0.03 * expected
    expected_grads, grads = ravel_pytree(expected_grads)[0], ravel_pytree(grads)[0]
    assert jnp.linalg.norm(grads - expected_grads) < 0.05 * jnp.linalg.norm(expected_grads)
    jaxpr = str(jax.make_jaxpr(partial(loss, coarse))(params))
    products = [line for line in jaxpr.splitlines() if "= dot_general[" in line]
    assert all(":bf16[" in line for line in products)
    assert len(products) == 6 + 1  # four linear layers, two in attention, and the logits
    exponentials = [line for line in jaxpr.splitlines() if "= exp " in line]
    assert all(":f32[" in line for line in exponentials)
    assert len(exponentials) == 1 + 1  # the softmax of attention and of the loss
    _, caches = coarse.apply({"params": params}, B, method="init_carry")
    assert {leaf.dtype for leaf in jax.tree.leaves(caches)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_the_tied_output_layer_is_the_embedding():
    model, params = create(tied=True), init(tied=True)
    assert leaves(params).keys() == leaves(init()).keys() - {"lm_head/kernel"}
    untied, table = create(), params["wte"]["embedding"]
    split = {**params, "lm_head": {"kernel": table.T}}
    assert_close(loss(model, params), loss(untied, split), 1e-6)
    grads = jax.jit(jax.grad(partial(loss, model)))(params)
    parts = jax.jit(jax.grad(partial(loss, untied)))(split)
    both = parts["wte"]["embedding"] + parts["lm_head"]["kernel"].T
    assert_close(grads["wte"]["embedding"], both, 1e-6)


def test_bias_false_removes_all_biases():
    names = leaves(init())
    assert leaves(init(bias=False)).keys() == {n for n in names if not n.endswith("/bias")}
    assert sum(name.endswith("/bias") for name in names) == 6 + 1


@pytest.mark.slow
def test_initial_values_of_gpt2():
    options = {"init_scheme": "gpt2", "n_layer": 3, "n_embd": 64}
    model = create(503, **options)
    params = jax.jit(model.init)(jax.random.key(3), TOKENS)["params"]
    for name, leaf in leaves(params).items():
        if name.endswith("/bias"):
            assert (leaf == 0).all()
        elif name.endswith("/scale"):
            assert (leaf == 1).all()
        else:
            std = 0.02 / 6**0.5 if name.endswith("c_proj/kernel") else 0.02
            assert abs(float(leaf.mean())) < 5 * std / leaf.size**0.5
            assert float(leaf.std()) == pytest.approx(std, rel=5 / (2 * leaf.size) ** 0.5)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("relu", 0.0), ("gelu", -0.15880801), ("gelu_exact", -0.15865525)],
)
def test_the_activation_of_the_mlp(activation, expected):
    """All weights are zero except one, which shows the activation of -1."""
    options = {"activation": activation, "n_layer": 1}
    model, params = create(**options), jax.tree.map(jnp.zeros_like, init(**options))
    mlp = params["h_0"]["mlp"]
    mlp["c_fc"]["bias"] = mlp["c_fc"]["bias"] - 1.0
    mlp["c_proj"]["kernel"] = mlp["c_proj"]["kernel"].at[0, 0].set(1.0)
    _, state = model.apply(
        {"params": params}, TOKENS, capture_intermediates=True, mutable=["intermediates"]
    )
    (result,) = state["intermediates"]["h_0"]["mlp"]["__call__"]
    assert_close(result[0, 0, 0], expected, 1e-6)


@pytest.mark.versions
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_of_matrices_only(name):
    params = init()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay in ("all", "matrices"):
        config = OptimizerConfig(name, 0.1, weight_decay=0.5, decay=decay)
        optimizer = make_optimizer(config, steps=1)
        updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
        moved = leaves(optax.apply_updates(params, updates))
        for path, leaf in leaves(params).items():
            is_vector = path.endswith(("/bias", "/scale"))
            factor = 1 if decay == "matrices" and is_vector else 0.95
            assert_close(moved[path], factor * leaf, 1e-6)


# Training on a text.


def text(num_chars: int = 997) -> Text:
    """Return a text in which each character mostly determines the next."""
    steps = np.random.RandomState(1).choice([1, 2], num_chars, p=[0.9, 0.1])
    return Text(jnp.asarray((np.cumsum(steps) % VOCAB).astype(np.uint8)), num_chars, BLOCK)


def trainer(config: OptimizerConfig, batch_size: int = 6, accumulate: int = 1, **options):
    """Return train(num_steps, key, split) -> (state, losses), which starts at fixed parameters."""
    model, optimizer = create(**options), make_optimizer(config, 100)
    mesh = make_mesh(MeshConfig(data=1), batch_size, 0, accumulate)
    steps = programs.compile_steps(model, optimizer, batch_size, [Rows(BLOCK)], mesh, accumulate)

    def train(num_steps: int, key: int = 1, split: Text | None = None):
        # Copy the parameters because the step donates its state.
        params = jax.tree.map(jnp.array, init(**options))
        state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        state, metrics = steps(state, split or text(), jax.random.key(key), num_steps)
        return state, np.asarray(metrics["train_loss"])

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "accumulate"),
    [
        ({"dtype": "bfloat16", "tied": True, "bias": False, "init_scheme": "gpt2"}, 1),
        ({}, 3),
    ],
)
def test_models_with_options_learn(options, accumulate):
    config = OptimizerConfig(learning_rate=0.01, decay="matrices")
    state, result = trainer(config, accumulate=accumulate, **options)(100)
    assert result[-10:].mean() < 1.2 < result[0] - 0.5
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}


@pytest.mark.slow
def test_microbatches_give_the_gradient_of_the_batch():
    """With SGD at learning rate 1, the first update is the gradient."""
    config = OptimizerConfig("sgd", 1.0, weight_decay=0.0)
    (whole, loss_of_whole), (parts, loss_of_parts) = (
        trainer(config, accumulate=accumulate)(1) for accumulate in (1, 3)
    )
    assert_close(loss_of_parts, loss_of_whole, 1e-6)
    jax.tree.map(partial(assert_close, tolerance=1e-6), parts.params, whole.params)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole.params, init())
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.versions
@pytest.mark.parametrize("accumulate", quick_of([1, 2], [1]))
def test_dropout_is_a_function_of_seed_and_step(accumulate):
    """With learning rate 0 and a single crop, losses differ only by their dropout masks."""
    config = OptimizerConfig("sgd", 0.0, weight_decay=0.0)
    train = trainer(config, 2, accumulate, dropout=0.3)
    one_crop = text(BLOCK + 1)
    state, result = train(5, 1, one_crop)
    assert_same(state.params, init(dropout=0.3))
    assert len(set(result.tolist())) == 5
    assert_same(train(5, 1, one_crop)[1], result)
    assert set(train(5, 2, one_crop)[1].tolist()).isdisjoint(result.tolist())


def draw_noise(num_devices, num_microbatches):
    """Return the dropout noise of each microbatch on each device, for two steps."""
    drawn = []

    class Noise(nn.Module):
        """Return logits that are parameters plus noise from the dropout key."""

        @nn.compact
        def __call__(self, tokens, *, train=False):
            noise = jax.random.normal(self.make_rng("dropout"))
            jax.debug.callback(lambda value: drawn.append(float(value)), noise)
            logits = self.param("logits", nn.initializers.zeros, (VOCAB,))
            return jnp.broadcast_to(logits + noise, (*tokens.shape, VOCAB))

    optimizer = make_optimizer(OptimizerConfig("sgd", 0.0), 100)
    mesh = make_mesh(MeshConfig(data=num_devices), 6, 0, num_microbatches)
    steps = programs.compile_steps(Noise(), optimizer, 6, [Rows(BLOCK)], mesh, num_microbatches)
    params = {"logits": jnp.zeros(VOCAB)}
    state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    state, split = shardings.to_global_arrays((state, text()), shardings.replicated(mesh))
    jax.block_until_ready(steps(state, split, jax.random.key(1), 2))
    jax.effects_barrier()
    return drawn


def test_microbatches_have_different_masks():
    drawn = draw_noise(1, 3)
    assert len(drawn) == len(set(drawn)) == 6


ON_TWO_DEVICES = """
import sys
sys.path.insert(0, "tests")
from test_gpt_options import draw_noise
print(len(set(draw_noise(2, 1))))
"""


@pytest.mark.versions
@pytest.mark.skipif(
    jax.__version_info__ < (0, 8), reason="jax 0.7 has no callbacks if a mesh axis is automatic"
)
def test_devices_have_different_masks():
    done = run("-c", ON_TWO_DEVICES, **on_devices(2))
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_dropout_applies_to_embeddings():
    """The layers add zero to the residual stream here."""
    model, params = create(dropout=0.5), jax.tree.map(jnp.array, init(dropout=0.5))
    for part in ("attn", "mlp"):
        layer = params["h_0"][part]["c_proj"]
        params["h_0"][part]["c_proj"] = jax.tree.map(jnp.zeros_like, layer)
    key = jax.random.key(7)
    assert abs(loss(model, params, key) - loss(model, params)) > 1e-3


def test_dropout_applies_to_the_output_of_the_mlp():
    """Kept values are divided by the keep probability."""
    mlp, key = (
        transformer.MLP(transformer.BlockConfig(n_head=2, n_embd=10, dropout=0.5)),
        jax.random.key(7),
    )
    x = jax.random.normal(key, (5, 10))
    params = mlp.init(key, x, False)
    whole, dropped = mlp.apply(params, x, False), mlp.apply(params, x, True, rngs={"dropout": key})
    kept = np.asarray(dropped != 0)
    assert 0.2 < kept.mean() < 0.8
    assert_close(dropped[kept], 2 * whole[kept])


# Other families do not have these options.

VALUES = {
    "dropout": 0.1,
    "activation": "relu",
    "bias": False,
    "tied": True,
    "init_scheme": "gpt2",
    "dtype": "bfloat16",
    "remat": True,
    "layer_loop": "scan",
    "dropout_rng": "rbg",
}


GPT_OPTIONS = {"dropout", "layer_loop", "dropout_rng"}  # also of the family modern


@pytest.mark.parametrize("name", VALUES)
def test_other_families_refuse_the_options(name):
    families = models.MODELS | EXTENSION_MODELS
    for kind in models.MODELS:
        config = small_config(kind)
        config.data.kind = "windows" if kind == "window_mlp" else "lines"
        setattr(config.model, name, VALUES[name])
        config_lib.validate(config)
        if kind == "transformer" or (kind == "modern" and name in GPT_OPTIONS):
            models.create(config.model, VOCAB, BLOCK, families)
        else:
            with pytest.raises(UserError, match=rf"model.{name}: .* {kind} models do not have it"):
                models.create(config.model, VOCAB, BLOCK, families)


def test_the_command_line_refuses_the_options(tmp_path):
    flags = ("--config=configs/gru.py", "--config.model.tied=true", "--workdir", tmp_path / "run")
    done = run("train.py", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    message = "model.tied: true must be false: gru models do not have it"
    assert done.stderr == f"train.py: {message}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_diagnostics_of_a_run_with_scanned_layers(tmp_path):
    """Layer statistics and attention maps cover each layer, and the run resumes unrolled."""
    config = small_config("transformer", steps=2, num_samples=0, diagnose_every=2)
    config.train.eval_examples = config.train.train_eval_examples = 5
    config.model.layer_loop = "scan"
    assemble.train(config, str(tmp_path))
    assert "h_1.mlp tanh" in (tmp_path / "metrics.jsonl").read_text("utf-8")
    lm, _ = load_best_model(tmp_path, workdir.read(tmp_path))
    assert attention_weights(lm, ["emma"])[0].shape == (2, 2, 5, 5)
    config.model.layer_loop, config.train.steps = "unroll", 3
    assert assemble.train(config, str(tmp_path))["steps"] == 3


def test_the_dropout_masks_of_modern_are_those_of_its_published_results():
    """The names of modules determine the masks. Other masks change the results of configs/best.py,
    which must then be measured again."""
    config = ModelConfig("modern", n_layer=1, n_head=2, n_embd=8, dropout=0.5)
    model, tokens = create_model(config, 13, 7), jnp.arange(14).reshape(2, 7) % 13
    variables = model.init(jax.random.key(0), tokens)
    logits = model.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(1)})
    expected = [[-0.25310227, 0.067091, 0.10789154], [0.9743643, 0.34186783, -1.955e-5]]
    np.testing.assert_allclose(logits[:, 3, :3], expected, atol=1e-6)

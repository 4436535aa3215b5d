"""Windows, batch norm, and the lectures' networks."""

import json
import math
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    ROOT,
    assert_close,
    assert_same,
    make_batch_step,
    on_devices,
    published,
    quick_of,
    run,
)

from makemore_jax import assemble, models, scoring, sweep
from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import Config, DataConfig
from makemore_jax.data.lines import encode
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.kernels.layouts import Rows, choose
from makemore_jax.losses import token_losses
from makemore_jax.models.cnn import CausalConv
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.windows.calibrate import make_calibrate
from makemore_jax.windows.whole_lines import read_lines
from makemore_jax.windows.window_mlp import BatchNorm

V = 13
LECTURES = ("mlp", "mlp_scaled", "mlp_batchnorm", "deep_batchnorm", "wavenet")


def lecture_config(name: str, **train) -> Config:
    """Return a config of the lectures that reads names.txt."""
    config = runpy.run_path(str(ROOT / "configs" / f"lecture_{name}.py"))["get_config"]()
    config.data.path = str(ROOT / "names.txt")
    for field, value in train.items():
        setattr(config.train, field, value)
    return config


def small_config(name: str, **train) -> Config:
    """Return such a config with a model that trains quickly."""
    config = lecture_config(name, **({"batch_size": 7, "num_samples": 3} | train))
    config.model.n_embd, config.model.n_embd2 = 5, 11
    return config


def small_model(name: str, vocab_size: int = V):
    """Return a small model and its variables plus noise, so that none are 0 or 1."""
    config = small_config(name)
    T = config.data.block_size
    model = create_model(config.model, vocab_size, T)
    noise = np.random.RandomState(5)
    variables = model.init(jax.random.key(3), jnp.zeros((1, T), jnp.int32))
    noisy = jax.tree.map(lambda a: a + 0.1 * abs(noise.randn(*a.shape)).astype(a.dtype), variables)
    return model, noisy


def naive_windows(words, vocab, block_size):
    """Build windows as the lecture does."""
    x, y = [], []
    for word in words:
        context = [0] * block_size
        for token in [*vocab.encode(word), 0]:
            x.append(context)
            y.append([token])
            context = [*context[1:], token]
    return np.array(x), np.array(y)


@pytest.mark.parametrize("block_size", quick_of([1, 3, 8], [3]))
def test_windows_match_the_lecture(tmp_path, block_size):
    words = ["emma", "olivia", "a", "ava", "isabella", "bo", "mia", "eve", "zoe", "amelia"]
    (tmp_path / "words.txt").write_text("\n".join(words), "utf-8")
    config = DataConfig(str(tmp_path / "words.txt"), "windows", "lecture", block_size=block_size)
    dataset = load_data(config, seed=0)
    assert (dataset.block_size, dataset.max_len) == (block_size, 9)
    for name, split in dataset.splits.items():
        x, y = naive_windows(dataset.words[name], dataset.vocab, block_size)
        inputs, targets, _ = split.take(jnp.arange(split.size))
        assert inputs.tolist() == x.tolist() and targets.tolist() == y.tolist()
        assert (
            split.take(jnp.array([3]), 2)[0].tolist() == [x[3].tolist()[-2:]][:1] or block_size == 1
        )


def test_split_sizes_of_the_lectures():
    config = DataConfig(str(published("names")), "windows", "lecture", block_size=3)
    splits = load_data(config, seed=0).splits
    assert [split.size for split in splits.values()] == [182_625, 22_655, 22_866]


@pytest.mark.parametrize(
    ("name", "num_params"),
    [*zip(LECTURES, (11_897, 11_897, 12_097, 47_024, 76_579), strict=True)],
)
def test_number_of_parameters_of_the_lectures(name, num_params):
    config = lecture_config(name)
    model = create_model(config.model, 27, config.data.block_size)
    params = models.variable_shapes(model, config.data.block_size)["params"]
    assert state_lib.num_params(params) == num_params


@pytest.mark.parametrize(
    ("scale", "std", "low", "high", "saturated"),
    [
        ("normal", 1.0, 15, 40, (0.5, 1.0)),
        ("small_output", 1.0, 3.2, 3.5, (0.5, 1.0)),
        ("small", 0.2, 3.2, 3.4, (0.0, 0.1)),
        ("kaiming", 5 / 3 / 30**0.5, 3.2, 3.4, (0.0, 0.3)),
    ],
)
def test_initial_weights_loss_and_saturation(scale, std, low, high, saturated):
    """Check the loss before the first step (ln 27 for equal logits) and the saturation of tanh."""
    config = lecture_config("mlp")
    config.model.init_scale = scale
    model = create_model(config.model, 27, 3)
    split = load_data(config.data, seed=0).splits["dev"]
    inputs, targets, _ = split.take(jnp.arange(1_000))
    variables = model.init(jax.random.key(0), inputs)
    assert low < float(token_losses(model.apply(variables, inputs), targets).mean()) < high
    x = variables["params"]["wte"]["embedding"][inputs].reshape(len(inputs), -1)
    layer = variables["params"]["h_0"]
    assert float(layer["kernel"].std()) == pytest.approx(std, rel=0.05)
    share = float((jnp.abs(jnp.tanh(x @ layer["kernel"] + layer["bias"])) > 0.97).mean())
    assert saturated[0] <= share <= saturated[1]


@pytest.mark.versions
def test_batch_norm():
    """Training uses batch statistics, evaluation running ones; variances divide by N - 1."""
    norm = BatchNorm(n=5, momentum=0.25, gain=0.5)
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (7, 2, 5))
    variables = norm.init(jax.random.key(0), x, False)
    assert_close(norm.apply(variables, x, False), 0.5 * x, 1e-4)  # mean 0, variance 1 at first
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    every = np.asarray(x).reshape(14, 5)
    mean, var = every.mean(axis=0), every.var(axis=0, ddof=1)
    assert_close(y.reshape(14, 5), 0.5 * (every - mean) / np.sqrt(var + 1e-5))
    running = updated["batch_stats"]
    assert_close(running["mean"], 0.25 * mean)
    assert_close(running["var"], 0.75 + 0.25 * var)
    y = norm.apply(variables | updated, x, False)
    assert_close(y, 0.5 * (np.asarray(x) - running["mean"]) / np.sqrt(running["var"] + 1e-5))


@pytest.mark.versions
@pytest.mark.parametrize("name", quick_of(LECTURES, ["mlp", "mlp_batchnorm"]))
def test_read_lines_equals_step(name):
    model, variables = small_model(name)
    tokens = jnp.array([[0, 1, 5, 7, 12, 3, 3, 9, 2, 4, 1], [0, 12, 2, 2, 1, 1, 8, 3, 11, 10, 6]])
    whole = read_lines(model, variables, tokens)
    assert whole.shape == (2, 11, V)
    carry = model.apply(variables, 2, method="init_carry")
    for t in range(11):
        carry, logits = model.apply(variables, carry, tokens[:, t], method="step")
        assert_close(logits, whole[:, t], 1e-6)


@pytest.mark.slow
def test_logits_depend_only_on_their_window():
    model, variables = small_model("wavenet")
    tokens = jax.random.randint(jax.random.key(0), (4, 11), 0, V)
    logits = model.apply(variables, tokens)
    assert logits.shape == (4, 4, V)
    assert_close(logits[:, :1], model.apply(variables, tokens[:, :8]), 1e-6)
    other = logits - model.apply(variables, tokens.at[:, 0].set((tokens[:, 0] + 1) % V))
    assert np.abs(other[:, 0]).max() > 1e-4 and np.abs(other[:, 1:]).max() < 1e-6


@pytest.mark.slow
def test_dilated_causal_convolutions_equal_the_tree_at_the_last_position():
    """Apply the layers of models/cnn.py to all positions at once, with the same weights."""
    model, variables = small_model("wavenet")
    params, stats = variables["params"], variables["batch_stats"]
    tokens = jax.random.randint(jax.random.key(0), (4, 8), 0, V)
    positions = jnp.full((1, 8), 8)  # the windows begin in the middle of a line
    x = params["wte"]["embedding"][tokens]
    for i in range(3):
        kernel = params[f"h_{i}"]["kernel"]
        conv = CausalConv(kernel.shape[0] // 2, kernel.shape[1], dilation=2**i)
        linear = {"linear": {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}}
        x = conv.apply({"params": linear}, x, positions)
        norm = {"params": params[f"norms_{i}"], "batch_stats": stats[f"norms_{i}"]}
        x = jnp.tanh(BatchNorm(kernel.shape[1], 0.1).apply(norm, x, False))
    logits = x @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]
    assert_close(logits[:, -1], model.apply(variables, tokens)[:, 0], 1e-6)
    assert np.abs(logits[:, -2] - model.apply(variables, tokens)[:, 0]).max() > 1e-2


@pytest.mark.slow
def test_calibrated_statistics_are_those_of_the_whole_split():
    model, variables = small_model("wavenet", 27)
    split = load_data(small_config("wavenet").data, seed=0).splits["dev"]
    stats = make_calibrate(model)(variables, split)
    inputs, *_ = split.take(jnp.arange(split.size))
    calibrated = {"params": variables["params"], **stats}
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    by_stats = apply(calibrated, inputs)
    by_batch, _ = apply(variables, inputs, train=True, mutable=("batch_stats",))
    assert_close(by_stats, by_batch, 1e-4)
    assert np.abs(by_stats - apply(variables, inputs)).max() > 1e-2


@pytest.mark.versions
def test_running_statistics_are_part_of_the_state():
    config = small_config("mlp_batchnorm")
    config.model.momentum = 0.3
    dataset = load_data(config.data, seed=0)
    model = create_model(config.model, 27, 3)
    optimizer = make_optimizer(config.optimizer, 10)
    state = state_lib.create(model, optimizer, jax.random.key(0), 3)
    batch = dataset.splits["train"].take(jnp.arange(100))
    after, _ = jax.jit(make_batch_step(model, optimizer))(state, batch, jax.random.key(0))
    _, expected = model.apply(state.variables, batch[0], train=True, mutable=["batch_stats"])
    jax.tree.map(
        lambda a, b: assert_close(a, b, 1e-6),
        after.model_state["batch_stats"],
        expected["batch_stats"],
    )
    assert np.abs(after.model_state["batch_stats"]["norms_0"]["mean"]).max() > 1e-2


@pytest.mark.parametrize("name", ["mlp", "wavenet"])
def test_losses_of_windows_equal_scores_of_lines(name):
    """Evaluation over windows and scoring of lines agree."""
    config = small_config(name)
    dataset = load_data(config.data, seed=0)
    model, variables = small_model(name, 27)
    lm = LanguageModel(model, variables, dataset.vocab, dataset.max_len)
    words = dataset.words["dev"]
    tokens = sum(len(word) + 1 for word in words)
    loss = make_evaluate(model)(variables, dataset.splits["dev"])
    assert -math.fsum(scoring.score(lm, words)) / tokens == pytest.approx(loss, rel=1e-5)
    line = encode(words, dataset.vocab, dataset.max_len)
    assert line.size == len(words) and dataset.splits["dev"].size == tokens


@pytest.mark.versions
@pytest.mark.parametrize(
    "name", quick_of(["mlp", "mlp_batchnorm", "calibrated"], ["mlp_batchnorm"])
)
def test_runs_resume_exactly_and_are_sampled(tmp_path, name):
    every = {"log_every": 5, "eval_every": 10, "sample_every": 20, "checkpoint_every": 10}
    config = small_config(name.replace("calibrated", "mlp_batchnorm"), steps=20, **every)
    config.train.train_eval_examples = 1_000
    if name == "calibrated":
        config.model.batch_norm = "calibrated"
    summary = assemble.train(config, str(tmp_path / "whole"))
    config.train.steps = 10
    assemble.train(config, str(tmp_path / "halves"))
    config.train.steps = 20
    again = assemble.train(config, str(tmp_path / "halves"))
    for field in ("train_loss", "dev_loss", "test_loss", "best_step"):
        assert summary[field] == again[field]
    assert 1 < summary["dev_loss"] < 30
    template = models.variable_shapes(create_model(config.model, 27, 3), 3)
    runs = [Checkpoints(tmp_path / n) for n in ("whole", "halves")]
    variables = [checkpoints.restore_items("latest", template) for checkpoints in runs]
    assert_same(*variables)
    assert ("batch_stats" in variables[0]) == (name != "mlp")

    sample = ("sample.py", "--workdir", tmp_path / "whole")
    done = run(*sample, "--num", "5", "--format", "json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5 and max(len(line["text"]) for line in lines) > 3  # beyond the window
    scored = run(*sample, "--score", "-", "--format", "json", stdin=lines[0]["text"] + "\n")
    assert json.loads(scored.stdout.splitlines()[0])["log_prob"] == pytest.approx(
        lines[0]["log_prob"], rel=1e-4
    )


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one():
    """Batch norm uses the statistics of the global batch."""
    done = run("-c", ON_DEVICES, **on_devices(2))
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)
    np.testing.assert_allclose(one, two, rtol=1e-5)


ON_DEVICES = """
import json, sys
sys.path.insert(0, "tests")
from test_windows import losses_on
print(json.dumps([losses_on(1), losses_on(2)]))
"""


def losses_on(num_devices: int) -> list[float]:
    """Return the losses of 20 steps of the small wavenet."""
    config = small_config("wavenet", batch_size=8)
    config.mesh.data = num_devices
    dataset = load_data(config.data, seed=0)
    model = create_model(config.model, 27, 8)
    optimizer = make_optimizer(config.optimizer, 20)
    state = state_lib.create(model, optimizer, jax.random.key(0), 8)
    mesh = make_mesh(config.mesh, 8, num_params=0)
    state = jax.device_put(state, shardings.replicated(mesh))
    layouts = choose(dataset.splits["train"], 8, model, num_devices)
    assert layouts == [Rows(8)]
    steps = programs.compile_steps(model, optimizer, 8, layouts, mesh)
    _, metrics = steps(state, dataset.splits["train"], jax.random.key(1), 20)
    return metrics["train_loss"].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.block_size": None}, "data.block_size is not set; windows need the number of"),
        ({"data.block_size": 7}, "data.block_size: 7 must be 8, model.fuse to the power"),
        ({"model.fuse": 1}, "model.fuse: 1 must be at least 2"),
        ({"data.kind": "lines"}, 'data.kind: "lines" must be windows, which window_mlp reads'),
        ({"model.kind": "mlp"}, 'data.kind: "windows" must be lines or text, which mlp reads'),
        ({"train.batch_size": 1}, "train.batch_size: 1 must be above 1 for model.batch_norm"),
        ({"train.accumulate": 7}, "train.accumulate: 7 must be 1 for model.batch_norm"),
        ({"model.batch_norm": "batch"}, 'model.batch_norm: "batch" is not one of none, running'),
        ({"model.init_scale": "he"}, 'model.init_scale: "he" is not one of kaiming, normal'),
        ({"model.momentum": 0.0}, "model.momentum: 0.0 must be above 0 and at most 1"),
        (
            {"model.batch_norm": "none", "model.output_norm": True},
            "model.output_norm: true must be false without model.batch_norm",
        ),
        (
            {"data.kind": "lines", "data.block_size": None, "model.kind": "mlp"},
            "model.n_layer: 3 must be 4: mlp models do not have it",
        ),
    ],
)
def test_invalid_settings(tmp_path, settings, message):
    config = small_config("wavenet")
    for name, value in settings.items():
        group, _, leaf = name.partition(".")
        setattr(getattr(config, group), leaf, value)
    with pytest.raises(UserError, match=f"^{message}"):
        assemble.train(config, str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_missing_data_names_the_download(tmp_path):
    config = small_config("wavenet")
    config.data.path = str(tmp_path / "makemore_names.txt")
    with pytest.raises(UserError, match=r"makemore_jax\.download names fetches it to data/$"):
        assemble.train(config, str(tmp_path / "run"))


@pytest.mark.slow
def test_normalized_logits_start_small():
    config = small_config("mlp_batchnorm").model
    config.output_norm = True
    model = create_model(config, V, 3)
    params = model.init(jax.random.key(0), jnp.zeros((5, 3), jnp.int32), train=True)["params"]
    assert_close(params["norm_f"]["scale"], np.full(V, 0.1))


def test_vocabulary_equals_that_of_lines():
    dataset = load_data(small_config("mlp").data, seed=0)
    assert dataset.vocab == Vocab(tuple("abcdefghijklmnopqrstuvwxyz"))


@pytest.mark.parametrize("batch_norm", quick_of(["running", "calibrated"], []))
def test_a_sweep_with_batch_norm_equals_separate_runs(batch_norm):
    """Each member of the sweep, with its batch statistics, equals a separate run."""
    config = small_config("mlp_batchnorm", steps=20, log_every=20, eval_every=20)
    config.model.batch_norm = batch_norm
    rates = [0.01, 0.1, 1.0]
    results = sweep.sweep(config, {"optimizer.learning_rate": rates}, num_seeds=2)
    assert len(results) == 6
    alone = sweep.with_values(config, results[3].values | {"seed": results[3].seed})
    dataset = load_data(alone.data, alone.seed)
    model = create_model(alone.model, 27, 3)
    optimizer = make_optimizer(alone.optimizer, 20)
    init_key, train_key, _ = jax.random.split(jax.random.key(alone.seed), 3)
    state = state_lib.create(model, optimizer, init_key, 3)
    mesh = make_mesh(alone.mesh, 7, num_params=0)
    steps = programs.compile_steps(model, optimizer, 7, [Rows(3)], mesh)
    state, metrics = steps(state, dataset.splits["train"], train_key, 20)
    if batch_norm == "calibrated":
        stats = make_calibrate(model)(state.variables, dataset.splits["train"])
        state = state.replace(model_state=stats)
    assert results[3].curve == pytest.approx([float(metrics["train_loss"].mean())], rel=1e-5)
    dev_loss = make_evaluate(model)(state.variables, dataset.splits["dev"])
    assert results[3].dev_loss == pytest.approx(dev_loss, rel=1e-5)


@pytest.mark.slow
def test_a_sweep_over_seeds_with_different_numbers_of_windows_is_refused():
    config = small_config("mlp", steps=5)
    config.data.split = "holdout"
    with pytest.raises(UserError, match=r"^--seeds: the number of windows in a split"):
        sweep.sweep(config, {"optimizer.learning_rate": [0.1]}, num_seeds=2)

"""nanoGPT's checkpoints become runs and come back, with the state of the optimizer.

Needs torch: pip install -e ".[parity]". If MAKEMORE_REQUIRE_TORCH is set, nothing is skipped.
"""

import math
import os
import pickle
import runpy
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FixedBatch, assert_same, enable_x64, read_metrics, run

if os.environ.get("MAKEMORE_REQUIRE_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason='needs torch: pip install -e ".[parity]"')

import nanogpt

from makemore_jax import assemble
from makemore_jax.assemble import create_model, open_checkpoints
from makemore_jax.config import Config
from makemore_jax.decoding import Decoding
from makemore_jax.errors import UserError
from makemore_jax.sampling import line_keys
from makemore_jax.text import streaming
from makemore_jax.torch_parity import convert, weights
from makemore_jax.torch_parity.moments import find_moments
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import gradients, make_train_step

pytestmark = pytest.mark.slow
TEXT = "".join(f"{i * 7 % 89} for, {i % 13} of;\n" for i in range(120))
CHARS = sorted(set(TEXT))
V, T, STEP = len(CHARS), 11, 7  # the checkpoint is of step 7, within the warm-up
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 21, "block_size": T, "vocab_size": V}


def batches(count, seed=3):
    draw = torch.Generator().manual_seed(seed)
    text = torch.tensor([CHARS.index(c) for c in TEXT]).unfold(0, T + 1, 1)
    crops = text[torch.randint(0, len(text), (count, 5), generator=draw)]
    return [(crop[:, :-1], crop[:, 1:]) for crop in crops]


def trained(bias=False, **settings):
    """Return nanoGPT's model and optimizer after some steps, and the settings."""
    torch.manual_seed(1)
    settings = nanogpt.SETTINGS | settings
    model = nanogpt.GPT(nanogpt.GPTConfig(**SIZES, bias=bias))
    betas = (settings["beta1"], settings["beta2"])
    optimizer = model.make_optimizer(settings["weight_decay"], 1e-3, betas)
    nanogpt.train(model, optimizer, batches(STEP), 0, settings)
    return model, optimizer, settings


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with text.txt, meta.pkl, ckpt.pt and `run`, the converted checkpoint."""
    folder = tmp_path_factory.mktemp("nanogpt")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    itos = dict(enumerate(CHARS))
    meta = {"vocab_size": V, "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    content = nanogpt.checkpoint(*trained()[:2], STEP, nanogpt.SETTINGS, prefix="_orig_mod.")
    torch.save(content, folder / "ckpt.pt")
    data = str(folder / "text.txt")
    convert.from_torch(folder / "ckpt.pt", Config(), folder / "run", data)
    return folder


def load_state(folder):
    """Return the config, the model and the latest state of a run."""
    run = assemble.read_run(folder)
    block_size = run.config.data.block_size
    model = create_model(run.config.model, run.vocab.size, block_size)
    optimizer = make_optimizer(run.config.optimizer, run.config.train.steps)
    template = state_lib.shapes(model, optimizer, block_size)
    state = open_checkpoints(folder, read_only=True).restore("latest", template)
    return run.config, model, state


def continue_in_jax(folder, steps):
    """Return the losses of more steps in float64, and the parameters by PyTorch's names."""
    config, model, state = load_state(folder)
    with enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, state)
        optimizer, losses = make_optimizer(config.optimizer, config.train.steps), []

        @jax.jit
        def step(state, inputs, targets):
            split = FixedBatch((inputs, targets))
            train_step = make_train_step(gradients(model), optimizer, 5)
            return train_step(state, split, jax.random.split(jax.random.key(0)))

        for inputs, targets in batches(steps, seed=4):
            wide, metrics = step(wide, jnp.asarray(inputs.numpy()), jnp.asarray(targets.numpy()))
            losses.append(float(metrics["train_loss"]))
        return losses, weights.to_torch(wide.params, "transformer"), int(wide.step)


def continue_in_torch(model, optimizer, steps, settings):
    """Return the losses of the same steps in PyTorch, and the parameters."""
    # Load the state into a new optimizer, which casts it to the dtype of the parameters.
    saved, double = optimizer.state_dict(), model.double()
    betas = (settings["beta1"], settings["beta2"])
    optimizer = double.make_optimizer(settings["weight_decay"], 1e-3, betas)
    optimizer.load_state_dict(saved)
    losses = nanogpt.train(double, optimizer, batches(steps, seed=4), STEP, settings)
    return losses, {name: p.detach().numpy() for name, p in model.state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [{}, {"bias": True, "decay_lr": False, "grad_clip": 0.0, "beta2": 0.95}],
    ids=["warm-up, cosine and clipping", "biases and a constant learning rate"],
)
def test_training_continues_as_in_nanogpt(changed, files, tmp_path):
    """40 steps of float64 pass through the warm-up, the cosine, and the constant end."""
    folder, (model, optimizer, settings) = files / "run", trained(**changed)
    if changed:
        folder = tmp_path / "run"
        torch.save(nanogpt.checkpoint(model, optimizer, STEP, settings), tmp_path / "ckpt.pt")
        convert.from_torch(tmp_path / "ckpt.pt", Config(), folder, str(files / "text.txt"))
    losses, params, step = continue_in_jax(folder, 40)
    expected, expected_params = continue_in_torch(model, optimizer, 40, settings)
    assert step == STEP + 40
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)
    assert expected[-1] < expected[0]
    if settings["grad_clip"]:  # it has an effect
        model, optimizer, _ = trained(**changed)
        free, _ = continue_in_torch(model, optimizer, 40, settings | {"grad_clip": 0.0})
        assert np.abs(np.subtract(free, expected)).max() > 1e-3
    assert params.keys() == expected_params.keys()
    for name, value in expected_params.items():
        np.testing.assert_allclose(params[name], value, rtol=0, atol=1e-9, err_msg=name)


def test_the_optimizer_of_the_config_may_differ(files, tmp_path):
    """The settings are those of the config, the moments those of the file."""
    config, folder = Config(), tmp_path / "run"
    config.optimizer.learning_rate, config.optimizer.grad_clip = 0.25, 0.5
    convert.from_torch(files / "ckpt.pt", config, folder, str(files / "text.txt"))
    read, _, state = load_state(folder)
    assert (read.optimizer.learning_rate, read.optimizer.grad_clip) == (0.25, 0.5)
    moments = find_moments(load_state(files / "run")[2].opt_state)
    assert_same(find_moments(state.opt_state), moments)


def test_the_config_is_that_of_the_file(files):
    config, _, state = load_state(files / "run")
    model, optimizer = config.model, config.optimizer
    assert (model.n_layer, model.n_head, model.n_embd) == (2, 3, 21)
    assert (model.activation, model.tied, model.bias) == ("gelu_exact", True, False)
    assert (config.data.kind, config.data.block_size) == ("text", T)
    assert (optimizer.learning_rate, optimizer.weight_decay) == (3e-3, 0.1)
    assert (optimizer.decay, optimizer.grad_clip) == ("matrices", 0.6)
    assert (config.train.steps, config.train.batch_size) == (90, 5)
    assert int(state.step) == STEP


def test_continuations_agree_beyond_the_context(files):
    """Greedy, and with the same Gumbel noise on both sides."""
    model, decoding = trained()[0].eval(), Decoding(temperature=0)
    lm = assemble.load_language_model(
        files / "run", assemble.read_run(files / "run"), max_len=3 * T
    )
    key, prompt = jax.random.key(5), "7 f"
    tokens, count = lm.vocab.encode(prompt), 3 * T - len(prompt)
    (greedy,) = assemble.sample(lm, key, 1, prompt, decoding)
    expected = lm.vocab.decode_rows(np.array([nanogpt.generate(model, tokens, count)]))
    assert greedy.text == prompt + expected[0]

    (row_key,) = line_keys(key, jnp.arange(1))
    noise = [jax.random.gumbel(jax.random.fold_in(row_key, i), (V,)) for i in range(count)]
    noise = torch.tensor(np.array(noise))
    (drawn,) = streaming.sample(lm, key, 1, prompt, Decoding())
    expected = lm.vocab.decode_rows(np.array([nanogpt.generate(model, tokens, count, noise)]))
    assert drawn.text == prompt + expected[0]
    assert drawn.text != greedy.text and len(drawn.text) == 3 * T


def test_back_to_nanogpt(files, tmp_path):
    """The file has the model, the optimizer and the settings, bit for bit."""
    meta = tmp_path / "shakespeare_char" / "meta.pkl"
    meta.parent.mkdir()
    assert convert.to_torch(files / "run", tmp_path / "ckpt.pt", "latest", meta) == "nanoGPT"
    model, optimizer, step, _ = nanogpt.resume(tmp_path / "ckpt.pt")
    known, known_optimizer, settings = trained()
    assert step == STEP
    for name, tensor in known.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    state, known_state = optimizer.state_dict(), known_optimizer.state_dict()
    assert state["state"].keys() == known_state["state"].keys()
    for i, entries in known_state["state"].items():
        for name, tensor in entries.items():
            assert torch.equal(state["state"][i][name], tensor), (i, name)
    for group, known_group in zip(state["param_groups"], known_state["param_groups"], strict=True):
        for name in ("params", "betas", "eps", "weight_decay"):
            assert group[name] == known_group[name]
    content = torch.load(tmp_path / "ckpt.pt")
    saved = content["config"]
    assert {name: saved[name] for name in settings.keys() & saved.keys()} == {
        name: settings[name] for name in settings.keys() & saved.keys()
    }
    assert saved["dataset"] == "shakespeare_char"
    assert pickle.loads(meta.read_bytes()) == pickle.loads((files / "meta.pkl").read_bytes())
    losses = nanogpt.train(model, optimizer, batches(5, seed=4), step, saved)
    expected = nanogpt.train(known, known_optimizer, batches(5, seed=4), STEP, settings)
    assert losses == expected


def test_a_checkpoint_in_which_all_parameters_decay(files, tmp_path):
    """to-torch writes one for optimizer.decay=all. Its best loss is infinite without a dev loss."""
    model, optimizer, settings = trained()
    optimizer.param_groups[1]["weight_decay"] = settings["weight_decay"]
    content = nanogpt.checkpoint(model, optimizer, STEP, settings) | {"best_val_loss": math.inf}
    torch.save(content, tmp_path / "ckpt.pt")
    meta, folder = files / "meta.pkl", tmp_path / "run"
    converted = convert.from_torch(tmp_path / "ckpt.pt", Config(), folder, meta=meta)
    assert converted.config.optimizer.decay == "all"
    assert converted.config.optimizer.learning_rate == settings["learning_rate"]
    assert converted.has_moments and converted.dev_loss is None
    convert.to_torch(folder, tmp_path / "again.pt", "latest")
    _, again, step, best_loss = nanogpt.resume(tmp_path / "again.pt")
    assert [group["weight_decay"] for group in again.param_groups] == [settings["weight_decay"]] * 2
    assert (step, best_loss) == (STEP, math.inf)


def test_a_vocabulary_is_enough_to_sample(files, tmp_path):
    command = ("-m", "makemore_jax.torch_parity.convert", "from-torch", files / "ckpt.pt")
    done = run(*command, "--meta", files / "meta.pkl", "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("of step 7 with its optimizer, dev loss 2.5000\n")
    folders, key = (files / "run", tmp_path / "run"), jax.random.key(3)
    models = [
        assemble.load_language_model(folder, assemble.read_run(folder), "latest", 20)
        for folder in folders
    ]
    assert models[0].vocab == models[1].vocab
    assert assemble.sample(models[0], key, 1, "7 f") == assemble.sample(models[1], key, 1, "7 f")


def test_a_run_continues_with_the_config_file_that_was_written(files, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(files / "run", folder)
    config = runpy.run_path(str(folder / "config.py"))["get_config"]()
    assert config == assemble.read_run(folder).config
    config.train.steps, config.train.log_every, config.train.num_samples = 11, 2, 0
    assert assemble.train(config, str(folder))["steps"] == 11
    assert {line["step"] for line in read_metrics(folder)} == {8, 10, 11}


def broken(folder, case):
    """Return a changed checkpoint and the expected error message."""
    model, optimizer, settings = trained()
    content = nanogpt.checkpoint(model, optimizer, STEP, settings)
    args, state = content["model_args"], content["optimizer"]["state"]
    if case == "layers":
        args["n_layer"] = 10**12
        message = "model_args has n_layer=1000000000000, its tensors have 2"
    elif case == "vocabulary":
        args["vocab_size"] = 50304
        message = f"model_args has vocab_size=50304, its tensors have {V}"
    elif case == "heads":
        args["n_head"] = 5
        message = "model.n_embd: 21 must be divisible by model.n_head=5"
    elif case == "expanded":
        small = torch.zeros(1, 1)
        content["model"]["transformer.wpe.weight"] = small.expand(10**6, 10**6)
        message = "transformer.wpe.weight announces 4,000,000,000,000 bytes, but has 4"
    elif case == "moments":
        del state[3]["exp_avg"]
        message = "its optimizer has no exp_avg for transformer.h.0.attn.c_proj.weight"
    elif case == "steps":
        state[3]["step"] = torch.tensor(5.0)
        message = "its optimizer has steps [5, 7], not one number"
    elif case == "sgd":
        content["optimizer"] = torch.optim.SGD(model.parameters(), 0.1).state_dict()
        message = "its optimizer is not AdamW"
    elif case == "settings":
        content["config"] = settings | {"learning_rate": "fast"}
        message = "optimizer.learning_rate: 'fast' is not of type float"
    elif case == "number":
        content["iter_num"] = "seven"
        message = "has unexpected content"
    torch.save(content, folder / "ckpt.pt")
    return message


CASES = ["layers", "vocabulary", "heads", "expanded", "moments", "steps", "sgd", "settings"]


@pytest.mark.parametrize("case", [*CASES, "number"])
def test_a_file_that_contradicts_itself_is_refused(case, files, tmp_path):
    message = broken(tmp_path, case)
    with pytest.raises(UserError) as caught:
        data = str(files / "text.txt")
        convert.from_torch(tmp_path / "ckpt.pt", Config(), tmp_path / "run", data)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_text_and_another_vocabulary_are_refused(files, tmp_path):
    (tmp_path / "other.txt").write_text(TEXT.replace("7", ""), "utf-8")
    data, folder = str(tmp_path / "other.txt"), tmp_path / "run"
    with pytest.raises(UserError, match=rf"has {V - 1} tokens, .*ckpt.pt has {V}"):
        convert.from_torch(files / "ckpt.pt", Config(), folder, data)
    with pytest.raises(UserError, match=r"meta.pkl and .*other.txt have different characters"):
        convert.from_torch(files / "ckpt.pt", Config(), folder, data, files / "meta.pkl")
    config = Config()
    config.model.n_layer = 3
    with pytest.raises(UserError, match=r"^model.n_layer: the config has 3, but .* has 2$"):
        convert.from_torch(files / "ckpt.pt", config, folder, str(files / "text.txt"))
    assert not folder.exists()

"""Convert weights from PyTorch and back with torch itself, and refuse unsafe files.

Needs torch: pip install -e ".[parity]". If MAKEMORE_REQUIRE_TORCH is set, nothing is skipped.
"""

import json
import os
import pickle

import jax
import numpy as np
import pytest
from conftest import (
    FAMILIES,
    ROOT,
    assert_close,
    assert_one_line,
    assert_same,
    checkpoint_of_bigram,
    enable_x64,
    make_batch_step,
    run,
    small_config,
)

if os.environ.get("MAKEMORE_REQUIRE_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason='needs torch: pip install -e ".[parity]"')

from makemore_jax import assemble, models
from makemore_jax.assemble import create_model, open_checkpoints
from makemore_jax.config import Config
from makemore_jax.errors import UserError
from makemore_jax.torch_parity import convert, files, weights
from makemore_jax.torch_parity.models import MODELS
from makemore_jax.torch_parity.moments import find_moments
from makemore_jax.torch_parity.step import (
    make_torch_optimizer,
    make_torch_step,
    torch_mean_loss,
)
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState

pytestmark = pytest.mark.slow
CONVERT = ("-m", "makemore_jax.torch_parity.convert")
QUICK = ("--config.train.steps=20", "--config.train.eval_every=10", "--config.train.log_every=10")


def layer(name, n_in, n_out, bias=True):
    return {f"{name}.weight": (n_out, n_in)} | ({f"{name}.bias": (n_out,)} if bias else {})


def makemore_shapes(kind: str, V: int, T: int, C: int = 64) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of makemore.py's state_dict at its defaults, with buffers."""
    wte, head = {"wte.weight": (V, C)}, layer("lm_head", C, V)
    cells = {"rnn": ["xh_to_h"], "gru": ["xh_to_z", "xh_to_r", "xh_to_hbar"]}
    if kind == "bigram":
        return {"logits": (V, V)}
    if kind == "mlp":
        return {"wte.weight": (V + 1, C)} | layer("mlp.0", T * C, C) | layer("mlp.2", C, V)
    if kind in cells:
        gates = {k: v for g in cells[kind] for k, v in layer(f"cell.{g}", 2 * C, C).items()}
        return {"start": (1, C)} | wte | gates | head
    if kind == "bow":
        block = layer("context_block.mlp.c_fc", C, C) | layer("context_block.mlp.c_proj", C, C)
        mask = {"context_block.cbow.bias": (1, T, T)}
        return wte | {"wpe.weight": (T, C)} | mask | block | head
    result = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    for i in range(4):
        result |= {f"h.{i}.{ln}.{p}": (C,) for ln in ("ln_1", "ln_2") for p in ("weight", "bias")}
        result |= {f"h.{i}.attn.bias": (1, 1, T, T)} | layer(f"h.{i}.attn.c_attn", C, 3 * C)
        result |= layer(f"h.{i}.attn.c_proj", C, C) | layer(f"h.{i}.mlp.c_fc", C, 4 * C)
        result |= layer(f"h.{i}.mlp.c_proj", 4 * C, C)
    result |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    return {f"transformer.{k}": v for k, v in result.items()} | layer("lm_head", C, V, bias=False)


def config_of(kind: str, **options) -> Config:
    config = Config()
    config.model.kind = kind
    for name, value in options.items():
        setattr(config.model, name, value)
    return config


def torch_model(kind: str, seed: int = 5, **options):
    """Return a reference model with makemore's initial values, and sizes for names.txt."""
    torch.manual_seed(seed)
    return weights.reference(config_of(kind, **options), vocab_size=27, block_size=15)


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k not in ("cnn", "lstm", "modern")])
def test_state_dicts_match_makemore(kind):
    shapes = {name: tuple(t.shape) for name, t in torch_model(kind).state_dict().items()}
    assert shapes == makemore_shapes(kind, V=27, T=15)


def test_every_family_has_a_reference():
    assert set(MODELS) == {*FAMILIES, "window_mlp"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_torch_to_jax_to_torch_keeps_every_bit(kind, tmp_path):
    """Convert every tensor and buffer with the two commands."""
    module = torch_model(kind)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    torch.save(module.state_dict(), tmp_path / "model.pt")
    config = ("--config", f"configs/{kind}.py")
    done = run(
        *CONVERT, "from-torch", tmp_path / "model.pt", *config, "--workdir", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    suffix = {"mlp": "npz", "gru": "safetensors"}.get(kind, "pt")
    back = tmp_path / f"back.{suffix}"
    done = run(*CONVERT, "to-torch", "--workdir", tmp_path / "run", back)
    assert done.returncode == 0, done.stderr
    if suffix == "pt":
        result = torch.load(back, weights_only=True)
        torch_model(kind, seed=6).load_state_dict(result, strict=True)
        result = {name: tensor.numpy() for name, tensor in result.items()}
    else:
        result = files.read(back).tensors
    known = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert result.keys() == known.keys()
    for name, tensor in known.items():
        assert result[name].shape == tensor.shape
        assert result[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_the_checkpoint_that_is_converted(checkpoint, overtrained, tmp_path):
    flags = ("--workdir", overtrained, "--checkpoint", checkpoint)
    done = run(*CONVERT, "to-torch", *flags, tmp_path / "model.npz")
    assert done.returncode == 0, done.stderr
    logits = files.read(tmp_path / "model.npz").tensors["logits"]
    np.testing.assert_array_equal(logits, checkpoint_of_bigram(overtrained, checkpoint))


TIED = {"tied": True, "bias": False}  # as in nanoGPT


def test_state_dict_of_tied_weights_matches_nanogpt():
    module = torch_model("transformer", **TIED)
    shapes = makemore_shapes("transformer", V=27, T=15)
    shapes = {k: v for k, v in shapes.items() if not k.endswith("bias") or k.endswith(".attn.bias")}
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == shapes
    assert module.lm_head.weight is module.transformer["wte"].weight


def test_tied_weights_to_jax_and_back_keep_every_bit(tmp_path):
    """Use names.txt as a text, which also has 27 characters."""
    module = torch_model("transformer", **TIED)
    torch.save(module.state_dict(), tmp_path / "model.pt")
    config = ("--config", "configs/transformer.py", "--config.model.tied")
    config += ("--config.model.bias=False", "--config.data.kind=text")
    config += ("--config.data.block_size=15", "--workdir", tmp_path / "run")
    done = run(*CONVERT, "from-torch", tmp_path / "model.pt", *config)
    assert done.returncode == 0, done.stderr
    known = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    for suffix in ("pt", "safetensors"):
        back = tmp_path / f"back.{suffix}"
        done = run(*CONVERT, "to-torch", "--workdir", tmp_path / "run", back)
        assert done.returncode == 0, done.stderr
        result = files.read(back).tensors
        assert result.keys() == known.keys()
        for name, tensor in known.items():
            assert result[name].shape == tensor.shape
            assert result[name].tobytes() == tensor.tobytes(), name
    torch_model("transformer", seed=6, **TIED).load_state_dict(
        torch.load(tmp_path / "back.pt", weights_only=True), strict=True
    )


def test_tied_weights_that_differ_are_refused():
    template = create_model(config_of("transformer", **TIED).model, 27, 15)
    template = models.variable_shapes(template, 15)["params"]
    module = torch_model("transformer", **TIED)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    tensors = weights.without_masks(tensors, "transformer", 15)
    tree = weights.from_torch(tensors, template, "transformer")
    assert "lm_head" not in tree
    tensors["lm_head.weight"] = tensors["lm_head.weight"].copy()
    tensors["lm_head.weight"][20, 60] += 1e-6
    message = r"^lm_head.weight differs from transformer.wte.weight; use --config.model.tied=False$"
    with pytest.raises(UserError, match=message):
        weights.from_torch(tensors, template, "transformer")


def test_fused_attention_is_equal_up_to_rounding():
    written_out = torch_model("transformer").double()
    fused = weights.reference(config_of("transformer"), 27, 15, fused_attention=True).double()
    fused.load_state_dict(written_out.state_dict(), strict=True)
    tokens = torch.randint(0, 27, (3, 11))
    torch.testing.assert_close(fused(tokens), written_out(tokens), rtol=0, atol=1e-12)


def test_a_run_from_torch_is_scored_sampled_and_trained(tmp_path):
    module = torch_model("gru")
    torch.save(module.state_dict(), tmp_path / "model.pt")
    folder, config = tmp_path / "run", ("--config", "configs/gru.py")
    done = run(*CONVERT, "from-torch", tmp_path / "model.pt", *config, "--workdir", folder)
    assert done.returncode == 0, done.stderr
    scored = run("sample.py", "--workdir", folder, "--score", "-", "--format=json", stdin="anna")
    tokens = torch.tensor([[0, 1, 14, 14, 1]])
    log_probs = torch.log_softmax(module(tokens)[0], -1)[range(5), [1, 14, 14, 1, 0]]
    result = json.loads(scored.stdout.splitlines()[0])["log_prob"]
    assert result == pytest.approx(log_probs.sum().item(), abs=1e-4)
    assert run("sample.py", "--workdir", folder, "--num", "3").returncode == 0
    done = run("train.py", *config, *QUICK, "--workdir", folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "summary.json").read_text("utf-8"))["steps"] == 20


class Evil:
    """Run code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def bad_files(folder, case: str):
    """Return a file that can't become a gru, and the expected error message."""
    tensors = torch_model("gru").state_dict()
    file = folder / "model.pt"
    if case == "shape":
        tensors["cell.xh_to_r.weight"] = torch.zeros(64, 129)
        message = "cell.xh_to_r.weight is (64, 129), the config needs (64, 128)"
    elif case == "missing":
        del tensors["start"]
        message = "start is missing; is this a model of kind gru?"
    elif case == "more":
        tensors["other"] = torch.zeros(3)
        message = "other is not a tensor of a gru with the sizes of the config"
    elif case == "kind":
        tensors = torch_model("rnn").state_dict()
        message = f"model.kind: the config has gru, but {file} has rnn"
    elif case == "integers":
        tensors["lm_head.bias"] = torch.zeros(27, dtype=torch.int64)
        message = "lm_head.bias has dtype int64"
    elif case == "no tensors":
        tensors = {"epoch": 3}
        message = "does not contain a state_dict"
    torch.save(tensors, file)
    if case == "evil":
        file.write_bytes(pickle.dumps(Evil(str(folder / "pwned"))))
        message = "is incomplete or contains more than tensors"
    elif case == "cut":
        file.write_bytes(file.read_bytes()[:1000])
        message = "can't be read as .pt"
    elif case == "objects":
        file = folder / "model.npz"
        np.savez(file, start=np.array([Evil(str(folder / "pwned"))], dtype=object))
        message = "can't be read as .npz"
    elif case == "repeated":  # a list of two references to a list of two references to ...
        tensors["start"] = []
        for _ in range(60):
            tensors["start"] = [tensors["start"]] * 2
        torch.save(tensors, file)
        message = "start has more than 1,000,000 entries"
    elif case == "none":
        file = folder / "none.pt"
        message = "does not exist"
    return file, message


CASES = ["shape", "missing", "more", "kind", "integers", "no tensors", "evil", "cut", "objects"]


@pytest.mark.parametrize("case", [*CASES, "repeated", "none"])
def test_an_unsuitable_file_gives_one_line_and_writes_nothing(case, tmp_path):
    file, message = bad_files(tmp_path, case)
    folder, config = tmp_path / "run", ("--config", "configs/gru.py")
    done = run(*CONVERT, "from-torch", file, *config, "--workdir", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not folder.exists()
    assert not (tmp_path / "pwned").exists()


def test_other_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "names.txt").write_text("anna\nbob\n", "utf-8")
    flags = ("--data", "names.txt", "--workdir", tmp_path / "run")
    done = run(*CONVERT, "from-torch", tmp_path / "names.txt", *flags)
    assert_one_line(done, "convert", "names.txt is not a file of PyTorch (.pt), .npz or")
    config = small_config("bigram", steps=1, num_samples=0)
    assemble.train(config, str(tmp_path / "trained"))
    target = tmp_path / "model.safetensor"
    done = run(*CONVERT, "to-torch", target, "--workdir", tmp_path / "trained")
    assert_one_line(done, "convert", "model.safetensor: the name must end in .pt, .pth, .bin, .npz")
    assert not target.exists() and not (tmp_path / "run").exists()


def test_flags_of_the_other_direction_are_refused(tmp_path):
    for direction, flag in (("to-torch", "--config=gru"), ("from-torch", "--checkpoint=latest")):
        done = run(*CONVERT, direction, tmp_path / "a.pt", flag, "--workdir", tmp_path / "run")
        message = f"{flag.split('=')[0]}: not used with {direction}"
        assert_one_line(done, "convert", message)


def test_another_context_length_is_refused(tmp_path):
    torch.save(torch_model("transformer").state_dict(), tmp_path / "model.pt")
    config = ("--config", "configs/transformer.py", "--config.data.block_size=20")
    done = run(
        *CONVERT, "from-torch", tmp_path / "model.pt", *config, "--workdir", tmp_path / "run"
    )
    assert done.returncode == 2
    assert "data.block_size: the config has 20, but " in done.stderr
    assert done.stderr.endswith("model.pt has 15\n")


def window_config(**options) -> Config:
    config = config_of("window_mlp", n_embd=5, n_embd2=7, init_scale="fan_in", **options)
    config.data.kind, config.data.block_size = "windows", 8
    return config


@pytest.mark.parametrize(
    "options",
    [
        {"n_layer": 3, "fuse": 2, "batch_norm": "running"},
        {"n_layer": 2, "batch_norm": "calibrated", "output_norm": True},
        {"n_layer": 1},
    ],
    ids=["wavenet", "deep", "mlp"],
)
def test_window_mlp_in_lockstep_and_converted(options, tmp_path):
    """The same losses and statistics over 5 steps of both; then the file becomes a run."""
    config = window_config(**options)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    model = create_model(config.model, 27, 8)
    rng = np.random.RandomState(3)
    shapes = models.variable_shapes(model, 8)
    variables = jax.tree.map(lambda a: np.float32(0.2 + 0.3 * rng.rand(*a.shape)), shapes)
    stats = {k: v for k, v in variables.items() if k != "params"}
    module = weights.reference(config, 27, 8)
    weights.load_into(module, variables["params"], "window_mlp", stats.get("batch_stats"))
    tokens = rng.randint(0, 27, (3, 13))
    logits = model.apply(variables, tokens)
    assert logits.shape == (3, 13 - 8 + 1, 27)
    assert_close(module.eval()(torch.tensor(tokens)).detach(), logits, 1e-6)

    optimizer = make_optimizer(config.optimizer, 5)
    params = variables["params"]
    state = TrainState(jax.numpy.int32(0), params, optimizer.init(params), stats)
    step = jax.jit(make_batch_step(model, optimizer))
    torch_step = make_torch_step(module.train(), config.optimizer, 5)
    for seed in range(5):
        tokens = np.random.RandomState(seed).randint(0, 27, (11, 9))
        inputs, targets = tokens[:, :8], tokens[:, 8:]
        state, metrics = step(state, (inputs, targets), jax.random.key(seed))
        loss = torch_step(torch.tensor(inputs), torch.tensor(targets))
        assert float(metrics["train_loss"]) == pytest.approx(loss, abs=1e-5)
    ours = weights.to_torch(state.params, "window_mlp")
    ours |= weights.to_torch(state.model_state.get("batch_stats", {}), "window_mlp")
    for name, tensor in module.state_dict().items():
        assert_close(ours[name], tensor, 1e-4)

    torch.save(module.state_dict(), tmp_path / "model.pt")
    given = Config()
    given.model.batch_norm = options.get("batch_norm", "none")
    convert.from_torch(tmp_path / "model.pt", given, tmp_path / "run", str(ROOT / "names.txt"))
    read = assemble.read_run(tmp_path / "run").config
    for name, value in options.items():
        assert getattr(read.model, name) == value
    program = convert.to_torch(tmp_path / "run", tmp_path / "back.pt", "best")
    assert program == "torch_parity/models.py"
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for name, tensor in module.state_dict().items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("kind", ["bow", "gru"])
def test_the_optimizer_of_makemore_comes_along(kind, tmp_path):
    """Train in PyTorch, convert, and train 20 more steps on both sides in float64."""
    config, module = config_of(kind), torch_model(kind)
    generator = torch.Generator().manual_seed(7)
    batches = torch.randint(0, 27, (25, 3, 6), generator=generator)
    optimizer = make_torch_optimizer(module, config.optimizer)

    def torch_step(module, optimizer, tokens):
        loss = torch_mean_loss(module(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    for tokens in batches[:5]:
        torch_step(module, optimizer, tokens)
    torch.save(
        {"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "m.pt"
    )
    made = convert.from_torch(
        tmp_path / "m.pt", Config(), tmp_path / "run", str(ROOT / "names.txt")
    )
    assert (made.step, made.has_moments, made.config.model.kind) == (5, True, kind)

    model = create_model(made.config.model, 27, 15)
    ours = make_optimizer(made.config.optimizer, 100)
    state = open_checkpoints(tmp_path / "run").restore("latest", state_lib.shapes(model, ours, 15))
    # The order of the moments in the file does not depend on the config.
    other = Config()
    other.optimizer.decay = "matrices"
    convert.from_torch(tmp_path / "m.pt", other, tmp_path / "other", str(ROOT / "names.txt"))
    template = state_lib.shapes(model, make_optimizer(other.optimizer, 100), 15)
    same = open_checkpoints(tmp_path / "other").restore("latest", template)
    assert_same(find_moments(same.opt_state), find_moments(state.opt_state))
    saved, module = optimizer.state_dict(), module.double()
    optimizer = make_torch_optimizer(module, config.optimizer)
    optimizer.load_state_dict(saved)
    with enable_x64(True):
        state = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, state)
        step = jax.jit(make_batch_step(model, ours))
        for tokens in batches[5:]:
            inputs, targets = tokens[:, :-1].numpy(), tokens[:, 1:].numpy()
            state, metrics = step(state, (inputs, targets), jax.random.key(0))
            expected = torch_step(module, optimizer, tokens)
            assert float(metrics["train_loss"]) == pytest.approx(expected, abs=1e-9)
        params = weights.to_torch(state.params, kind)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(params[name], parameter.detach(), rtol=0, atol=1e-9)


def test_torch_2_9_reads_and_writes_everything_but_pickles(tmp_path, monkeypatch):
    """torch opens pickles safely since version 2.10; Colab's TPU image has 2.9."""
    state = torch_model("rnn").state_dict()
    torch.save(state, tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", **state)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert files.read(tmp_path / "model.npz").tensors.keys() == state.keys()
    with pytest.raises(UserError, match=r"torch 2.9.1\+cpu can't open pickles safely"):
        files.read(tmp_path / "model.pt")


def test_only_torch_parity_imports_torch():
    """The rest of the package works without torch, so no other file may import it."""
    core = [p for p in (ROOT / "makemore_jax").rglob("*.py") if "torch_parity" not in p.parts]
    for path in [*core, ROOT / "train.py", ROOT / "sample.py"]:
        source = path.read_text("utf-8")
        assert "import torch" not in source and "from torch" not in source, path

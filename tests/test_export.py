"""Export: the loader of docs/export.md draws the samples of sample.py without this project."""

import json
import re
import runpy
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    ROOT,
    assert_close,
    assert_one_line,
    checkpoint_of_bigram,
    quick_of,
    run,
    small_config,
)

pytest.importorskip("flatbuffers", reason='needs flatbuffers: pip install -e ".[export]"')

from makemore_jax import assemble, models
from makemore_jax.assemble import create_model
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.cli import resources
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import Decoding, LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.export import files, model_card
from makemore_jax.mixture import table

pytestmark = pytest.mark.versions
EXPORT = ("-m", "makemore_jax.export")
PAGE = (ROOT / "docs" / "export.md").read_text("utf-8")
(LOADER,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# Runs the loader with only jax, its dependencies and numpy available. Prints the samples of each
# call and their log-probabilities.
ALONE = """\
import json, sys, types
blocked = "makemore_jax", "flax", "optax", "orbax", "ml_collections", "absl", "safetensors"
sys.modules.update(dict.fromkeys(blocked))
import load
model = load.Model(".")
decode, log_probs = model.decode, []
def record(*arguments):
    tokens, sums = decode.call(*arguments)
    log_probs.append(sums.tolist())
    return tokens, sums
model.decode = types.SimpleNamespace(call=record)
texts = [model.sample(**arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([texts, log_probs]))
"""
V, T = 13, 7
MAX_LEN = {"lines": T, "windows": 11, "text": 23}  # texts become longer than the context
TEXT_FAMILIES = ["transformer on text", "gru on text", "mlp on text"]
FAMILIES = [*models.MODELS, *EXTENSION_MODELS, *TEXT_FAMILIES]
QUICK = ["transformer", "gru on text"]


def small_lm(name: str) -> LanguageModel:
    """Return a small model with random variables, for lines, windows of 3 tokens, or text."""
    kind, _, data = name.partition(" on ")
    data = data or ("windows" if kind == "window_mlp" else "lines")
    config = small_config(kind).model
    if kind == "mixture":
        config.networks, config.ngram_contexts, config.ngram_weight = 2, V + 1, 0.5
    if data == "windows":
        config.n_layer, config.batch_norm = 1, "running"
    block_size = 3 if data == "windows" else T
    # A text starts after a newline, wherever that is in the vocabulary.
    is_text = data == "text"
    vocab = Vocab(tuple("\t\nabcdéfghijk" if is_text else "abcdéfghijk,"), has_end=not is_text)
    model = create_model(config, V, block_size)
    variables = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, block_size), jnp.int32))
    noise = np.random.RandomState(5)
    variables = jax.tree.map(lambda a: a + 0.3 * abs(noise.randn(*a.shape)), variables)
    variables = jax.tree.map(lambda a: a.astype(jnp.float32), variables)
    if kind == "mixture":  # a table of all contexts of at most one token
        probs = noise.dirichlet(np.full(V, 0.3), V + 1).astype(np.float32)
        contexts = jnp.arange(V + 1, dtype=jnp.int32)
        variables[table.COLLECTION] = {"table": {"contexts": contexts, "probs": probs}}
    return LanguageModel(model, variables, vocab, MAX_LEN[data], block_size)


@pytest.mark.parametrize("name", quick_of(FAMILIES, QUICK))
def test_the_loader_draws_the_samples_of_sample_py(name, tmp_path):
    lm = small_lm(name)
    for file, data in files.to_files(lm, {}).items():
        (tmp_path / file).write_bytes(data)
    (tmp_path / "load.py").write_text(LOADER, "utf-8")
    calls = [
        {"num": 3, "seed": 7},
        {"num": 3, "seed": 2**32 - 1, "prompt": "éa", "temperature": 0.7},
        {"num": 3, "prompt": "ab", "temperature": 0.0},
    ]
    if not lm.vocab.has_end:  # as long as the context, and longer
        calls += [{"num": 3, "prompt": "abcdéfghijk"[:length]} for length in (T, T + 4)]
    done = run("-c", ALONE, json.dumps(calls), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for call, texts, log_probs in zip(calls, *json.loads(done.stdout), strict=True):
        key = jax.random.key(call.get("seed", 3407))
        decoding = Decoding(call.get("temperature", 1.0))
        samples = assemble.sample(lm, key, call["num"], call.get("prompt", ""), decoding)
        assert texts == [sample.text for sample in samples]
        assert_close(log_probs, [sample.log_prob for sample in samples])
        if call.get("temperature") == 0:
            assert len(set(texts)) == 1


def test_every_family_is_exported():
    families = models.MODELS | EXTENSION_MODELS
    assert {name.partition(" ")[0] for name in FAMILIES} == set(families)


def test_the_loader_is_short_and_imports_only_jax_and_numpy():
    assert len(LOADER.splitlines()) <= 40
    imported = set(re.findall(r"^(?:import|from) (\w+)", LOADER, re.MULTILINE))
    assert imported == {"json", "sys", "pathlib", "numpy", "jax"}


def test_the_loader_reads_arrays_of_both_types(tmp_path):
    arrays = {"probs": np.float32([[0.25, 0.75]]), "contexts": np.int32([0, 2**31 - 1])}
    (tmp_path / "file").write_bytes(files.to_safetensors(arrays))
    loader = {"__name__": "load"}
    exec(LOADER, loader)
    result = loader["read_safetensors"](tmp_path / "file")
    assert result.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)
        assert result[name].dtype == array.dtype


@pytest.mark.slow
def test_the_safetensors_package_reads_the_exported_file(tmp_path):
    numpy_api = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    arrays = {"odd": np.arange(3, dtype=np.float32), "empty.é": np.zeros((2, 0), np.float32)}
    arrays["int"] = np.arange(2, dtype=np.int32)
    arrays["scalar"] = np.float32(7.5)[()] * np.ones((), np.float32)
    (tmp_path / "file").write_bytes(files.to_safetensors(arrays))
    result = numpy_api.load_file(tmp_path / "file")
    assert result.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)
        assert result[name].dtype == array.dtype


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with `run`, trained on `my names.txt`."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(ROOT / "names.txt", folder / "my names.txt")
    flags = ("train.steps=20", "train.eval_every=10", "train.log_every=10", "model.n_embd=5")
    data = f"--config.data.path={folder / 'my names.txt'}"
    flags = [f"--config.{flag}" for flag in flags]
    done = run("train.py", "--config", "bow", data, *flags, "--workdir", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_program_exports_a_run_and_its_card(trained, tmp_path):
    out = tmp_path / "new" / "out"
    done = run(*EXPORT, "--workdir", trained / "run", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"README.md", "config.json", "decode.jax", "model.safetensors", "vocab.json"}
    assert {file.name for file in out.iterdir()} == expected

    (tmp_path / "load.py").write_text(LOADER, "utf-8")
    done = run("load.py", out, "4", "an", cwd=tmp_path)
    flags = ("--num", "4", "--prompt", "an", "--format", "json")
    sampled = run("sample.py", "--workdir", trained / "run", *flags)
    assert sampled.returncode == 0, sampled.stderr
    assert done.stdout.splitlines() == [json.loads(s)["text"] for s in sampled.stdout.splitlines()]

    card = (out / "README.md").read_text("utf-8")
    summary = json.loads((trained / "run" / "summary.json").read_text("utf-8"))
    assert f"# bow, {summary['num_params']:,} parameters" in card
    assert "model that samples lines" in card
    assert f"| checkpoint | step {summary['best_step']}, lowest dev loss |" in card
    assert f"| dev | {summary['dev_loss']:.4f} | all |" in card
    assert f"| test | {summary['test_loss']:.4f} | all |" in card
    assert f"| train | {summary['train_loss']:.4f} | at most 5,000 |" in card
    overrides = ("'--config.data.path=my names.txt'", "--config.model.n_embd=5")
    assert all(override in card for override in overrides)
    published = card + (out / "config.json").read_text("utf-8")
    assert str(trained) not in published and str(ROOT) not in published


def test_the_latest_checkpoint_is_exported_without_losses_of_another(overtrained, tmp_path):
    flags = ("--workdir", overtrained, "--checkpoint", "latest", "--out", tmp_path / "out")
    done = run(*EXPORT, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    logits = checkpoint_of_bigram(overtrained, "latest")
    assert (tmp_path / "out" / "model.safetensors").read_bytes().endswith(logits.tobytes())
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| checkpoint | step 60, latest |" in card
    assert "No losses are recorded for this checkpoint." in card and "| dev |" not in card


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/me/names.txt", "names.txt"),
        (r"C:\Users\me\names.txt", "names.txt"),
        ("data/names.txt", "data/names.txt"),
    ],
)
def test_a_card_has_no_absolute_path(path, shown):
    assert model_card.public_path(path) == shown


def test_the_card_of_an_unfinished_run_says_so(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    files.export_run(tmp_path / "run", tmp_path / "out", "best")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    summary = json.loads((trained / "run" / "summary.json").read_text("utf-8"))
    assert f"dev {summary['dev_loss']:.4f} nats per token. Training is not finished." in card


def test_the_card_of_a_checkpoint_without_a_loss_says_so(trained, tmp_path, monkeypatch):
    """Such as that of a run that was stopped before its first evaluation."""
    monkeypatch.setattr(Checkpoints, "best_dev_loss", lambda self: float("inf"))
    files.export_run(trained / "run", tmp_path / "out", "best")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "No losses are recorded for this checkpoint." in card and "inf" not in card


@pytest.mark.slow
def test_the_environment_does_not_change_the_types_of_an_export(trained, tmp_path):
    flags = ("--workdir", trained / "run", "--out", tmp_path / "out")
    done = run(*EXPORT, *flags, fresh=True, JAX_ENABLE_X64="1")
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_input_gives_one_line_and_writes_nothing(trained, tmp_path):
    done = run(*EXPORT, "--workdir", tmp_path / "none", "--out", tmp_path / "out")
    assert_one_line(done, "export", f"--workdir: {tmp_path / 'none'} has no run")
    assert_one_line(run(*EXPORT, "--workdir", trained / "run"), "export", "--out is missing")
    stub = "raise ModuleNotFoundError('flatbuffers', name='flatbuffers')"
    (tmp_path / "flatbuffers.py").write_text(stub, "utf-8")
    flags = ("--workdir", trained / "run", "--out", tmp_path / "out")
    done = run(*EXPORT, *flags, fresh=True, PYTHONPATH=str(tmp_path))
    assert_one_line(done, "export", "needs flatbuffers: pip install flatbuffers")
    ignored = shutil.ignore_patterns("checkpoints")
    shutil.copytree(trained / "run", tmp_path / "unsaved", ignore=ignored)
    (tmp_path / "file").write_text("mine", "utf-8")
    before = sorted(tmp_path.rglob("*"))
    for folder, out, message in (
        (tmp_path / "unsaved", "out", "no checkpoint has been saved yet"),
        (trained / "run", "unsaved", "exists and is not an empty folder"),
        (trained / "run", "file", "exists and is not an empty folder"),
        (trained / "run", "file/out", "can't be written"),
    ):
        with pytest.raises(UserError, match=message):
            files.export_run(folder, tmp_path / out, "best")
        assert sorted(tmp_path.rglob("*")) == before


def test_the_command_on_a_card_names_the_nearest_bundled_config():
    for name in resources.config_names():
        get_config = runpy.run_path(str(resources.CONFIGS / f"{name}.py"))["get_config"]
        command = f"python train.py --config configs/{name}.py"
        assert model_card.train_command(get_config()) == command
        config = get_config()
        config.seed, config.optimizer.grad_clip = 7, None if config.optimizer.grad_clip else 0.5
        assert model_card.train_command(config).startswith(f"{command} \\\n    --config.seed=7")
    config.data.block_size, config.data.long_lines = 8, "cut"
    flags = model_card.train_command(config).split()
    assert {"--config.data.block_size=8", "--config.data.long_lines=cut"} <= set(flags)

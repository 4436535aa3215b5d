"""The config: stable names, conversion to and from JSON, and validation."""

import dataclasses
import json
import re
import runpy

import pytest
from conftest import FAMILIES, ROOT

from makemore_jax import config as config_lib
from makemore_jax import models
from makemore_jax.assemble import create_model
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.cli import help_text
from makemore_jax.cli.fields import field_types
from makemore_jax.config import Config, ModelConfig
from makemore_jax.errors import UserError

# Scripts rely on these names and defaults.
STABLE = {
    "seed": 3407,
    "data.path": "names.txt",
    "data.kind": "lines",
    "data.split": "holdout",
    "data.dedup": False,
    "data.block_size": None,
    "model.n_layer": 4,
    "model.n_head": 4,
    "model.n_embd": 64,
    "model.n_embd2": 64,
    "model.dropout": 0.0,
    "model.momentum": 0.1,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 5e-4,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.99,
    "optimizer.weight_decay": 0.01,
    "optimizer.gamma": 0.1,
    "train.batch_size": 32,
    "train.steps": 20_000,
    "train.log_every": 100,
    "train.eval_every": 500,
    "train.sample_every": 2_000,
    "train.checkpoint_every": 2_000,
    "train.train_eval_examples": 5_000,
    "mesh.data": -1,
    "mesh.model": 1,
}


def set_field(config: Config, name: str, value) -> None:
    group, _, leaf = name.rpartition(".")
    setattr(getattr(config, group) if group else config, leaf, value)


def test_names_and_defaults():
    flat = config_lib.flatten(Config())
    assert STABLE.items() <= flat.items()
    assert flat.keys() == field_types().keys()
    required = {"model.kind", "optimizer.schedule", "optimizer.warmup_steps", "optimizer.grad_clip"}
    every = {f"train.{n}_every" for n in ("log", "eval", "sample", "checkpoint")}
    assert required | every | {"train.steps", "train.num_samples"} <= flat.keys()


def test_conversion_to_json_and_back():
    config = Config(seed=5)
    set_field(config, "data.path", "naïve ö.txt")
    set_field(config, "data.block_size", 17)
    set_field(config, "optimizer.learning_rate", 1e-7)
    set_field(config, "optimizer.grad_clip", 0.5)
    text = json.dumps(config_lib.to_json(config))
    assert config_lib.from_json(json.loads(text)) == config
    assert config_lib.from_json(config_lib.to_json(Config())) == Config()


def test_json_with_an_unknown_field_is_refused():
    with pytest.raises(UserError, match=r"model.n_embd3: no such field; did you mean model.n_embd"):
        config_lib.from_json({"model": {"n_embd3": 3}})


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_has_a_documented_config_file(kind):
    """Its numbers and those of the README come from benchmarks.reproduce."""
    scope = runpy.run_path(str(ROOT / "configs" / f"{kind}.py"))
    config = scope["get_config"]()
    config_lib.validate(config)
    assert config.model.kind == kind
    assert create_model(config.model, 27, 16).__class__ is (models.MODELS | EXTENSION_MODELS)[kind]
    run = json.loads((ROOT / "docs" / "results.json").read_text("utf-8"))["names"][kind]
    loss, seconds = f"{run['summary']['test_loss']:.3f}", f"{run['wall_seconds']:.0f}"
    assert f"python train.py --config configs/{kind}.py" in scope["__doc__"]
    assert f"{seconds} seconds, test loss {loss}" in scope["__doc__"]
    row = rf"\| `{kind}.py` \|.* {run['summary']['num_params']:,} \| {loss} \|"
    assert re.search(row, (ROOT / "README.md").read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed: -1 must be between 0 and 4294967295"),
        ("seed", 1.5, "seed: 1.5 is not of type int"),
        ("seed", True, "seed: True is not of type int"),
        ("data.path", 3, "data.path: 3 is not of type str"),
        ("data.split", "houldout", 'data.split: "houldout" is not one of .*; did you mean holdout'),
        ("data.block_size", 0, "data.block_size: 0 must be at least 1"),
        ("data.block_size", 2**20, r"block_size: 1048576 must be at least 1, below 2\*\*20"),
        ("data.block_size", "8", "data.block_size: '8' is not of type int or None"),
        ("data.train_fraction", 1.0, "train_fraction: 1.0 must be above 0 and below 1"),
        ("model.n_layer", 0, "model.n_layer: 0 must be at least 1"),
        ("model.n_embd", 66, "model.n_embd: 66 must be divisible by model.n_head=4"),
        ("model.dropout", -0.1, "model.dropout: -0.1 must be at least 0 and below 1"),
        ("model.dropout", 1.0, "model.dropout: 1.0 must be at least 0 and below 1"),
        ("optimizer.name", "adam", 'optimizer.name: "adam" is not one of .*; did you mean adamw'),
        ("optimizer.learning_rate", float("nan"), "learning_rate: nan is not a finite number"),
        ("optimizer.learning_rate", float("inf"), "learning_rate: inf is not a finite number"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate: 0.0 must be above 0"),
        ("optimizer.b2", 1.0, "optimizer.b2: 1.0 must be at least 0 and below 1"),
        ("optimizer.weight_decay", -0.1, "optimizer.weight_decay: -0.1 must be at least 0"),
        ("optimizer.schedule", "linear", 'optimizer.schedule: "linear" is not one of'),
        ("optimizer.warmup_steps", -1, "optimizer.warmup_steps: -1 must be at least 0"),
        ("optimizer.gamma", 0.0, "optimizer.gamma: 0.0 must be above 0"),
        ("optimizer.min_learning_rate", -0.1, "min_learning_rate: -0.1 must be at least 0"),
        ("optimizer.grad_clip", 0.0, "optimizer.grad_clip: 0.0 must be above 0"),
        ("train.batch_size", 0, "train.batch_size: 0 must be at least 1"),
        ("train.steps", 0, "train.steps: 0 must be at least 1"),
        ("train.eval_every", 0, "train.eval_every: 0 must be at least 1"),
        ("mesh.data", 0, "mesh.data: 0 must be -1 or at least 1"),
    ],
)
def test_bad_values(name, value, message):
    config = Config()
    set_field(config, name, value)
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**32 - 1), ("data.block_size", 2**20 - 1), ("model.momentum", 1.0)],
)
def test_the_largest_values_are_accepted(name, value):
    config = Config()
    set_field(config, name, value)
    config_lib.validate(config)


def test_modern_needs_pairs_of_channels_in_each_head():
    config = Config()
    config.model = dataclasses.replace(config.model, kind="modern", n_head=4, n_embd=68)
    message = "model.n_embd: 68 must be divisible by 2 * model.n_head=8"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        config_lib.validate(config)


def test_every_field_has_a_meaning_and_a_default_that_fits_its_rule():
    for name, field in config_lib.fields().items():
        assert field.metadata["meaning"], name
        rule = field.metadata["rule"]
        assert rule is None or field.default is None or rule.accepts(field.default), name
    words = set(re.findall(r"\w+", config_lib.fields()["model.kind"].metadata["meaning"]))
    assert {*FAMILIES, "window_mlp"} <= words


def test_dropout_without_a_transformer():
    config = Config()
    config.model = dataclasses.replace(config.model, kind="gru", dropout=0.1)
    with pytest.raises(UserError, match=r"model.dropout: 0.1 must be 0.0: gru models do not have"):
        create_model(config.model, 27, 16)


def test_help_lists_the_fields_of_a_single_family():
    families = models.MODELS | EXTENSION_MODELS
    sizes = {"kind", "n_layer", "n_head", "n_embd", "n_embd2"}
    shared = sizes | {"dropout", "dropout_rng", "layer_loop"}
    for name in ModelConfig.__dataclass_fields__.keys() - shared:
        kinds = [kind for kind, cls in families.items() if name in cls.__dataclass_fields__]
        assert len(kinds) == 1 and name in help_text.ONLY[kinds[0]].split()

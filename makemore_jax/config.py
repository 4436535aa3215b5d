"""The config of an experiment: typed fields with their defaults, meaning and rules; JSON.

The files of `configs/` return a `Config`; any field can be overridden on the command line, as in
`--config.model.n_embd2=128`. No default is defined anywhere else. A field carries its meaning,
which `--help` shows, and its rule, which `validate` checks. (`slots`: a misspelt field in a config
file is an error, not a new field that nobody reads.)
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from makemore_jax.errors import UserError, did_you_mean


class Rule(NamedTuple):
    """Which values a field accepts. None is outside of its rule: the type decides about it."""

    accepts: Callable[[Any], bool]
    text: str  # completes "must be ..."
    choices: tuple[str, ...] = ()

    def error(self, value: Any) -> str:
        if self.choices:
            hint = did_you_mean(value, self.choices)
            return f"{json.dumps(value)} is not one of {self.text}{hint}"
        return f"{json.dumps(value)} must be {self.text}"


def one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, ", ".join(choices), choices)


POSITIVE = Rule(lambda value: value > 0, "above 0")
AT_LEAST_0 = Rule(lambda value: value >= 0, "at least 0")
AT_LEAST_1 = Rule(lambda value: value >= 1, "at least 1")
AT_LEAST_2 = Rule(lambda value: value >= 2, "at least 2")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
FRACTION = Rule(lambda value: 0 < value < 1, "between 0 and 1")
SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
AXIS = Rule(lambda value: value == -1 or value >= 1, "-1 or at least 1")
CONTEXT = Rule(lambda value: 1 <= value < 2**20, "at least 1, below 2**20")
SEED = Rule(lambda value: 0 <= value < 2**32, "between 0 and 4294967295")


def setting(default: Any, meaning: str, rule: Rule | None = None, only: str = "") -> Any:
    """A field with its default, its meaning and its rule.

    With `only`, models of every other kind must leave it at its default.
    """
    return field(default=default, metadata={"meaning": meaning, "rule": rule, "only": only})


@dataclass(slots=True)
class DataConfig:
    """The data, and how it becomes examples."""

    path: str = setting("names.txt", "the text file")
    kind: str = setting(
        "lines",
        "one example is: a line; a character with the window before it; a crop of one long text",
        one_of("lines", "windows", "text"),
    )
    split: str = setting(
        "holdout",
        "holdout: 90/5/5; makemore, lecture: the same lines as makemore.py and the lectures",
        one_of("holdout", "makemore", "lecture"),
    )
    dedup: bool = setting(False, "drop repeated lines before the split")
    encoding: str = setting("utf-8", "encoding of the file, by its name in Python")
    block_size: int | None = setting(None, "context in characters; None: longest line + 1", CONTEXT)
    train_fraction: float = setting(
        0.9, "data.kind=text: first share of the text, used for training", FRACTION
    )
    memory_map: str = setting(
        "auto",
        "data.kind=text: read the text from a file during training; auto: if it is large",
        one_of("auto", "always", "never"),
    )


@dataclass(slots=True)
class ModelConfig:
    """The model and its sizes. Each kind reads the fields that it needs."""

    kind: str = setting(
        "transformer", "bigram, bow, rnn, mlp, gru, lstm, cnn, transformer or window_mlp"
    )
    n_layer: int = setting(4, "layers (transformer, cnn, window_mlp)", AT_LEAST_1)
    n_head: int = setting(4, "attention heads (transformer)", AT_LEAST_1)
    n_embd: int = setting(64, "width of the embeddings; of all layers (transformer)", AT_LEAST_1)
    n_embd2: int = setting(64, "width of hidden layers and states (not transformer)", AT_LEAST_1)
    dropout: float = setting(0.0, "dropout rate", BELOW_1, "transformer")
    dropout_rng: str = setting(
        "threefry2x32",
        "generator of the dropout masks; rbg: that of the device, faster on TPU",
        one_of("threefry2x32", "rbg"),
        "transformer",
    )
    activation: str = setting(
        "gelu", "activation in the MLPs", one_of("gelu", "relu"), "transformer"
    )
    bias: bool = setting(True, "biases in linear layers and norms", only="transformer")
    tied: bool = setting(
        False, "share the weights of embedding and output layer", only="transformer"
    )
    init_scheme: str = setting(
        "pytorch", "initial values", one_of("pytorch", "gpt2"), "transformer"
    )
    dtype: str = setting(
        "float32",
        "dtype of activations; parameters are float32",
        one_of("float32", "bfloat16"),
        "transformer",
    )
    remat: bool = setting(False, "recompute activations to save memory", only="transformer")
    layer_loop: str = setting(
        "auto",
        "scan: compile one layer and loop over it; unroll: compile each; auto: scan on TPU",
        one_of("auto", "scan", "unroll"),
        "transformer",
    )
    fuse: int | None = setting(
        None, "neighbors joined per layer; None: all", AT_LEAST_2, "window_mlp"
    )
    batch_norm: str = setting(
        "none",
        "batch norm with running statistics, or with statistics of the whole training split",
        one_of("none", "running", "calibrated"),
        "window_mlp",
    )
    momentum: float = setting(
        0.1, "weight of each batch in the running statistics", SHARE, "window_mlp"
    )
    output_norm: bool = setting(False, "batch norm of the logits too", only="window_mlp")
    init_scale: str = setting(
        "kaiming",
        "scale of the initial weights, as in the steps of the lecture",
        one_of("normal", "small_output", "small", "kaiming", "fan_in"),
        "window_mlp",
    )


@dataclass(slots=True)
class OptimizerConfig:
    """The optimizer, with PyTorch's meaning of every field (torch.optim.AdamW, SGD, StepLR)."""

    name: str = setting("adamw", "optimizer", one_of("adamw", "sgd"))
    learning_rate: float = setting(5e-4, "peak learning rate", POSITIVE)
    b1: float = setting(0.9, "adamw: decay of the first moment", BELOW_1)
    b2: float = setting(0.99, "adamw: decay of the second moment", BELOW_1)
    weight_decay: float = setting(0.01, "adamw: decoupled; sgd: L2 penalty", AT_LEAST_0)
    decay: str = setting(
        "all",
        "parameters with weight decay; matrices: those with two or more axes",
        one_of("all", "matrices"),
    )
    schedule: str = setting(
        "constant", "learning rate schedule", one_of("constant", "step", "cosine")
    )
    warmup_steps: int = setting(0, "steps of linear warm-up", AT_LEAST_0)
    step_size: int = setting(100_000, "schedule=step: steps between two decays", AT_LEAST_1)
    gamma: float = setting(0.1, "schedule=step: factor of each decay", POSITIVE)
    min_learning_rate: float = setting(0.0, "schedule=cosine: final learning rate", AT_LEAST_0)
    grad_clip: float | None = setting(
        None, "maximum global gradient norm; None: no clipping", POSITIVE
    )


@dataclass(slots=True)
class TrainConfig:
    """Length of the training and what happens during it. Intervals are in steps."""

    batch_size: int = setting(32, "examples per step", AT_LEAST_1)
    accumulate: int = setting(1, "microbatches per batch (gradient accumulation)", AT_LEAST_1)
    steps: int = setting(20_000, "training steps", AT_LEAST_1)
    log_every: int = setting(
        100, "steps between logged training losses; also steps per compiled call", AT_LEAST_1
    )
    eval_every: int = setting(500, "steps between evaluations on dev", AT_LEAST_1)
    sample_every: int = setting(2_000, "steps between samples", AT_LEAST_1)
    diagnose_every: int | None = setting(
        None, "steps between records of layer statistics; None: never", AT_LEAST_1
    )
    checkpoint_every: int = setting(
        2_000, "steps between checkpoints; each new best on dev is saved too", AT_LEAST_1
    )
    num_samples: int | None = setting(
        None, "samples drawn each time; None: 10 lines or 1 text", AT_LEAST_0
    )
    eval_examples: int | None = setting(
        None, "maximum number of dev and of test examples; None: all", AT_LEAST_1
    )
    train_eval_examples: int = setting(
        5_000, "maximum number of train examples for the final train loss", AT_LEAST_1
    )


@dataclass(slots=True)
class MeshConfig:
    """Number of devices along each axis of the mesh."""

    data: int = setting(
        -1, "devices that a batch is split over; -1: all devices / mesh.model", AXIS
    )
    model: int = setting(1, "devices that wide matrices are sharded over", AT_LEAST_1)
    fsdp: bool = setting(False, "shard parameters and optimizer state over mesh.data as well")


@dataclass(slots=True)
class Config:
    """A whole experiment. A seed and a step determine every random number of a run."""

    seed: int = setting(
        3407, "seed of the data split, initial values, batches, dropout and samples", SEED
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field by its dotted name: {"seed": 3407, "data.path": "names.txt", ...}."""
    flat = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat


def fields(cls: type = Config, prefix: str = "") -> dict[str, dataclasses.Field]:
    """Every field by its dotted name, with its type, default, meaning and rule."""
    flat = {}
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.type):
            flat |= fields(f.type, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = f
    return flat


def field_types() -> dict[str, Any]:
    """The type of every field by its dotted name."""
    return {name: f.type for name, f in fields().items()}


def type_name(hint: Any) -> str:
    """A field's type in words: "int", "float or None"."""
    kinds = typing.get_args(hint) or (hint,)
    return " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)


def check_field_name(name: str) -> None:
    """UserError, with the nearest field, if there is no field of this dotted name."""
    known = field_types()
    if name not in known:
        # A field is often right and its group wrong or left out: data.n_embd, n_embd.
        fields = [k for k in known if k.startswith(f"{name}.")]
        if fields:
            raise UserError(f"--config.{name}: is a group of fields, {', '.join(fields)}")
        same_leaf = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f"; did you mean {same_leaf[0]}?" if same_leaf else did_you_mean(name, known)
        raise UserError(f"--config.{name}: no such field{hint}")


def to_json(config: Config) -> dict[str, Any]:
    """The config as nested dictionaries, ready for json.dump."""
    return dataclasses.asdict(config)


def from_json(tree: dict[str, Any]) -> Config:
    """The config that `to_json` gave, checked. UserError for an unknown field."""
    config = Config()
    for name, value in tree.items():
        group = getattr(config, name, None)
        for leaf, leaf_value in value.items() if isinstance(value, dict) else [(None, value)]:
            check_field_name(f"{name}.{leaf}" if leaf else name)
            setattr(group if leaf else config, leaf or name, leaf_value)
    validate(config)
    return config


def validate(config: Config) -> None:
    """Check every field's type and rule, then their combinations.

    UserError names the field, its value and the rule.
    """
    for group in dataclasses.fields(Config):
        value = getattr(config, group.name)
        if dataclasses.is_dataclass(group.type) and not isinstance(value, group.type):
            raise UserError(f"{group.name}: {value!r} is no {group.type.__name__}")
    values = flatten(config)
    for name, f in fields().items():
        _check_type(name, values[name], f.type)
        rule = f.metadata["rule"]
        if rule and values[name] is not None and not rule.accepts(values[name]):
            raise UserError(f"{name}: {rule.error(values[name])}")
    for name, holds, text in _combinations(config):
        if not holds:
            raise UserError(f"{name}: {json.dumps(values[name])} must be {text}")
    for name, f in fields().items():
        only = f.metadata["only"]
        if only and config.model.kind != only and values[name] != f.default:
            rule = f"{json.dumps(f.default)}: only {only} models have it"
            raise UserError(f"{name}: {json.dumps(values[name])} must be {rule}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    kinds = typing.get_args(hint) or (hint,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise UserError(f"{name}: {value!r} is not of type {type_name(hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: {value} is not a finite number")
    if isinstance(value, int | float) and abs(value) >= 2**31 and name != "seed":
        raise UserError(f"{name}: {value} is too large")


def _combinations(config: Config) -> Iterator[tuple[str, bool, str]]:
    """The rules about several fields: (name, whether it holds, what the field must be)."""
    data, model, train = config.data, config.model, config.train
    divides = train.batch_size % train.accumulate == 0
    yield "train.accumulate", divides, f"a divisor of train.batch_size={train.batch_size}"
    if model.kind == "transformer":
        divides = model.n_embd % model.n_head == 0
        yield "model.n_embd", divides, f"divisible by model.n_head={model.n_head}"
    if data.kind == "text":
        if data.block_size is None:
            raise UserError(
                "data.block_size: is not set; data.kind=text needs the context length in "
                "characters, such as 64"
            )
        yield "data.dedup", not data.dedup, "false for text, which has no lines"
    if model.kind != "window_mlp":
        yield "data.kind", data.kind != "windows", f"lines or text, which {model.kind} reads"
        return
    yield "data.kind", data.kind == "windows", "windows, which window_mlp reads"
    if model.batch_norm == "none":
        yield "model.output_norm", not model.output_norm, "false without model.batch_norm"
    else:
        yield "train.accumulate", train.accumulate == 1, "1 for model.batch_norm"
        yield "train.batch_size", train.batch_size > 1, "above 1 for model.batch_norm"
    if model.fuse is not None and data.block_size is not None:
        reach = model.fuse**model.n_layer
        rule = f"{reach}, which {model.n_layer} layers join by {model.fuse}"
        yield "data.block_size", data.block_size == reach, rule

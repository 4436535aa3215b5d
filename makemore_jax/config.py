"""What an experiment is: typed fields, their only defaults, their checks, to and from JSON.

The files of `configs/` return a `Config`; any field can be overridden on the command line, as
`--config.model.n_embd2=128`. No default stands anywhere else in the code. (`slots`: a misspelt
field in a config file is an error, not a new field that nobody reads.)
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from makemore_jax.errors import UserError, did_you_mean


@dataclass(slots=True)
class DataConfig:
    """Which text, and how it becomes examples."""

    path: str = "names.txt"
    kind: str = "lines"  # lines: each an example; windows: each character one; text: crops of it
    split: str = "holdout"  # holdout: 90/5/5; makemore, lecture: exactly theirs
    dedup: bool = False  # drop repeated lines before the split
    encoding: str = "utf-8"
    block_size: int | None = None  # longest context; None: longest line + 1
    train_fraction: float = 0.9  # kind "text": of its characters, from its beginning
    memory_map: str = "auto"  # kind "text": read from a file while training; or always, never


@dataclass(slots=True)
class ModelConfig:
    """Which model, and its sizes. Each family reads the fields that it needs."""

    kind: str = "transformer"
    n_layer: int = 4  # transformer, cnn
    n_head: int = 4  # transformer
    n_embd: int = 64  # width of the embeddings; of the transformer throughout
    n_embd2: int = 64  # width of the hidden layers or states of the others
    # transformer:
    dropout: float = 0.0
    activation: str = "gelu"  # between the layers of its MLPs; or relu
    bias: bool = True  # of its linear layers and norms
    tied: bool = False  # whether the output layer is the embedding
    init_scheme: str = "pytorch"  # initial values; or gpt2
    dtype: str = "float32"  # of what is computed; or bfloat16. Parameters are float32
    remat: bool = False  # compute activations again for the gradient, which takes less memory
    # window_mlp, the lectures' networks on windows:
    fuse: int | None = None  # neighbours that each layer joins; None: the first joins all
    batch_norm: str = "none"  # or with statistics that are running, or calibrated
    momentum: float = 0.1  # share of the batch's in the running statistics
    output_norm: bool = False  # whether the logits are normed too
    init_scale: str = "kaiming"  # of the weights, by the steps of the lecture


@dataclass(slots=True)
class OptimizerConfig:
    """The optimizer, with PyTorch's meaning of every field (torch.optim.AdamW, SGD, StepLR)."""

    name: str = "adamw"
    learning_rate: float = 5e-4
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.01  # adamw: decoupled; sgd: L2
    decay: str = "all"  # parameters that decay; or matrices: those of two axes or more
    schedule: str = "constant"
    warmup_steps: int = 0  # linear, up to the learning rate
    step_size: int = 100_000  # schedule "step": every so many steps ...
    gamma: float = 0.1  # ... the learning rate is multiplied by this
    min_learning_rate: float = 0.0  # schedule "cosine": reached at train.steps
    grad_clip: float | None = None  # largest global norm of the gradient; None: no clipping


@dataclass(slots=True)
class TrainConfig:
    """How long, and what happens on the way. All in steps."""

    batch_size: int = 32
    accumulate: int = 1  # parts of a batch that are taken one after the other
    steps: int = 20_000
    log_every: int = 100  # also the number of steps in one compiled call
    eval_every: int = 500
    sample_every: int = 2_000
    diagnose_every: int | None = None  # look inside the network; None: never
    checkpoint_every: int = 2_000  # besides each new best on dev, which is always saved
    num_samples: int | None = None  # drawn every sample_every; None: 10 lines or 1 text
    eval_examples: int | None = None  # losses on dev and test are over so many; None: all
    train_eval_examples: int = 5_000  # the final train_loss is over the first so many examples


@dataclass(slots=True)
class MeshConfig:
    """Devices along each axis."""

    data: int = -1  # batches are spread over these; -1: all devices that model leaves
    model: int = 1  # wide matrices are spread over these
    fsdp: bool = False  # whether parameters and optimizer are spread over `data` as well


@dataclass(slots=True)
class Config:
    """One experiment, whole. A seed and a step determine every random number of a run."""

    seed: int = 3407
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


def field_types(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """The type of every field by its dotted name."""
    flat = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            flat |= field_types(hint, f"{prefix}{name}.")
        else:
            flat[prefix + name] = hint
    return flat


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
    """Check every field's type and range. UserError names the field, the value and the rule."""
    for group, cls in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(cls) and not isinstance(getattr(config, group), cls):
            raise UserError(f"{group}: {getattr(config, group)!r} is no {cls.__name__}")
    flat = flatten(config)
    for name, hint in field_types().items():
        flat_type = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        accepted = (*flat_type, int) if float in flat_type else flat_type
        value = flat[name]
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            wanted = " or ".join("None" if t is type(None) else t.__name__ for t in flat_type)
            raise UserError(f"{name}: {value!r} is not of type {wanted}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}: {value} is not a finite number")
        if isinstance(value, int | float) and abs(value) >= 2**31 and name != "seed":
            raise UserError(f"{name}: {value} is too large")

    def require(name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"{name}: {json.dumps(flat[name])} must be {rule}")

    def one_of(name: str, known: tuple[str, ...]) -> None:
        if flat[name] not in known:
            raise UserError(
                f"{name}: {json.dumps(flat[name])} is not one of {', '.join(known)}"
                f"{did_you_mean(flat[name], known)}"
            )

    one_of("model.batch_norm", ("none", "running", "calibrated"))
    one_of("model.init_scale", ("normal", "small_output", "small", "kaiming", "fan_in"))
    one_of("data.split", ("holdout", "makemore", "lecture"))
    one_of("optimizer.name", ("adamw", "sgd"))
    one_of("data.memory_map", ("auto", "always", "never"))
    one_of("model.activation", ("gelu", "relu"))
    one_of("model.init_scheme", ("pytorch", "gpt2"))
    one_of("model.dtype", ("float32", "bfloat16"))
    one_of("optimizer.decay", ("all", "matrices"))
    one_of("optimizer.schedule", ("constant", "step", "cosine"))
    require("seed", 0 <= config.seed < 2**32, "between 0 and 4294967295")
    if config.data.block_size is not None:
        require("data.block_size", 1 <= config.data.block_size < 2**20, "at least 1, below 2**20")
    positive = (
        *("model.n_layer", "model.n_head", "model.n_embd", "model.n_embd2"),
        *("train.batch_size", "train.accumulate", "train.steps", "train.log_every"),
        *("train.eval_every", "train.sample_every", "train.checkpoint_every"),
        *("train.train_eval_examples", "optimizer.step_size", "mesh.model"),
    )
    for name in positive:
        require(name, flat[name] >= 1, "at least 1")
    for name in ("optimizer.warmup_steps", "optimizer.weight_decay"):
        require(name, flat[name] >= 0, "at least 0")
    if config.train.num_samples is not None:
        require("train.num_samples", config.train.num_samples >= 0, "at least 0")
    require("model.momentum", 0 < config.model.momentum <= 1, "above 0 and at most 1")
    for name in ("optimizer.b1", "optimizer.b2", "model.dropout"):
        require(name, 0 <= flat[name] < 1, "at least 0 and below 1")
    require("optimizer.learning_rate", config.optimizer.learning_rate > 0, "above 0")
    require("optimizer.min_learning_rate", config.optimizer.min_learning_rate >= 0, "at least 0")
    require("optimizer.gamma", config.optimizer.gamma > 0, "above 0")
    for name in ("train.diagnose_every", "train.eval_examples"):
        require(name, flat[name] is None or flat[name] >= 1, "at least 1")
    divides = config.train.batch_size % config.train.accumulate == 0
    rule = f"a divisor of train.batch_size={config.train.batch_size}"
    require("train.accumulate", divides, rule)
    if config.optimizer.grad_clip is not None:
        require("optimizer.grad_clip", config.optimizer.grad_clip > 0, "above 0")
    require("mesh.data", config.mesh.data == -1 or config.mesh.data >= 1, "-1 or at least 1")
    if config.model.kind == "transformer":
        require(
            "model.n_embd",
            config.model.n_embd % config.model.n_head == 0,
            f"divisible by model.n_head={config.model.n_head}",
        )
    else:
        for name in ("dropout", "activation", "bias", "tied", "init_scheme", "dtype", "remat"):
            off = getattr(ModelConfig(), name)
            is_off = getattr(config.model, name) == off
            require(f"model.{name}", is_off, f"{json.dumps(off)}: only the transformer has it")
    if config.data.kind == "text":
        rule = "given for text: the characters of its context, as 64"
        require("data.block_size", config.data.block_size is not None, rule)
        require("data.dedup", not config.data.dedup, "false for text, which has no lines")
        require("data.train_fraction", 0 < config.data.train_fraction < 1, "between 0 and 1")
    _validate_windows(config, require)


def _validate_windows(config: Config, require: Callable[[str, bool, str], None]) -> None:
    """What the families on windows, and no others, need."""
    model = config.model
    if model.kind != "window_mlp":
        rule = f"lines or text, which {model.kind} reads"
        require("data.kind", config.data.kind != "windows", rule)
        for name, off in (("fuse", None), ("batch_norm", "none"), ("output_norm", False)):
            is_off = getattr(model, name) == off
            require(f"model.{name}", is_off, f"{off}: only window_mlp has it")
        return
    require("data.kind", config.data.kind == "windows", "windows, which window_mlp reads")
    if model.batch_norm == "none":
        require("model.output_norm", not model.output_norm, "False without model.batch_norm")
    else:
        require("train.accumulate", config.train.accumulate == 1, "1 for model.batch_norm")
        require("train.batch_size", config.train.batch_size > 1, "above 1 for model.batch_norm")
    if model.fuse is not None and config.data.block_size is not None:
        require("model.fuse", model.fuse >= 2, "at least 2")
        reach = model.fuse**model.n_layer
        rule = f"{reach}, which {model.n_layer} layers join by {model.fuse}"
        require("data.block_size", config.data.block_size == reach, rule)

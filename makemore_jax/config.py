"""The config of an experiment: typed fields with their defaults, meanings and rules; JSON.

The files of `configs/` return a `Config`. Any field can be overridden on the command line, as in
`--config.model.n_embd2=128`. No default is defined anywhere else. `--help` shows the meaning of
each field and `validate` checks its rule. (The classes have `slots`, so a misspelt field in a
config file is an error.)
"""

import dataclasses
import json
import math
import operator
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from makemore_jax.errors import UserError, did_you_mean, not_one_of


class Rule(NamedTuple):
    """The values that a field accepts. The type of the field decides whether it accepts None."""

    accepts: Callable[[Any], bool]
    text: str  # completes "must be ..."
    choices: tuple[str, ...] = ()

    def error(self, value: Any) -> str:
        """Return what is wrong with a value that is not accepted."""
        if self.choices:
            return not_one_of(value, self.choices)
        return f"{show(value)} must be {self.text}"


def show(value: Any) -> str:
    """Return a value as the command line accepts it."""
    return "None" if value is None else json.dumps(value)


POSITIVE = Rule(lambda value: value > 0, "above 0")
AT_LEAST_0 = Rule(lambda value: value >= 0, "at least 0")
AT_LEAST_1 = Rule(lambda value: value >= 1, "at least 1")
AT_LEAST_2 = Rule(lambda value: value >= 2, "at least 2")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
FRACTION = Rule(lambda value: 0 < value < 1, "above 0 and below 1")
SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
AXIS = Rule(lambda value: value == -1 or value >= 1, "-1 or at least 1")
CONTEXT = Rule(lambda value: 1 <= value < 2**20, "at least 1, below 2**20")
SEED = Rule(lambda value: 0 <= value < 2**32, "between 0 and 4294967295")


def setting(default: Any, meaning: str, rule: Rule | None = None) -> Any:
    """Declare a field with its default, its meaning and its rule."""
    return field(default=default, metadata={"meaning": meaning, "rule": rule})


def choice(choices: str, meaning: str) -> Any:
    """Declare a field that is one of `choices`, such as "a, b". The first is the default."""
    names = tuple(choices.split(", "))
    return setting(names[0], meaning, Rule(names.__contains__, choices, names))


@dataclass(slots=True)
class DataConfig:
    """The data and how it becomes examples."""

    path: str = setting("names.txt", "the text file")
    kind: str = choice("lines, windows, text", "an example is a line, a window or a crop of a text")
    split: str = choice(
        "holdout, makemore, lecture",
        "holdout: 90/5/5; makemore, lecture: the same lines as makemore.py and the lectures",
    )
    dedup: bool = setting(False, "drop repeated lines before the split")
    encoding: str = setting("utf-8", "encoding of the file, by its name in Python")
    block_size: int | None = setting(None, "context in characters; None: longest line + 1", CONTEXT)
    long_lines: str = choice("refuse, drop, cut", "lines of block_size characters or more")
    train_fraction: float = setting(0.9, "text: fraction used for training", FRACTION)
    memory_map: str = choice("auto, always, never", "text: tokens in a file; auto: if large")


@dataclass(slots=True)
class ModelConfig:
    """The model and its sizes. Each kind reads the fields that it needs."""

    kind: str = setting(
        "transformer",
        "bigram, bow, rnn, mlp, gru, lstm, cnn, transformer, modern, window_mlp, mixture",
    )
    n_layer: int = setting(4, "layers (GPTs, cnn, window_mlp)", AT_LEAST_1)
    n_head: int = setting(4, "attention heads (GPTs: transformer, modern, mixture)", AT_LEAST_1)
    n_embd: int = setting(64, "embedding width; in GPTs, the width of every layer", AT_LEAST_1)
    n_embd2: int = setting(64, "width of hidden layers and states (not in GPTs)", AT_LEAST_1)

    dropout: float = setting(0.0, "dropout rate (GPTs)", BELOW_1)

    # GPTs only: transformer, modern, and mixture, whose networks are modern
    dropout_rng: str = choice("threefry2x32, rbg", "GPTs: dropout generator; rbg: faster on TPU")
    layer_loop: str = choice("auto, scan, unroll", "scan: compile one layer; auto: scan on TPU")

    # transformer only
    activation: str = choice("gelu, gelu_exact, relu", "activation in the MLPs; gelu: tanh form")
    bias: bool = setting(True, "biases in linear layers and norms")
    tied: bool = setting(False, "share the weights of embedding and output layer")
    init_scheme: str = choice("pytorch, gpt2", "initial values")
    dtype: str = choice("float32, bfloat16", "dtype of activations; parameters are float32")
    remat: bool = setting(False, "recompute activations to save memory")

    # mixture only
    networks: int = setting(1, "networks whose predictions are averaged", AT_LEAST_1)
    ngram_contexts: int | None = setting(None, "rows of the n-gram table, or None", AT_LEAST_1)
    ngram_weight: float = setting(0.0, "weight of the n-grams in the prediction", BELOW_1)

    # window_mlp only
    fuse: int | None = setting(None, "neighbors joined per layer; None: all", AT_LEAST_2)
    batch_norm: str = choice("none, running, calibrated", "calibrated: by up to 200,000 windows")
    momentum: float = setting(0.1, "weight of each batch in the running statistics", SHARE)
    output_norm: bool = setting(False, "batch norm of the logits too")
    init_scale: str = choice(
        "kaiming, normal, small_output, small, fan_in",
        "scale of the initial weights, as in the steps of the lecture",
    )


@dataclass(slots=True)
class OptimizerConfig:
    """The optimizer. Fields have the meaning that PyTorch's AdamW, SGD and StepLR give them."""

    name: str = choice("adamw, sgd, muon", "optimizer; muon: matrices by Muon, the rest by AdamW")
    learning_rate: float = setting(5e-4, "peak learning rate", POSITIVE)
    b1: float = setting(0.9, "decay of AdamW's first moment (muon: not for matrices)", BELOW_1)
    b2: float = setting(0.99, "decay of AdamW's second moment (muon: not for matrices)", BELOW_1)
    weight_decay: float = setting(0.01, "adamw, muon: decoupled; sgd: L2 penalty", AT_LEAST_0)
    decay: str = choice("all, matrices", "parameters with weight decay; matrices: two or more axes")
    schedule: str = choice("constant, step, cosine, nanogpt", "learning rate schedule")
    warmup_steps: int = setting(0, "steps of linear warm-up", AT_LEAST_0)
    step_size: int = setting(100_000, "schedule=step: steps between two decays", AT_LEAST_1)
    gamma: float = setting(0.1, "schedule=step: factor of each decay", POSITIVE)
    min_learning_rate: float = setting(0.0, "cosine, nanogpt: final learning rate", AT_LEAST_0)
    decay_steps: int | None = setting(None, "end of the cosine; None: train.steps", AT_LEAST_1)
    grad_clip: float | None = setting(None, "clip gradients to this global norm", POSITIVE)


@dataclass(slots=True)
class TrainConfig:
    """The length of the training and what happens during it. Intervals are in steps."""

    batch_size: int = setting(32, "examples per step", AT_LEAST_1)
    accumulate: int = setting(1, "microbatches per batch (gradient accumulation)", AT_LEAST_1)
    steps: int = setting(20_000, "training steps", AT_LEAST_1)
    log_every: int = setting(100, "interval of train losses; longest compiled call", AT_LEAST_1)
    eval_every: int = setting(500, "interval of evaluations on dev", AT_LEAST_1)
    sample_every: int = setting(2_000, "interval of samples", AT_LEAST_1)
    diagnose_every: int | None = setting(None, "interval of layer statistics, or None", AT_LEAST_1)
    checkpoint_every: int = setting(2_000, "interval of saves; each best is saved too", AT_LEAST_1)
    num_samples: int | None = setting(None, "samples each time; None: 10 lines, 1 text", AT_LEAST_0)
    eval_examples: int | None = setting(None, "limit on dev, test examples; None: all", AT_LEAST_1)
    train_eval_examples: int = setting(5_000, "limit on train examples for final loss", AT_LEAST_1)


@dataclass(slots=True)
class MeshConfig:
    """The number of devices along each axis of the mesh."""

    data: int = setting(-1, "devices that a batch is split over; -1: all / mesh.model", AXIS)
    model: int = setting(1, "devices that wide matrices are sharded over", AT_LEAST_1)
    fsdp: bool = setting(False, "shard parameters and optimizer state over mesh.data as well")


@dataclass(slots=True)
class Config:
    """An experiment. The seed and the step determine every random number of a run."""

    seed: int = setting(3407, "seed of data split, initial values, batches, dropout, samples", SEED)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


def fields() -> dict[str, dataclasses.Field]:
    """Return every field by its dotted name, such as "data.path"."""
    flat = {}
    for group in dataclasses.fields(Config):
        if dataclasses.is_dataclass(group.type):
            flat |= {f"{group.name}.{f.name}": f for f in dataclasses.fields(group.type)}
        else:
            flat[group.name] = group
    return flat


def flatten(config: Config) -> dict[str, Any]:
    """Return every value by its dotted name: {"seed": 3407, "data.path": "names.txt", ...}."""
    return {name: operator.attrgetter(name)(config) for name in fields()}


def to_json(config: Config) -> dict[str, Any]:
    """Return the config as nested dictionaries, for json.dump."""
    return dataclasses.asdict(config)


def size_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield rules about several fields: name, whether it is met, what the field must be."""
    model, train = config.model, config.train
    is_divisor = train.batch_size % train.accumulate == 0
    yield "train.accumulate", is_divisor, f"a divisor of train.batch_size={train.batch_size}"
    if model.kind == "transformer":
        is_divisible = model.n_embd % model.n_head == 0
        yield "model.n_embd", is_divisible, f"divisible by model.n_head={model.n_head}"
    if model.kind in ("modern", "mixture"):  # rotary positions rotate pairs of channels
        has_pairs = model.n_embd % (2 * model.n_head) == 0
        yield "model.n_embd", has_pairs, f"divisible by 2 * model.n_head={2 * model.n_head}"
    optimizer = config.optimizer
    if optimizer.decay_steps and optimizer.schedule in ("cosine", "nanogpt"):
        is_longer = optimizer.decay_steps > optimizer.warmup_steps
        rule = f"above optimizer.warmup_steps={optimizer.warmup_steps}"
        yield "optimizer.decay_steps", is_longer, rule


RULES = (size_rules,)  # of every run; `training.run.Parts.rules` adds others


def from_json(tree: dict[str, Any]) -> Config:
    """Return the config of a tree from `to_json`.

    Raise UserError for an unknown or invalid field.
    """
    config, known = Config(), fields()
    for group, content in tree.items():
        is_group = isinstance(content, dict)
        for leaf, value in content.items() if is_group else [(group, content)]:
            name = f"{group}.{leaf}" if is_group else group
            if name not in known:
                raise UserError(f"{name}: no such field{did_you_mean(name, known)}")
            setattr(getattr(config, group) if is_group else config, leaf, value)
    validate(config)
    return config


def validate(config: Config, rules: tuple[Callable, ...] = RULES) -> None:
    """Check the type and rule of every field, then `rules`, which are about several fields.

    Raise UserError, which names the field, its value and the rule.
    """
    for group in dataclasses.fields(Config):
        value = getattr(config, group.name)
        if dataclasses.is_dataclass(group.type) and not isinstance(value, group.type):
            raise UserError(f"{group.name}: {value!r} is not a {group.type.__name__}")
    values = flatten(config)
    for name, f in fields().items():
        _check_type(name, values[name], f.type)
        rule = f.metadata["rule"]
        if rule and values[name] is not None and not rule.accepts(values[name]):
            raise UserError(f"{name}: {rule.error(values[name])}")
    for rule in rules:
        for name, is_met, text in rule(config):
            if not is_met:
                raise UserError(f"{name}: {show(values[name])} must be {text}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    accepted = typing.get_args(hint) or (hint,)
    accepted += (int,) if float in accepted else ()
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise UserError(f"{name}: {value!r} is not of type {type_name(hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: {value} is not a finite number")
    if isinstance(value, int | float) and abs(value) >= 2**31 and name != "seed":
        raise UserError(f"{name}: {value} is too large")


def type_name(hint: Any) -> str:
    """Return the type of a field in words: "int", "float or None"."""
    return str(hint).replace("|", "or") if typing.get_args(hint) else hint.__name__

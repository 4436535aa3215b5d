"""Infer the config of a model from the file that PyTorch saved.

The names and shapes of the tensors determine the family and most sizes. nanoGPT's files also have
its settings: sizes that contradict the tensors are an error, and settings of the training set
fields of `optimizer` and `train`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax.config import Config, OptimizerConfig, fields, flatten
from makemore_jax.errors import UserError
from makemore_jax.torch_parity.files import Stored
from makemore_jax.torch_parity.weights import EMBEDDING, HEAD

# A tensor that only this family has.
MARKS = {
    "logits": "bigram",
    "mlp.0.weight": "mlp",
    "cell.xh_to_h.weight": "rnn",
    "cell.xh_to_hbar.weight": "gru",
    "cell.xh_to_cbar.weight": "lstm",
    "context_block.mlp.c_fc.weight": "bow",
    "h.0.conv.linear.weight": "cnn",
    "transformer.wpe.weight": "transformer",
    "h.0.weight": "window_mlp",
    "h.0.attn.c_q.weight": "modern",
}
DATA_KINDS = {"window_mlp": "windows"}  # data.kind of families that read neither lines nor a text

# Settings in nanoGPT's train.py and the fields with the same meaning.
NANOGPT_FIELDS = {
    "learning_rate": "optimizer.learning_rate",
    "min_lr": "optimizer.min_learning_rate",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "weight_decay": "optimizer.weight_decay",
    "warmup_iters": "optimizer.warmup_steps",
    "lr_decay_iters": "optimizer.decay_steps",
    "max_iters": "train.steps",
    "eval_interval": "train.eval_every",
    "gradient_accumulation_steps": "train.accumulate",
}


class Sizes:
    """The shapes of the tensors of a file."""

    def __init__(self, tensors: dict[str, np.ndarray], file: Path):
        self.tensors, self._file = tensors, file

    def axis(self, name: str, axis: int) -> int:
        """Return the length of an axis of a matrix.

        Raise UserError if the file has no such matrix.
        """
        if name not in self.tensors:
            raise UserError(f"{self._file}: {name} is missing")
        shape = self.tensors[name].shape
        if len(shape) != 2:
            raise UserError(f"{self._file}: {name} is {shape}, not a matrix")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """Return the number of layers, whose names are `prefix` and a number."""
        matches = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in self.tensors)
        return len({match[1] for match in matches if match})


def family(tensors: dict[str, np.ndarray], file: Path) -> str:
    """Return the kind of the model. Raise UserError for tensors of no family."""
    for name, kind in MARKS.items():
        if name in tensors:
            return kind
    first = next(iter(tensors))
    raise UserError(f"{file} is not a model of any family here; its first tensor is {first}")


def model_fields(stored: Stored, file: Path, batch_norm: str) -> tuple[dict[str, Any], int]:
    """Return the fields that the tensors determine, by dotted name, and the vocabulary size.

    `batch_norm` is that of the config, if the file has batch norm: tensors do not show its kind.
    """
    kind, sizes = family(stored.tensors, file), Sizes(stored.tensors, file)
    result = {"model.kind": kind}
    if kind in DATA_KINDS:
        result["data.kind"] = DATA_KINDS[kind]
    if kind == "bigram":
        return result, sizes.axis("logits", 0)
    wte = EMBEDDING if kind == "transformer" else "wte.weight"
    V, C = sizes.axis(wte, 0), sizes.axis(wte, 1)
    result["model.n_embd"] = C
    if kind == "mlp":  # with one row more, for padding
        result["data.block_size"] = sizes.axis("mlp.0.weight", 1) // max(C, 1)
        return result | {"model.n_embd2": sizes.axis("mlp.0.weight", 0)}, V - 1
    if kind == "transformer":
        head = stored.tensors.get(HEAD, stored.tensors[wte])
        result["data.block_size"] = sizes.axis("transformer.wpe.weight", 0)
        result["model.n_layer"] = sizes.count("transformer.h.")
        result["model.bias"] = "transformer.ln_f.bias" in stored.tensors
        result["model.tied"] = np.array_equal(head, stored.tensors[wte])
        return result, V
    if kind == "bow":
        result["data.block_size"] = sizes.axis("wpe.weight", 0)
        return result | {"model.n_embd2": sizes.axis("context_block.mlp.c_fc.weight", 0)}, V
    if kind in ("cnn", "window_mlp", "modern"):
        result["model.n_layer"] = sizes.count("h.")
    if kind != "modern":
        result["model.n_embd2"] = sizes.axis(HEAD, 1)
    if kind == "window_mlp":
        result |= _window_fields(sizes, C, result["model.n_embd2"], batch_norm)
    return result, V


def _window_fields(sizes: Sizes, C: int, n_embd2: int, batch_norm: str) -> dict[str, Any]:
    """Return the fields of a window_mlp that no other family has, and the width of its window."""
    joined, n_layer = sizes.axis("h.0.weight", 1) // max(C, 1), sizes.count("h.")
    is_fused = n_layer > 1 and sizes.axis("h.1.weight", 1) > n_embd2
    if "norms.0.weight" not in sizes.tensors:
        batch_norm = "none"
    elif batch_norm == "none":
        batch_norm = "running"
    return {
        "data.block_size": joined ** min(n_layer, 32) if is_fused else joined,
        "model.fuse": joined if is_fused else None,
        "model.batch_norm": batch_norm,
        "model.output_norm": "norm_f.weight" in sizes.tensors,
    }


def nanogpt_fields(stored: Stored, inferred: dict[str, Any], vocab_size: int, file: Path) -> dict:
    """Return the fields that nanoGPT's own settings determine.

    `inferred` has the fields that the tensors determine. Raise UserError if the file contradicts
    itself.
    """
    args = stored.model_args
    from_tensors = {
        "n_layer": inferred.get("model.n_layer"),
        "n_embd": inferred.get("model.n_embd"),
        "block_size": inferred.get("data.block_size"),
        "bias": inferred.get("model.bias"),
        "vocab_size": vocab_size,
    }
    if inferred["model.kind"] != "transformer":
        raise UserError(f"{file} has model_args, but the tensors of a {inferred['model.kind']}")
    for name, value in from_tensors.items():
        if name in args and (type(args[name]) is not type(value) or args[name] != value):
            raise UserError(
                f"{file}: model_args has {name}={str(args[name])[:40]}, its tensors have {value}"
            )
    if "n_head" not in args:
        raise UserError(f"{file}: model_args has no n_head")
    result = {"data.kind": "text", "model.activation": "gelu_exact"}
    result |= {"model.n_head": args["n_head"], "model.dropout": args.get("dropout", 0.0)}
    return result | _training_fields(stored.config)


def _training_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of nanoGPT's settings of the training."""
    if "learning_rate" not in config:
        return {}
    result = {field: config[name] for name, field in NANOGPT_FIELDS.items() if name in config}
    result |= {"optimizer.decay": "matrices", "optimizer.schedule": "nanogpt"}
    result["optimizer.grad_clip"] = config.get("grad_clip") or None  # 0.0: no clipping
    if not config.get("decay_lr", True):
        result |= {"optimizer.schedule": "constant", "optimizer.warmup_steps": 0}
    if isinstance(config.get("batch_size"), int):  # of one microbatch
        accumulate = config.get("gradient_accumulation_steps", 1)
        result["train.batch_size"] = config["batch_size"] * accumulate
    return result


def merge(config: Config, inferred: dict[str, Any], file: Path) -> None:
    """Set the fields that a file determines, unless the config has a value of its own.

    Raise UserError if the config has another value than the file for the data or the model.
    """
    values, known = flatten(config), fields()
    for name, value in inferred.items():
        group, leaf = name.split(".")
        if values[name] in (value, known[name].default):
            setattr(getattr(config, group), leaf, value)
        elif group in ("data", "model"):
            raise UserError(f"{name}: the config has {values[name]}, but {file} has {value}")


def nanogpt_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings that nanoGPT's train.py saves, from those of a run."""
    values, optimizer = flatten(config), config.optimizer
    settings = {name: values[field] for name, field in NANOGPT_FIELDS.items()}
    settings["batch_size"] = config.train.batch_size // config.train.accumulate
    settings["block_size"], settings["dataset"] = config.data.block_size, dataset
    settings["grad_clip"] = optimizer.grad_clip or 0.0
    settings["decay_lr"] = optimizer.schedule != OptimizerConfig().schedule
    settings["lr_decay_iters"] = optimizer.decay_steps or config.train.steps
    names = ("n_layer", "n_head", "n_embd", "dropout", "bias")
    return settings | {name: values[f"model.{name}"] for name in names}

"""The fields that a sweep varies, and their values."""

import copy
import math
import os
import re
from typing import Any

import numpy as np

from makemore_jax.assemble import validate
from makemore_jax.cli.fields import accepted_types, check_name, check_value
from makemore_jax.config import Config
from makemore_jax.errors import UserError

Values = dict[str, Any]  # the swept fields of one run, by dotted name

# Fields that may differ within one compiled program: the optimizer only computes with them.
VMAPPED_FIELDS = tuple(
    f"optimizer.{name}"
    for name in ("learning_rate", "b1", "b2", "weight_decay", "gamma", "min_learning_rate")
)

# Fields of train.py that a sweep ignores: it saves no checkpoints during training, draws no samples
# and splits runs, not batches, over the devices.
UNUSED_FIELDS = {
    *("train.accumulate", "train.sample_every", "train.num_samples", "train.diagnose_every"),
    *("train.checkpoint_every", "mesh.data", "mesh.model", "mesh.fsdp"),
}


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Parse 'FIELD=LOW:HIGH:NUM' or 'FIELD=A,B,C'. Return the field and its values.

    Raise UserError if the text is malformed or the field does not exist.
    """
    name, _, values_text = text.partition("=")
    check_name(name)
    if name == "seed":
        raise UserError("--over: seed can't be swept; --seeds sets the number of seeds")
    if name in UNUSED_FIELDS:
        raise UserError(f"--over: {name} has no effect in a sweep")
    if match := re.fullmatch(r"([^:,]+):([^:,]+):(\d+)", values_text):
        try:
            low, high, num = float(match[1]), float(match[2]), int(match[3])
        except ValueError:
            raise UserError(f"--over: {text}: LOW and HIGH must be numbers") from None
        if not (0 < low < high < math.inf and num >= 2):
            raise UserError(f"--over: {text}: needs 0 < LOW < HIGH and NUM of at least 2")
        kind = accepted_types(name)[0]
        if kind not in (int, float):
            raise UserError(f"--over: {text}: needs a field with numbers; write {name}=A,B,C")
        values = np.geomspace(low, high, num).tolist()
        if kind is int:
            values = sorted({round(value) for value in values})
            if len(values) < num:
                raise UserError(f"--over: {text}: gives only {len(values)} different integers")
        return name, values
    if not values_text:
        raise UserError(f"--over: {text}: values are missing; write {name}=A,B,C or LOW:HIGH:NUM")
    values = [_parse_value(name, word.strip()) for word in values_text.split(",")]
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise UserError(f"--over: {text}: {repeated[0]} appears twice")
    return name, values


def _parse_value(name: str, word: str) -> Any:
    """Return a word as a value of a field. Raise UserError for a word that train.py refuses too."""
    check_value(name, word)
    accepted = accepted_types(name)
    if type(None) in accepted and word.lower() == "none":
        return None
    if accepted[0] is bool:
        return word.lower() in ("true", "1")
    return accepted[0](word)


def with_values(config: Config, values: Values) -> Config:
    """Return a copy of the config with these values.

    Raise UserError if one of them is not valid.
    """
    config = copy.deepcopy(config)
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        setattr(getattr(config, group) if group else config, leaf, value)
    config.data.path = os.path.expanduser(config.data.path)
    validate(config)
    if config.model.kind == "mixture":
        raise UserError("model.kind: a sweep can't train a mixture; run train.py for each setting")
    if config.model.dropout_rng == "rbg":
        raise UserError(
            'model.dropout_rng: must be "threefry2x32" in a sweep; vmap changes the bits of rbg'
        )
    return config

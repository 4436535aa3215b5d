"""The fields of the config by name, as the command line and sweeps accept them; rules of flags."""

import re
import typing
from typing import Any

from makemore_jax.config import Rule, fields
from makemore_jax.errors import UserError, did_you_mean

NUM_SAMPLES = Rule(lambda value: 1 <= value < 2**31, "at least 1, below 2**31")  # as int32 numbers
NUM_SEEDS = Rule(lambda value: 1 <= value <= 10_000, "between 1 and 10000")


def field_types() -> dict[str, Any]:
    """Return the type of every field by its dotted name."""
    return {name: f.type for name, f in fields().items()}


def accepted_types(name: str) -> tuple[type, ...]:
    """Return the types of a field's values, such as (int, NoneType)."""
    hint = field_types()[name]
    return typing.get_args(hint) or (hint,)


def check_name(name: str) -> None:
    """Raise UserError, with the most similar field, if no field has this dotted name."""
    known = fields()
    if name in known:
        return
    if group := [field for field in known if field.startswith(f"{name}.")]:
        raise UserError(f"--config.{name}: is a group of fields, {', '.join(group)}")
    # Often only the group is wrong or missing: data.n_embd, n_embd.
    same_leaf = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f"; did you mean {same_leaf[0]}?" if same_leaf else did_you_mean(name, known)
    raise UserError(f"--config.{name}: no such field{hint}")


def check_value(name: str, text: str) -> None:
    """Raise UserError if `text` can't be parsed as a value of this field."""
    accepted = accepted_types(name)
    if type(None) in accepted and text.lower() == "none":
        return
    kind = accepted[0]
    if kind is bool and text.lower() not in ("true", "false", "1", "0"):
        raise UserError(f"{name}: {text!r} is neither true nor false")
    if kind in (int, float):
        try:
            kind(text)
        except ValueError:
            as_float = re.fullmatch(r"\d+(\.\d*)?e\d+", text) and float(text)
            as_int = f"; write {int(as_float)}" if as_float and as_float.is_integer() else ""
            expected = "an integer" if kind is int else "a number"
            raise UserError(f"{name}: {text!r} is not {expected}{as_int}") from None


def check_flag(flag: str, value: Any, rule: Rule) -> None:
    """Raise UserError if the value of a flag is set and does not meet a rule."""
    if value is not None and not rule.accepts(value):
        raise UserError(f"--{flag}: {rule.error(value)}")

"""The flag --config and its overrides.

`ml_collections.config_flags` reads the config file and its overrides. This module checks them
first, because `config_flags` reports many mistakes as a bare KeyError or not at all.
"""

import os
import re
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax.cli import fields, resources
from makemore_jax.config import Config
from makemore_jax.errors import UserError, did_you_mean


class _OrNone(flags.ArgumentParser):
    """Parses None as well. `check_overrides` allows it only for the fields that can be None."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> int | float | None:
        return None if str(argument).lower() == "none" else self._parser.parse(argument)


config_flags.register_flag_parser_for_type(int, _OrNone(flags.IntegerParser()))
config_flags.register_flag_parser_for_type(float, _OrNone(flags.FloatParser()))


def read(flag: flags.FlagHolder) -> Config:
    """Return the config of --config with its overrides.

    Raise UserError if get_config() does not return a Config. names.txt, the default data, is also
    found outside of a checkout.
    """
    config = flag.value
    if not isinstance(config, Config):
        raise UserError(f"--config: get_config() gives {type(config).__name__}, not a Config")
    config.data.path = resources.find_names(os.path.expanduser(config.data.path))
    return config


def name() -> str:
    """Return the name of the config file, without its folder and suffix."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def find(name: str) -> str:
    """Return the config file at this path, or the bundled config with this name.

    Raise UserError if there is neither.
    """
    # os.path has no errors for a name that is too long or for the home of an unknown user.
    file = Path(os.path.expanduser(name))
    if os.path.isfile(file):
        return str(file)
    bundled = resources.CONFIGS / f"{name.removesuffix('.py')}.py"
    if file.name == name and os.path.isfile(bundled):
        return str(bundled)
    problem = "is a folder" if os.path.isdir(file) else "does not exist"
    hint = did_you_mean(name, [str(path) for path in file.parent.glob("*.py")])
    hint = hint or did_you_mean(file.stem, resources.config_names())
    if not hint and name:
        hint = f"; the bundled configs are {', '.join(resources.config_names())}"
    raise UserError(f"--config: {name} {problem}{hint}")


def is_given(arguments: list[str]) -> bool:
    """Return whether the arguments have --config or an override."""
    return any(re.match(r"--?config[=.]?", argument) for argument in arguments)


def move_first(arguments: list[str], required: bool) -> list[str]:
    """Return the arguments with --config before its overrides: config_flags needs this order.

    The name of a bundled config becomes its file. Raise UserError if --config is required or
    overridden, but missing, or if it occurs twice.
    """
    if sum(bool(re.fullmatch(r"--?config(=.*)?", a, re.DOTALL)) for a in arguments) > 1:
        raise UserError("--config is given twice")
    for i, argument in enumerate(arguments):
        if match := re.match(r"--?config=", argument):
            file = find(argument[match.end() :])
            return [f"--config={file}", *arguments[:i], *arguments[i + 1 :]]
        if re.fullmatch(r"--?config", argument) and i + 1 < len(arguments):
            file = find(arguments[i + 1])
            return [f"--config={file}", *arguments[:i], *arguments[i + 2 :]]
    if not required and not any(re.match(r"--?(no)?config\.", a) for a in arguments):
        return arguments
    for argument in arguments:
        if (hint := intended_flag(argument)).startswith("; did you mean"):
            raise UserError(f"{argument}: not a flag{hint}")
    command = "--config transformer"
    if resources.is_train():
        command = resources.command("train", "--config", "transformer")
    raise UserError(f"--config is missing; for example: {command}")


def intended_flag(argument: str) -> str:
    """Return '; did you mean ...?' for a positional argument that should be a flag."""
    if argument.lower() in ("true", "false"):
        return "; a boolean flag takes its value after =, as in --flag=" + argument
    is_config = argument.endswith(".py") or argument in resources.config_names()
    if is_config and "config" in flags.FLAGS:
        return f"; did you mean --config={argument}?"
    if (Path(argument) / "config.json").is_file() and "workdir" in flags.FLAGS:
        return f"; did you mean --workdir={argument}?"
    return ""


def check_overrides(arguments: list[str]) -> None:
    """Raise UserError for overrides of fields that do not exist or do not accept the value."""
    if not arguments or not re.match(r"--?config=", arguments[0]):
        return
    for i, argument in enumerate(arguments):
        if match := re.fullmatch(r"--?(?:no)?config\.([^=]*)(=.*)?", argument, re.DOTALL):
            name, value = match[1], match[2]
            fields.check_name(name)
            if value is None and fields.field_types()[name] is not bool:
                if i + 1 == len(arguments):
                    raise UserError(f"--config.{name}: its value is missing")
                value = f"={arguments[i + 1]}"
            if value is not None:
                fields.check_value(name, value[1:])

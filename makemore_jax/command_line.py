"""From the command line to a checked Config, or to one clear line and exit code 2.

`ml_collections.config_flags` reads the config file and its overrides; what is done here is to
say what is wrong in the user's words, where it would end in a bare KeyError, or not at all.
"""

import inspect
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax import config as config_lib
from makemore_jax.errors import UserError, did_you_mean


class _OrNone(flags.ArgumentParser):
    """Lets an override be None, which _check_config has allowed for the fields that can be."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> int | float | None:
        return None if str(argument).lower() == "none" else self._parser.parse(argument)


config_flags.register_flag_parser_for_type(int, _OrNone(flags.IntegerParser()))
config_flags.register_flag_parser_for_type(float, _OrNone(flags.FloatParser()))


def run(
    main: Callable[..., None], program_doc: str, config_required: bool = True, name: str = ""
) -> None:
    """Parse sys.argv and call `main`. Every UserError ends as one line and its exit code.

    A `main` with a parameter is given the arguments that are no flags; otherwise there may be none.
    """
    name = name or Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal that lacks a character must not end a training
            stream.reconfigure(errors="backslashreplace")
    try:
        leftover = _parse(sys.argv, program_doc, config_required)
        if inspect.signature(main).parameters:
            main(leftover)
        elif leftover:
            way_out = ""
            if leftover[0].endswith(".py"):
                way_out = f"; did you mean --config={leftover[0]}?"
            elif leftover[0].lower() in ("true", "false"):
                way_out = f"; a switch takes its value after =, as in --switch={leftover[0]}"
            raise UserError(f"{leftover[0]}: not a flag{way_out}")
        else:
            main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def _parse(argv: list[str], program_doc: str, config_required: bool) -> list[str]:
    if {"-h", "-help", "--help"} & set(argv):
        print(program_doc.strip() + "\n")
        print(flags.FLAGS.main_module_help())
        if "config" in flags.FLAGS:
            print("\nFields of the config, each overridden as --config.NAME=VALUE, and defaults:")
            for name, value in config_lib.flatten(config_lib.Config()).items():
                print(f"  {name} ({value})")
        sys.exit(0)
    if "config" in flags.FLAGS:
        argv[1:] = _config_first(argv[1:], config_required)
        _check_config(argv[1:])
    flags.FLAGS.set_gnu_getopt(True)  # flags may stand after arguments that are none
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from None
    except Exception as error:
        # All else was checked before, so this comes out of the config file's own code.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(f"--config: the file fails with {lines[-1]}") from None


def _config_first(arguments: list[str], required: bool) -> list[str]:
    """The arguments with --config before its overrides, the only order that config_flags takes."""
    if sum(bool(re.fullmatch(r"--?config(=.*)?", a, re.DOTALL)) for a in arguments) > 1:
        raise UserError("--config is given twice")
    for i, argument in enumerate(arguments):
        if re.match(r"--?config=", argument):
            return [argument, *arguments[:i], *arguments[i + 1 :]]
        if re.fullmatch(r"--?config", argument) and i + 1 < len(arguments):
            return [f"--config={arguments[i + 1]}", *arguments[:i], *arguments[i + 2 :]]
    if not required and not any(re.match(r"--?(no)?config\.", a) for a in arguments):
        return arguments
    raise UserError("--config is missing; one of those in configs/, as configs/transformer.py")


def _check_config(arguments: list[str]) -> None:
    """UserError for a config file that is not there, and for overrides that fit no field."""
    if not arguments or not re.match(r"--?config=", arguments[0]):
        return
    file = Path(arguments[0].partition("=")[2])
    if not file.is_file():
        near = [str(path) for path in file.parent.glob("*.py")]
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"--config: {file} {what}{did_you_mean(str(file), near)}")
    hints = config_lib.field_types()
    for i, argument in enumerate(arguments):
        if found := re.fullmatch(r"--?(?:no)?config\.([^=]*)(=.*)?", argument, re.DOTALL):
            name, value = found[1], found[2]
            config_lib.check_field_name(name)
            if value is None and hints[name] is not bool:
                if i + 1 == len(arguments):
                    raise UserError(f"--config.{name}: its value is missing")
                value = f"={arguments[i + 1]}"
            if value is not None:
                _check_value(name, value[1:], hints[name])


def _check_value(name: str, text: str, hint: type) -> None:
    """UserError if `text` can't be read as a value of this type."""
    accepted = typing.get_args(hint) or (hint,)
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
            hint_int = f"; write {int(as_float)}" if as_float and as_float.is_integer() else ""
            what = "an integer" if kind is int else "a number"
            raise UserError(f"{name}: {text!r} is not {what}{hint_int}") from None

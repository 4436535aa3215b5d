"""From the command line to a checked Config, or to one clear line and exit code 2.

`ml_collections.config_flags` reads the config file and its overrides. This module checks them
first, because `config_flags` reports many mistakes as a bare KeyError, or not at all.
"""

import importlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax import config as config_lib
from makemore_jax.cli import interrupts, progress, resources
from makemore_jax.config import Config
from makemore_jax.errors import Stopped, UserError, did_you_mean

HELP = {"-h", "-help", "--help"}


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

    A `main` with a parameter gets the positional arguments; otherwise there may be none. In an
    interactive session, where IPython's %run starts programs, this returns instead of exiting.
    """
    name = name or program_name()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks must not end a training. A notebook's streams accept
        # all characters and can't be reconfigured.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    exit_code = 0
    try:
        takes_arguments = bool(inspect.signature(main).parameters)
        if HELP & set(sys.argv):
            _print_help(main.__module__, program_doc)
            return
        positional = _parse(sys.argv, config_required, takes_arguments)
        main(positional) if takes_arguments else main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        exit_code = error.exit_code
    except Stopped as stopped:
        print(stopped, file=progress.default_file())
        exit_code = stopped.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        exit_code = interrupts.EXIT_CODE
        if interrupts.is_interactive():
            print(f"{name}: interrupted", file=sys.stderr)
    finally:
        if interrupts.is_interactive():
            _delete_flags(main.__module__)
    if exit_code and not interrupts.is_interactive():
        sys.exit(exit_code)


def _delete_flags(module: str) -> None:
    """Delete a program's flags, so that the session can run it again or run another program."""
    names = [flag.name for flag in _flags_of(module)]
    names += [name for name in flags.FLAGS if name.startswith("config.")]  # overrides
    for name in names:
        delattr(flags.FLAGS, name)


def _flags_of(module: str) -> list[flags.Flag]:
    """The flags that a module defines, in their order."""
    name = sys.argv[0] if module == "__main__" else module  # absl's name of the main module
    return flags.FLAGS.flags_by_module_dict().get(name, [])


def program_name() -> str:
    """The name that starts every message: train.py, or makemore-train."""
    return Path(sys.argv[0]).name


def warn(message: str) -> None:
    """Print one line to stderr."""
    print(f"{program_name()}: {message}", file=sys.stderr)


def require_modules(program: str, *modules: str) -> None:
    """End the program with one line if an optional library is missing.

    For programs that import it at the top of their file.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            print(f"{program}: needs {module}: pip install {' '.join(modules)}", file=sys.stderr)
            sys.exit(UserError.exit_code)


def read_config(flag: flags.FlagHolder) -> Config:
    """The config of --config with its overrides. UserError if the file returns something else.

    names.txt, the default data, is also found outside of a checkout.
    """
    config = flag.value
    if not isinstance(config, Config):
        raise UserError(f"--config: get_config() gives {type(config).__name__}, not a Config")
    if config.data.path == Config().data.path and not Path(config.data.path).exists():
        config.data.path = str(resources.FOLDER / config.data.path)
    return config


def _print_help(module: str, program_doc: str) -> None:
    """The program's docstring, its flags in the order of their definition, the config's fields."""
    argv = [argument for argument in sys.argv if argument not in HELP]
    config = Config()
    if "config" in flags.FLAGS and any(re.match(r"--?config[=.]?", a) for a in argv[1:]):
        _parse(argv, config_required=True, takes_arguments=True)
        config = flags.FLAGS["config"].value
    print(resources.adapt(program_doc.strip()) + "\n")
    for flag in _flags_of(module):
        default = f" ({flag.default})" if flag.default not in (None, "", [], False) else ""
        meaning = (flag.help or "").partition(";\n    repeat this option")[0]  # absl appends it
        _print_entry(f"--{flag.name}", meaning + default)
    if "config" not in flags.FLAGS:
        return
    print("\nFields of the config, as --config.NAME=VALUE:")
    values = config_lib.flatten(config)
    for name, field in config_lib.fields().items():
        rule = field.metadata["rule"]
        accepted = rule.text if rule and rule.choices else config_lib.type_name(field.type)
        accepted += f", {rule.text}" if rule and not rule.choices else ""
        only = f" ({field.metadata['only']} only)" if field.metadata["only"] else ""
        _print_entry(f"{name}={values[name]}", f"{field.metadata['meaning']}{only} [{accepted}]")


def _print_entry(name: str, meaning: str) -> None:
    width = 36
    lines = textwrap.wrap(meaning, 100 - width) or [""]
    first = f"  {name:<{width - 3}} " if len(name) <= width - 3 else f"  {name}\n{' ' * width}"
    print(first + f"\n{' ' * width}".join(lines))


def _parse(argv: list[str], config_required: bool, takes_arguments: bool) -> list[str]:
    """Parse the flags; return the positional arguments."""
    if "config" in flags.FLAGS:
        argv[1:] = _config_first(argv[1:], config_required)
        _check_config(argv[1:])
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow positional arguments
    try:
        positional = flags.FLAGS(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"--{error.flagname}: no such flag{_suggest_name(error.flagname)}"
        ) from None
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from None
    except Exception as error:
        # All else was checked before, so this comes out of the config file's own code.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(f"--config: the file fails with {lines[-1]}") from None
    if positional and not takes_arguments:
        raise UserError(f"{positional[0]}: not a flag{_suggest_flag(positional[0])}")
    return positional


def _suggest_flag(argument: str) -> str:
    """'; did you mean ...?' for a positional argument that should be a flag."""
    if argument.lower() in ("true", "false"):
        return "; a boolean flag takes its value after =, as in --flag=" + argument
    is_config = argument.endswith(".py") or argument in resources.config_names()
    if is_config and "config" in flags.FLAGS:
        return f"; did you mean --config={argument}?"
    if (Path(argument) / "config.json").is_file() and "workdir" in flags.FLAGS:
        return f"; did you mean --workdir={argument}?"
    return ""


def _suggest_name(flag: str) -> str:
    """'; did you mean ...?' for an unknown flag: a field without its --config., or a typo."""
    if "config" in flags.FLAGS:
        for field in config_lib.fields():
            if flag in (field, field.rpartition(".")[2]):
                return f"; did you mean --config.{field}?"
    known = [name for name in flags.FLAGS if "." not in name]
    return did_you_mean(f"--{flag}", [f"--{name}" for name in known])


def _config_first(arguments: list[str], required: bool) -> list[str]:
    """The arguments with --config before its overrides, the only order that config_flags takes."""
    if sum(bool(re.fullmatch(r"--?config(=.*)?", a, re.DOTALL)) for a in arguments) > 1:
        raise UserError("--config is given twice")
    for i, argument in enumerate(arguments):
        if match := re.match(r"--?config=", argument):
            file = find_config(argument[match.end() :])
            return [f"--config={file}", *arguments[:i], *arguments[i + 1 :]]
        if re.fullmatch(r"--?config", argument) and i + 1 < len(arguments):
            file = find_config(arguments[i + 1])
            return [f"--config={file}", *arguments[:i], *arguments[i + 2 :]]
    if not required and not any(re.match(r"--?(no)?config\.", a) for a in arguments):
        return arguments
    for argument in arguments:
        if _suggest_flag(argument).startswith("; did you mean"):
            raise UserError(f"{argument}: not a flag{_suggest_flag(argument)}")
    example = _example("--config transformer")
    raise UserError(f"--config is missing; for example: {example}")


def _example(arguments: str) -> str:
    """This program's command with other arguments, for the user to copy."""
    name = program_name()
    if name in ("train.py", "makemore-train"):
        return f"{resources.command('train')} {arguments}"
    return arguments


def find_config(name: str) -> str:
    """The config file of this path, or the bundled config of this name. UserError if neither is."""
    file = Path(name)
    if file.is_file():
        return name
    bundled = resources.CONFIGS / f"{name.removesuffix('.py')}.py"
    if file.name == name and bundled.is_file():
        return str(bundled)
    what = "is a folder" if file.is_dir() else "does not exist"
    hint = did_you_mean(name, [str(path) for path in file.parent.glob("*.py")])
    hint = hint or did_you_mean(file.stem, resources.config_names())
    if not hint and name:
        hint = f"; the bundled configs are {', '.join(resources.config_names())}"
    raise UserError(f"--config: {name} {what}{hint}")


def _check_config(arguments: list[str]) -> None:
    """UserError for overrides that fit no field."""
    if not arguments or not re.match(r"--?config=", arguments[0]):
        return
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

"""Run a program: parse its flags, report each mistake in one clear line, exit with its code."""

import contextlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import flags

from makemore_jax import config as config_lib
from makemore_jax.cli import (
    config_flag,
    help_text,
    interrupts,
    missing_device,
    out_of_memory,
    output,
    paths,
    progress,
)
from makemore_jax.cli.resources import program_name
from makemore_jax.config import Config
from makemore_jax.errors import Stopped, UserError, did_you_mean

# Python's messages for a value that is not a number, and plainer ones.
NUMBER_ERRORS = {
    "invalid literal for int() with base 10": "not an integer",
    "could not convert string to float": "not a number",
}

# What the programs of the lectures and of torch_parity change.
JAX_OPTIONS = ("jax_enable_x64", "jax_default_matmul_precision")


def run(
    main: Callable[..., None], program_doc: str, config_required: bool = True, name: str = ""
) -> None:
    """Parse sys.argv and call `main`. A UserError is printed as one line and sets the exit code.

    A `main` with a parameter gets the positional arguments; otherwise none are allowed. In an
    interactive session, such as IPython's %run, this returns instead of exiting.
    """

    def parse_and_call() -> None:
        takes_arguments = bool(inspect.signature(main).parameters)
        if help_text.HELP_FLAGS & set(sys.argv):
            help_text.print_help(program_doc, _flags_of(main.__module__), _config_for_help())
            return
        positional = _parse(sys.argv, config_required, takes_arguments)
        main(positional) if takes_arguments else main()

    try:
        call(name or program_name(), parse_and_call)
    finally:
        if interrupts.is_interactive():
            _delete_flags(main.__module__)


def call(name: str, main: Callable[[], None]) -> None:
    """Call `main`. Print a UserError as one line that starts with `name`, and exit with its code.

    In an interactive session, this returns instead of exiting.
    """
    output.open_missing()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal can't show must not end a training. The streams of a
        # notebook accept all characters and can't be reconfigured.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    exit_code = 0
    if not interrupts.is_interactive():
        output.report_errors()
    try:
        with missing_device.reporting(), out_of_memory.reporting(), _jax_options_restored():
            main()
        sys.stdout.flush()  # raises BrokenPipeError here if the reader is gone
    except UserError as error:
        output.print_error(name, error)
        exit_code = error.exit_code
    except Stopped as stopped:
        print(stopped, file=progress.default_file())
        exit_code = stopped.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        exit_code = interrupts.EXIT_CODE
        if interrupts.is_interactive():
            output.print_error(name, "interrupted")
    except OSError as error:
        if error.errno is None:  # not from the operating system
            raise
        output.print_error(name, describe(error))
        exit_code = 1
    if exit_code and not interrupts.is_interactive():
        sys.exit(exit_code)


@contextlib.contextmanager
def _jax_options_restored() -> Iterator[None]:
    """Restore the options that a program may set: in IPython, the next program shares them."""
    config = getattr(sys.modules.get("jax"), "config", None)
    before = {name: getattr(config, name) for name in JAX_OPTIONS} if config else {}
    try:
        yield
    finally:
        for name, value in before.items():
            config.update(name, value)


def leave(exit_code: int) -> NoReturn:
    """Exit with this code, or with 0 in IPython, whose %run shows a traceback for other codes."""
    sys.exit(0 if interrupts.is_interactive() else exit_code)


def describe(error: OSError) -> str:
    """Return one line with the file, if it is known, and what the operating system says."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def warn(message: str) -> None:
    """Print one line to stderr."""
    output.print_error(program_name(), message)


def require_modules(program: str, *modules: str) -> None:
    """Exit with one line if an optional library is missing.

    Programs that import it at the top of their file call this first.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            print(f"{program}: needs {module}: pip install {' '.join(modules)}", file=sys.stderr)
            leave(UserError.exit_code)


def _flags_of(module: str) -> list[flags.Flag]:
    """Return the flags that a module defines, in order."""
    name = sys.argv[0] if module == "__main__" else module  # absl's name of the main module
    return flags.FLAGS.flags_by_module_dict().get(name, [])


def _delete_flags(module: str) -> None:
    """Delete the flags of a program, so a session can run it again or run another program."""
    names = [flag.name for flag in _flags_of(module)]
    names += [name for name in flags.FLAGS if name.startswith("config.")]  # overrides
    for name in names:
        delattr(flags.FLAGS, name)


def _config_for_help() -> Config | None:
    """Return the config of the command line, or the default one; None without a --config flag."""
    if "config" not in flags.FLAGS:
        return None
    argv = [argument for argument in sys.argv if argument not in help_text.HELP_FLAGS]
    if not config_flag.is_given(argv[1:]):
        return Config()
    _parse(argv, config_required=True, takes_arguments=True)
    return flags.FLAGS["config"].value


def _parse(argv: list[str], config_required: bool, takes_arguments: bool) -> list[str]:
    """Parse the flags and return the positional arguments."""
    if "config" in flags.FLAGS:
        argv[1:] = config_flag.move_first(argv[1:], config_required)
        config_flag.check_overrides(argv[1:])
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow positional arguments
    try:
        with warnings.catch_warnings():
            # ml_collections calls it; PYTHONWARNINGS=error must not make that an error of the file.
            warnings.filterwarnings("ignore", r".*load_module\(\)", DeprecationWarning)
            positional = flags.FLAGS(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        hint = _similar_flag(error.flagname)
        raise UserError(f"--{error.flagname}: no such flag{hint}") from None
    except flags.Error as error:
        message = " ".join(str(error).split())
        for words, plain in NUMBER_ERRORS.items():
            message = message.replace(words, plain)
        raise UserError(message) from None
    except Exception as error:
        # All other mistakes are reported above, so the config file itself raised this.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(f"--config: the file fails with {lines[-1]}") from None
    paths.expand_flags()
    if positional and not takes_arguments:
        raise UserError(f"{positional[0]}: not a flag{config_flag.intended_flag(positional[0])}")
    return [paths.local(argument, "argument") for argument in positional]


def _similar_flag(flag: str) -> str:
    """Return '; did you mean ...?' for an unknown flag: a field without --config., or a typo."""
    if "config" in flags.FLAGS:
        for field in config_lib.fields():
            if flag in (field, field.rpartition(".")[2]):
                return f"; did you mean --config.{field}?"
    known = [name for name in flags.FLAGS if "." not in name]
    return did_you_mean(f"--{flag}", [f"--{name}" for name in known])

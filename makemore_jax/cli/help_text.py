"""--help: the docstring of a program, its flags and the fields of the config."""

import textwrap

from absl import flags

from makemore_jax import config as config_lib
from makemore_jax.cli import resources
from makemore_jax.config import Config

HELP_FLAGS = {"-h", "-help", "--help"}
MEANING_COLUMN = 36
# Fields that only one kind of model has. The classes of the models decide; --help does not import
# them, because that takes seconds.
ONLY = {
    "transformer": "activation bias tied init_scheme dtype remat",
    "mixture": "networks ngram_contexts ngram_weight",
    "window_mlp": "fuse batch_norm momentum output_norm init_scale",
}


def print_help(program_doc: str, program_flags: list[flags.Flag], config: Config | None) -> None:
    """Print the help of a program. With a `config`, its fields and values are part of it."""
    print(resources.adapt(program_doc.strip()) + "\n")
    for flag in program_flags:
        default = f" ({flag.default})" if flag.default not in (None, "", [], False) else ""
        meaning = (flag.help or "").partition(";\n    repeat this option")[0]  # absl appends it
        _print_entry(f"--{flag.name}", meaning + default)
    if config is None:
        return
    print("\nFields of the config, as --config.NAME=VALUE:")
    only = {f"model.{name}": kind for kind, s in ONLY.items() for name in s.split()}
    values = config_lib.flatten(config)
    for name, field in config_lib.fields().items():
        rule = field.metadata["rule"]
        accepted = rule.text if rule and rule.choices else config_lib.type_name(field.type)
        accepted += f", {rule.text}" if rule and not rule.choices else ""
        family = f" ({only[name]} only)" if name in only else ""
        _print_entry(f"{name}={values[name]}", f"{field.metadata['meaning']}{family} [{accepted}]")


def _print_entry(name: str, meaning: str) -> None:
    indent = " " * MEANING_COLUMN
    lines = textwrap.wrap(meaning, 100 - MEANING_COLUMN) or [""]
    width = MEANING_COLUMN - 3
    first = f"  {name:<{width}} " if len(name) <= width else f"  {name}\n{indent}"
    print(first + f"\n{indent}".join(lines))

"""The arguments of small programs that are not about a config: the lectures and `download`."""

import argparse
from typing import Any, NoReturn

from makemore_jax.cli import command_line, output, paths, resources
from makemore_jax.errors import UserError

PATHS = {"data", "out", "folder"}  # arguments that are paths


class Parser(argparse.ArgumentParser):
    """The arguments of python -m makemore_jax.MODULE. The help is the module's docstring."""

    def __init__(self, module: str, doc: str):
        super().__init__(
            prog=f"python -m makemore_jax.{module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.name = module.rpartition(".")[2]

    def parse_args(self, *arguments: Any) -> argparse.Namespace:
        """Parse the arguments, and expand ~ in paths. Also find the bundled names.txt."""
        parsed = super().parse_args(*arguments)
        for name in PATHS & vars(parsed).keys():
            try:
                path = paths.local(getattr(parsed, name), f"--{name}")
            except UserError as error:
                self.error(str(error))
            setattr(parsed, name, resources.find_names(path) if name == "data" else path)
        return parsed

    def error(self, message: str) -> NoReturn:
        output.print_error(self.name, message)  # argparse would print its usage, too
        command_line.leave(UserError.exit_code)

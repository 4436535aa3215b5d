"""The console commands `makemore-train` and `makemore-sample`: they run train.py and sample.py."""

import importlib.util
import sys

from makemore_jax.cli import interrupts, resources


def train() -> None:
    _run("train")


def sample() -> None:
    _run("sample")


def _run(name: str) -> None:
    interrupts.exit_immediately()
    spec = importlib.util.spec_from_file_location(name, resources.FOLDER / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules[name] = script  # absl assigns the flags to it
    spec.loader.exec_module(script)

    from makemore_jax.cli import command_line

    command_line.run(script.main, script.__doc__)

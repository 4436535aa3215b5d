"""The configs of configs/ by name. Each family on lines has a config of its name."""

import importlib.util
import sys
from pathlib import Path

from makemore_jax.config import Config
from makemore_jax.download import locate

CONFIGS = Path(__file__).parent.parent / "configs"


def makemore_list(program: str) -> Path:
    """Return the absolute path of makemore's list, or exit with a message of `program`."""
    path = locate("names", CONFIGS.parent / "data")
    if path is None:
        sys.exit(f"{program}: needs makemore's list: python -m makemore_jax.download names")
    return path.absolute()


def shakespeare_text(program: str) -> Path:
    """Return the absolute path of Tiny Shakespeare, or exit with a message of `program`."""
    path = locate("shakespeare", CONFIGS.parent / "data")
    if path is None:
        sys.exit(f"{program}: needs the text: python -m makemore_jax.download shakespeare")
    return path.absolute()


def config_of(name: str) -> Config:
    """Return the config of configs/NAME.py. A text comes from data/ or MAKEMORE_DATA."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.data.kind == "text":
        config.data.path = str(locate("shakespeare") or config.data.path)
    return config

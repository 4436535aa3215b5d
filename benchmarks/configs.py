"""The shipped configs by their names; those of the eight families are named as these."""

import importlib.util
from pathlib import Path

from makemore_jax.config import Config
from makemore_jax.download import locate

CONFIGS = Path(__file__).parent.parent / "configs"


def config_of(name: str) -> Config:
    """What configs/NAME.py returns; a text from data/ or MAKEMORE_DATA."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.data.kind == "text":
        config.data.path = str(locate("shakespeare") or config.data.path)
    return config

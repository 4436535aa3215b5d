"""The configs of configs/ by name. Each family on lines has a config of its name."""

import importlib.util
from pathlib import Path

from makemore_jax.config import Config
from makemore_jax.download import locate

CONFIGS = Path(__file__).parent.parent / "configs"


def config_of(name: str) -> Config:
    """Return the config of configs/NAME.py. A text comes from data/ or MAKEMORE_DATA."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.data.kind == "text":
        config.data.path = str(locate("shakespeare") or config.data.path)
    return config

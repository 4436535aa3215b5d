"""The shipped configs by the kind of their model."""

import importlib.util
from pathlib import Path

from makemore_jax.config import Config

CONFIGS = Path(__file__).parent.parent / "configs"


def config_of(kind: str) -> Config:
    """What configs/KIND.py returns."""
    spec = importlib.util.spec_from_file_location(kind, CONFIGS / f"{kind}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()

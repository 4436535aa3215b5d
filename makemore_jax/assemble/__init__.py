"""The package that imports both the core and the extensions, and puts them together.

- `components.py`: kinds of data, models, sampling, checkpoints and logging
- `programs.py`: the compiled programs of a run
- `stacked_state.py`: training steps on stacked layers, for models with a loop over layers
- `short_calls.py`: calls of a few steps, so that a slow training stops soon after a signal
- `interruptions.py`: what a training does when a signal arrives
- `training.py`: a run with all extensions
"""

from typing import Any

from makemore_jax.assemble.components import (
    create_model,
    find_data,
    load_data,
    load_language_model,
    open_checkpoints,
    open_metrics,
    open_workdir,
    read_run,
    restore_language_model,
    sample,
    validate,
)
from makemore_jax.config import Config

__all__ = [
    "create_model",
    "find_data",
    "load_data",
    "load_language_model",
    "open_checkpoints",
    "open_metrics",
    "open_workdir",
    "read_run",
    "restore_language_model",
    "sample",
    "train",
    "validate",
]


def train(config: Config, directory: str) -> dict[str, Any]:
    """Train the run of `config` in `directory`, or resume it; see `training.run.train`."""
    from makemore_jax.assemble import training  # imports orbax, which is slow

    return training.train(config, directory)

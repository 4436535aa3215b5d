"""Checkpoints with a manifest, retries, one-line errors and barriers between processes."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from makemore_jax.checkpoint import Checkpoints
from makemore_jax.errors import UserError
from makemore_jax.integrity import manifest, retries
from makemore_jax.parallel import processes


class VerifiedCheckpoints(Checkpoints):
    """`Checkpoints` for several processes, and for readers during a training."""

    def save(self, state: Any, dev_loss: float | None = None) -> bool:
        """Save a state and write its manifest. All processes call this and wait for the end."""
        if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
            # orbax writes host arrays faster: 0.07 instead of 0.14 s for the transformer on CPU.
            state = jax.device_get(state)
        is_new = super().save(state, dev_loss)
        if is_new:
            step = int(state.step)
            if processes.is_primary():
                manifest.write(self.folder / str(step))
            processes.barrier(f"checkpoint {step}")
        return is_new

    def _restore(self, name: str, items: dict[str, Any]) -> dict[str, Any]:
        return retries.retry(
            partial(self._restore_once, name, items),
            find_step=lambda: self.steps().get(name),
            is_complete=lambda step: manifest.exists(self.folder / str(step)),
        )

    def _restore_once(self, name: str, items: dict[str, Any]) -> dict[str, Any]:
        with _reporting_damage(self.folder):
            return super()._restore(name, items)

    def _read(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        with _reporting_damage(self.folder / str(step)):
            manifest.verify(self.folder / str(step))
            return super()._read(step, items)


@contextlib.contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Turn any exception into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # orbax raises many types for missing and damaged files
        raise UserError(f"{path} can't be read: {error!s:.200}") from error

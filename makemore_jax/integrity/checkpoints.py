"""Checkpoints with a manifest, retries, one-line errors and barriers between processes."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from makemore_jax.checkpoint import Checkpoints
from makemore_jax.errors import UserError
from makemore_jax.integrity import finite, manifest, retries, stranger
from makemore_jax.parallel import processes


class VerifiedCheckpoints(Checkpoints):
    """`Checkpoints` for several processes, and for readers during a training."""

    def save(self, state: Any, dev_loss: float | None = None) -> bool:
        """Save a state and write its manifest. All processes call this and wait for the end.

        Diverged, before anything is written, if a value is not finite.
        """
        if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
            # orbax writes host arrays faster: 0.07 instead of 0.14 s for the transformer on CPU.
            state = jax.device_get(state)
        finite.check(int(state.step), state)
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
            stranger.check_memory(items)
            manifest.verify(self.folder / str(step))
            self._check_shapes(step, items)
            return super()._read(step, items)

    def _check_shapes(self, step: int, items: dict[str, Any]) -> None:
        """UserError if a shape or dtype differs: orbax would silently cast, cut or pad."""
        metadata = self._manager.item_metadata(step)
        for item, tree in items.items():
            saved, needed = _shapes(metadata[item]), _shapes(tree)
            for name in sorted(saved.keys() | needed.keys()):
                if saved.get(name) != needed.get(name):
                    raise UserError(
                        f"{self.folder / str(step)}: {item} {name} was saved as "
                        f"{saved.get(name, 'nothing')}, the model needs "
                        f"{needed.get(name, 'nothing')}"
                    )


@contextlib.contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Turn any exception into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # orbax raises many types for missing and damaged files
        raise UserError(f"{path} can't be read: {error!s:.200}") from error


def _shapes(tree: Any) -> dict[str, str]:
    """Return the dtype and shape of each leaf by its path, which is the same for named tuples and
    dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{a.dtype}{list(a.shape)}"
        for path, a in leaves
    }

"""Checkpoints that are verified when they are saved and restored, by one or more processes.

A damaged checkpoint is never used: another one takes its place, and one line reports that.
"""

import math
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makemore_jax.checkpoint import METRICS, Checkpoints, read_dev_loss
from makemore_jax.cli.command_line import warn
from makemore_jax.errors import UserError
from makemore_jax.integrity import finite, manifest, untrusted
from makemore_jax.integrity.failures import StorageFailure, ignore_closed_loops
from makemore_jax.integrity.manifest import Damaged
from makemore_jax.parallel import processes

NUM_ATTEMPTS = 20
PAUSE = 0.1  # seconds between two attempts to read while a training replaces checkpoints
DAMAGED_FOLDER = "damaged"  # in the working directory


class VerifiedCheckpoints(Checkpoints):
    """`Checkpoints` that survive damage, for several processes and readers during a training.

    A training verifies all checkpoints when it starts, and moves damaged ones away. A
    reader, with `read_only`, verifies what it uses and changes nothing.
    """

    def __init__(self, workdir: str | Path, read_only: bool = False):
        super().__init__(workdir)
        self._shown = self.folder  # for messages
        self._read_only = read_only
        self._inode = _inode(self._shown.parent)
        self._intact: set[int] = set()
        self._damaged: dict[int, str] = {}  # reason by step
        self._reported: set[int] = set()
        if os.name == "posix" and re.search(r"[\\*?[\ud800-\udfff]", str(self.folder)):
            # TensorStore replaces backslashes by slashes, and takes no path with bytes that are not
            # UTF-8, which Python shows as surrogates. The other characters disable OCDBT, which
            # makes saving faster.
            self._link_folder = tempfile.TemporaryDirectory(prefix="makemore_jax-")
            link = Path(self._link_folder.name) / "workdir"
            link.symlink_to(self.folder.parent)
            self.folder = link / self.folder.name

    def save(self, state: Any, dev_loss: float | None = None) -> None:
        """Save a state with its manifest. All processes call this and wait for the end.

        Raise StorageFailure if it can't be written, Diverged if a value is not finite; then the
        previous checkpoints are unchanged.
        """
        if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(state)):
            # orbax writes host arrays faster: 0.07 instead of 0.14 s for the transformer on CPU.
            state = jax.device_get(state)
        finite.check(int(state.step), state)
        ignore_closed_loops()
        try:
            self._check_workdir()
            self._delete_partial()
            super().save(state, dev_loss)
            self._check_workdir()  # orbax may have created it again
        except Exception as error:  # orbax raises many types
            self._delete_partial()  # it may fill the disk
            if isinstance(error, UserError) or processes.has_ended(error):
                raise
            raise StorageFailure(self._shown, error) from error

    def _check_workdir(self) -> None:
        """Create the working directory of a new run.

        Raise StorageFailure if the one that this object has used was moved or deleted.
        """
        workdir = self._shown.parent
        if self._inode is None:
            workdir.mkdir(parents=True, exist_ok=True)
            self._inode = _inode(workdir)
        if _inode(workdir) != self._inode:
            raise StorageFailure(workdir, "it was moved or deleted")

    def _delete_partial(self) -> None:
        """Delete what failed saves have left."""
        if processes.is_primary():
            for folder in self.folder.glob("*.partial*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, step: int, partial: Path, items: dict[str, Any]) -> None:
        """Rename the checkpoint and delete others only if it restores to what was saved."""
        for name, saved in items.items():  # one by one, to use less memory
            if not _is_same(self._read(partial, {name: _on_host(saved)})[name], saved):
                raise StorageFailure(self._shown, f"{name} of step {step} differs when read back")
        if processes.is_primary():
            manifest.write(partial)
            self._intact.add(step)
            super()._commit(step, partial, items)
        processes.barrier(f"checkpoint {step}")

    def _dev_losses(self) -> dict[int, float]:
        """Return the dev losses of the checkpoints that are not damaged.

        Raise Damaged if there are only damaged ones.
        """
        for _ in range(NUM_ATTEMPTS):
            folders = self._step_folders()
            losses = {step: self._verified_loss(step) for step in folders}
            if self._step_folders() == folders:
                break  # no running training has replaced one in the meantime
        losses = {step: loss for step, loss in losses.items() if loss is not None}
        if self._damaged and not losses:
            step, reason = max(self._damaged.items())
            raise Damaged(
                f"{self._shown / str(step)} is damaged: {reason}; no intact checkpoint is left: "
                f"restore a copy, or delete {self._shown} to begin again"
            )
        return losses

    def _step_folders(self) -> set[int]:
        """Return the steps of the checkpoints that are not known to be damaged.

        Raise OSError if the folder can't be read: without it, a training would begin again.
        """
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(self.folder):
                raise
            names = []
        return {int(name) for name in names if name.isdecimal()} - self._damaged.keys()

    def _verified_loss(self, step: int) -> float | None:
        """Return the dev loss of a checkpoint, None if it is damaged or gone."""
        folder = self.folder / str(step)
        try:
            if step not in self._intact:
                manifest.verify(folder, only=METRICS if self._read_only else None)
                self._intact.add(step)
            if math.isnan(loss := float(read_dev_loss(folder))):
                raise ValueError("nan")
            return loss
        except Damaged as error:
            self._add_damage(step, error)
        except FileNotFoundError:
            pass  # replaced between two accesses
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            # not written by this project
            self._add_damage(step, Damaged(f"{METRICS} has no dev loss"))
        return None

    def restore_items(self, name: str, items: dict[str, Any]) -> dict[str, Any]:
        for _ in range(NUM_ATTEMPTS):
            step = self.steps().get(name)
            if step is None:
                raise UserError(f"{self._shown}: no checkpoint has been saved yet")
            try:
                restored = self._read_verified(step, items)
            except Damaged as error:
                self._add_damage(step, error)
            except Exception as error:  # orbax raises many types
                if (self.folder / str(step)).exists():
                    if isinstance(error, UserError):
                        raise
                    path = self._shown / str(step)
                    raise UserError(f"{path} can't be read: {error!s:.200}") from error
                time.sleep(PAUSE)  # a running training has replaced it
            else:
                self._report_damage(step)
                return restored
        raise UserError(f"{self._shown} changes too fast to be read")

    def _read_verified(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        folder = self.folder / str(step)
        untrusted.check_memory(items)
        manifest.verify(folder)
        self._check_shapes(folder, items)
        return self._read(folder, items)

    def _check_shapes(self, folder: Path, items: dict[str, Any]) -> None:
        """Raise UserError if a shape or dtype differs: orbax would silently cast, cut or pad."""
        metadata = self._checkpointer.metadata(folder).item_metadata
        for item, tree in items.items():
            untrusted.check_chunks(metadata[item])
            saved, needed = _shapes(metadata[item]), _shapes(tree)
            for name in sorted(saved.keys() | needed.keys()):
                if saved.get(name) != needed.get(name):
                    raise UserError(
                        f"{self._shown / folder.name}: {item} {name} was saved as "
                        f"{saved.get(name, 'nothing')}, the model needs "
                        f"{needed.get(name, 'nothing')}"
                    )

    def _add_damage(self, step: int, error: Damaged) -> None:
        """Never use this checkpoint, unless a running training has replaced it."""
        if (self.folder / str(step)).exists():
            self._damaged[step] = str(error)

    def _report_damage(self, used: int) -> None:
        """Print a line for each damaged checkpoint. A training moves it away."""
        for step in self._damaged.keys() - self._reported:
            reason, moved = self._damaged[step], ""
            if self._read_only:
                self._reported.add(step)
            else:
                del self._damaged[step]  # the step can be saved again
            if not processes.is_primary():
                continue
            if not self._read_only:
                moved = f"; its files are now in {self._move_away(step)}"
            warn(
                f"{self._shown / str(step)} is DAMAGED: {reason}; using the checkpoint of step "
                f"{used} instead{moved}"
            )

    def _move_away(self, step: int) -> Path:
        """Move a damaged checkpoint, so that its step can be saved again."""
        target = self._shown.parent / DAMAGED_FOLDER / str(step)
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        target.parent.mkdir(exist_ok=True)
        return (self.folder / str(step)).rename(target)


def _inode(folder: Path) -> int | None:
    """Return the number of a folder in its file system, None if it does not exist."""
    return folder.stat().st_ino if folder.exists() else None


def _on_host(tree: Any) -> Any:
    """Return the shapes of host arrays, with the shardings that read them into host memory."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        device = jax.local_devices()[0]
    host = jax.sharding.SingleDeviceSharding(device)

    def abstract(array: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(array, "sharding", host)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree)


def _is_same(restored: Any, saved: Any) -> bool:
    """Return whether two trees of arrays are equal bit for bit, on the devices of this process."""

    def parts(array: Any) -> list[bytes]:
        shards = array.addressable_shards if isinstance(array, jax.Array) else []
        return [np.asarray(s.data).tobytes() for s in shards] or [np.asarray(array).tobytes()]

    leaves = zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True)
    return all(parts(a) == parts(b) for a, b in leaves)


def _shapes(tree: Any) -> dict[str, str]:
    """Return the dtype and shape of each leaf by its path.

    The path is the same for named tuples and dicts.
    """
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{a.dtype}{list(a.shape)}"
        for path, a in leaves
    }

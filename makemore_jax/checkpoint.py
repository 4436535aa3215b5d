"""Save and restore train states. The only file of the core that imports orbax.

    checkpoints/500/  params, batch_stats and ngrams (if the model has them), rest, metrics

Two checkpoints are kept: the latest, and the best by dev loss. The parameters, the batch statistics
and the rest are separate items, so that sampling reads no optimizer state. A checkpoint is written
to a folder with another name and renamed when it is complete, so a killed process leaves no partial
checkpoint.
"""

import glob
import json
import logging
import math
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from makemore_jax.errors import UserError

METRICS = "metrics/metrics"  # the file in a checkpoint with its dev loss, if that was measured

# orbax logs each of its steps, and logs an error with its traceback before raising it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints of a working directory."""

    def __init__(self, workdir: str | Path):
        self.folder = Path(workdir).absolute() / "checkpoints"

    @cached_property
    def _checkpointer(self) -> ocp.Checkpointer:
        # With OCDBT, orbax reads the path as a glob pattern: in a folder "[x]" it saves no file.
        ocdbt = glob.escape(str(self.folder)) == str(self.folder)
        items = ("params", "batch_stats", "ngrams", "rest")
        handlers = {name: ocp.StandardCheckpointHandler(use_ocdbt=ocdbt) for name in items}
        handlers["metrics"] = ocp.JsonCheckpointHandler("metrics")
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))

    def steps(self) -> dict[str, int]:
        """Return the steps of the checkpoints: {"latest": 500, "best": 400}, or {} without any."""
        if not (losses := self._dev_losses()):
            return {}
        return {"latest": max(losses), "best": min(losses, key=lambda step: (losses[step], -step))}

    def best_dev_loss(self) -> float:
        """Return the dev loss of the best checkpoint, or infinity without one."""
        return min(self._dev_losses().values(), default=math.inf)

    def _dev_losses(self) -> dict[int, float]:
        """Return the dev loss of each saved step."""
        folders = [folder for folder in self.folder.glob("*") if folder.name.isdecimal()]
        return {int(folder.name): read_dev_loss(folder) for folder in folders}

    def save(self, state: Any, dev_loss: float | None = None) -> None:
        """Save a train state, with its dev loss if that was measured at this step.

        Do nothing if the step is already saved. A step that was saved without a dev loss is saved
        again if `dev_loss` is given.
        """
        step = int(state.step)
        if (self.folder / str(step) / (METRICS if dev_loss is not None else "")).exists():
            return
        items = {"rest": {"step": state.step, "opt_state": state.opt_state}, **state.variables}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        if dev_loss is not None and not math.isnan(dev_loss):
            args["metrics"] = ocp.args.JsonSave({"dev_loss": dev_loss})
        partial = self.folder / f"{step}.partial"
        self._checkpointer.save(partial, args=ocp.args.Composite(**args), force=True)
        self._commit(step, partial, items)

    def _commit(self, step: int, partial: Path, items: dict[str, Any]) -> None:
        """Rename a complete checkpoint, and delete those that it replaces.

        `items` is what was saved; `integrity` compares it with the files.
        """
        if (final := self.folder / str(step)).exists():  # it was saved without a dev loss
            final.rename(final.with_suffix(".replaced"))  # deleted with the others
        partial.rename(final)
        kept = {str(step) for step in self.steps().values()}
        for folder in self.folder.iterdir():  # includes partial checkpoints of killed processes
            if folder.name.partition(".")[0].isdecimal() and folder.name not in kept:
                # Rename first, so that no reader sees a partly deleted checkpoint.
                shutil.rmtree(folder.rename(folder.with_suffix(".partial")), ignore_errors=True)

    def restore(self, name: str, template: Any) -> Any:
        """Return the `latest` or `best` state, with the shapes, dtypes and shardings of `template`.

        Raise UserError if there is none. `integrity` also checks that shapes and dtypes agree.
        """
        rest = {"step": template.step, "opt_state": template.opt_state}
        restored = self.restore_items(name, {"rest": rest, **template.variables})
        params, rest = restored.pop("params"), restored.pop("rest")
        return template.replace(params=params, model_state=restored, **rest)

    def restore_items(self, name: str, items: dict[str, Any]) -> dict[str, Any]:
        """Return some items of a checkpoint, such as {"params": ...}. Errors as in `restore`."""
        if (step := self.steps().get(name)) is None:
            raise UserError(f"{self.folder}: no checkpoint has been saved yet")
        return self._read(self.folder / str(step), items)

    def _read(self, folder: Path, items: dict[str, Any]) -> dict[str, Any]:
        args = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in items.items()}
        return dict(self._checkpointer.restore(folder, args=ocp.args.Composite(**args)))


def read_dev_loss(folder: Path) -> float:
    """Return the dev loss of a checkpoint, infinity if it was not measured."""
    file = folder / METRICS
    return json.loads(file.read_text("utf-8"))["dev_loss"] if file.exists() else math.inf


def _abstract(tree: Any) -> Any:
    """Return shapes, dtypes and shardings; by default on the first device.

    Without a sharding, orbax would use the devices that the checkpoint was saved from.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(array: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(array, "sharding", None) or device
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree)

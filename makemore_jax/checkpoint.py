"""Save and restore train states. The only file that imports orbax.

Two checkpoints are kept: the latest, and the best by dev loss. The parameters, the batch statistics
(if the model has any) and the rest are separate items, so that sampling reads no optimizer state.
orbax renames a step to its final name after writing all of it, so a killed process leaves no
partial checkpoint.
"""

import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from makemore_jax.errors import UserError

ITEMS = ("params", "batch_stats", "rest")

# orbax logs each of its steps, and logs an error with its traceback before raising it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints of a working directory."""

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._read_only = read_only

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        # best_fn with max_to_keep=1 would delete the latest checkpoint; hence the policy.
        best = checkpoint_managers.BestN(
            get_metric_fn=_dev_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(1), best])
        options = ocp.CheckpointManagerOptions(
            best_fn=_dev_loss,
            best_mode="min",
            preservation_policy=policy,
            enable_async_checkpointing=False,
            create=not self._read_only,
            read_only=self._read_only,
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ITEMS}
        return ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def steps(self) -> dict[str, int]:
        """Return the steps of the checkpoints: {"latest": 500, "best": 400}, or {} without any."""
        self._manager.reload()
        latest, best = self._manager.latest_step(), self._manager.best_step()
        if latest is None:
            return {}
        return {"latest": latest, "best": latest if best is None else best}

    def best_dev_loss(self) -> float:
        """Return the dev loss of the best checkpoint, or infinity without one."""
        steps = self.steps()
        metrics = self._manager.metrics(steps["best"]) if steps else None
        return _dev_loss(metrics) if metrics else math.inf

    def save(self, state: Any, dev_loss: float | None = None) -> bool:
        """Save a train state, with its dev loss if that was measured at this step.

        Return False, without writing, if the step is saved already.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return False
        items = {"rest": {"step": state.step, "opt_state": state.opt_state}, **state.variables}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        # orbax would take NaN for the best metric.
        metrics = None if dev_loss is None or math.isnan(dev_loss) else {"dev_loss": dev_loss}
        self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)
        self._manager.wait_until_finished()
        return True

    def restore(self, name: str, template: Any) -> Any:
        """Return the `latest` or `best` state, with the shapes, dtypes and shardings of `template`.

        UserError if there is none. `integrity` also checks that shapes and dtypes agree.
        """
        rest = {"step": template.step, "opt_state": template.opt_state}
        restored = self._restore(name, {"rest": rest, **template.variables})
        params, rest = restored.pop("params"), restored.pop("rest")
        return template.replace(params=params, model_state=restored, **rest)

    def restore_variables(self, name: str, template: dict[str, Any]) -> dict[str, Any]:
        """Return only the variables of a model: {"params": ...}. Errors as in `restore`."""
        return self._restore(name, template)

    def _restore(self, name: str, items: dict[str, Any]) -> dict[str, Any]:
        step = self.steps().get(name)
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint has been saved yet")
        return self._read(step, items)

    def _read(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        args = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in items.items()}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**args)))


def _dev_loss(metrics: dict[str, float]) -> float:
    return metrics["dev_loss"]


def _abstract(tree: Any) -> Any:
    """Return shapes, dtypes and shardings; by default on the first device.

    Without a sharding, orbax would use the devices that the checkpoint was saved from.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(array: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(array, "sharding", None) or device
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree)

"""Saving and restoring a train state. The only file that knows orbax.

Kept are the latest state and the best by dev loss. Parameters, batch statistics where there are
any, and the rest are separate items, so that sampling does not read the optimizer's. orbax writes
a step under another name and renames it when it is whole, so a killed process leaves no half of
one. What it lacks is a checksum over the arrays: a manifest of hashes is laid beside them and
checked on the way back.
"""

import hashlib
import json
import logging
import math
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as keep

from makemore_jax.errors import UserError
from makemore_jax.parallel import processes

MANIFEST = "manifest.json"
ITEMS = ("params", "batch_stats", "rest")
RETRIES = 20  # of a reader under whose hands a running training deletes what it has replaced,
PAUSE = 0.1  # with so many seconds between them

# orbax logs each of its steps, and an error with its traceback before it raises it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints of one working directory, for writing or for reading alone."""

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._read_only = read_only

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made when it is needed: it reads the folder, which a reader may have to try again."""
        # best_fn alone, with max_to_keep=1, would delete the latest; hence the policy.
        options = ocp.CheckpointManagerOptions(
            best_fn=_dev_loss,
            best_mode="min",
            preservation_policy=keep.AnyPreservationPolicy(
                [
                    keep.LatestN(1),
                    keep.BestN(
                        get_metric_fn=_dev_loss,
                        reverse=True,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            enable_async_checkpointing=False,
            create=not self._read_only,
            read_only=self._read_only,
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ITEMS}
        return ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def steps(self) -> dict[str, int]:
        """The steps of the checkpoints that there are: {"latest": 500, "best": 400} or {}."""
        self._manager.reload()
        latest, best = self._manager.latest_step(), self._manager.best_step()
        if latest is None:
            return {}
        return {"latest": latest, "best": latest if best is None else best}

    def best_dev_loss(self) -> float:
        """The dev loss of the best checkpoint, infinite where there is none."""
        steps = self.steps()
        metrics = self._manager.metrics(steps["best"]) if steps else None
        return _dev_loss(metrics) if metrics else math.inf

    def save(self, state: Any, dev_loss: float | None = None) -> None:
        """Save a state. With its dev loss, where that was measured at this step."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
            # orbax writes host arrays in half the time: 0.07 s, not 0.14
            state = jax.device_get(state)
        items = ocp.args.Composite(
            rest=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            **{name: ocp.args.StandardSave(tree) for name, tree in state.variables.items()},
        )
        # A NaN would count as the best there is.
        metrics = None if dev_loss is None or math.isnan(dev_loss) else {"dev_loss": dev_loss}
        self._manager.save(step, args=items, metrics=metrics)
        self._manager.wait_until_finished()
        if processes.is_first():
            folder = self.folder / str(step)
            partial = folder / f"{MANIFEST}.partial"
            partial.write_text(json.dumps(_hashes(folder), indent=1), "utf-8")
            partial.replace(folder / MANIFEST)
        processes.wait(f"checkpoint {step}")

    def restore(self, which: str, like: Any) -> Any:
        """The `latest` or `best` state, with the shapes, dtypes and shardings of `like`.

        UserError if there is none, or if it is damaged or of another shape.
        """
        rest = {"step": like.step, "opt_state": like.opt_state}
        restored = dict(self._restore(which, rest=rest, **like.variables))
        params, rest = restored.pop("params"), restored.pop("rest")
        return like.replace(params=params, model_state=restored, **rest)

    def restore_variables(self, which: str, like: dict[str, Any]) -> dict[str, Any]:
        """What a model is applied to, and nothing else, likewise."""
        return dict(self._restore(which, **like))

    def _restore(self, which: str, **items: Any) -> ocp.args.Composite:
        for attempt in range(1, RETRIES + 1):
            step = None
            try:
                step = self.steps().get(which)
                if step is None:
                    break
                self._check_hashes(self.folder / str(step))
                self._check_shapes(step, items)
                wanted = {k: ocp.args.StandardRestore(_abstract(v)) for k, v in items.items()}
                return self._manager.restore(step, args=ocp.args.Composite(**wanted))
            # Files that vanish make orbax fail in many ways. What fails and stays is damaged.
            except Exception as error:
                if attempt < RETRIES and not self._is_settled(step):
                    continue
                if isinstance(error, UserError):
                    raise
                where = self.folder if step is None else self.folder / str(step)
                raise UserError(f"{where} can't be read: {error!s:.200}") from error
        raise UserError(f"{self.folder}: no checkpoint has been saved yet")

    def _is_settled(self, step: int | None) -> bool:
        """Whether a step is still wanted a little later: no running training is deleting it."""
        time.sleep(PAUSE)
        try:
            return step in self.steps().values() and (self.folder / str(step) / MANIFEST).exists()
        except Exception:  # the folder changes while it is read
            return False

    def _check_hashes(self, folder: Path) -> None:
        if not (folder / MANIFEST).exists():
            return  # killed between orbax's rename, after which the step is whole, and the manifest
        for name, known in json.loads((folder / MANIFEST).read_text("utf-8")).items():
            if _hash(folder / name) != known:
                raise UserError(
                    f"{folder / name} is damaged: its sha256 is not that of its manifest; "
                    f"delete {folder} to use an earlier checkpoint, if there is one"
                )

    def _check_shapes(self, step: int, items: dict[str, Any]) -> None:
        """orbax casts another dtype and cuts or pads another shape without a word."""
        saved = self._manager.item_metadata(step)
        for item, tree in items.items():
            here = _leaves(tree)
            there = _leaves(saved[item])
            for name in sorted(here.keys() | there.keys()):
                if here.get(name) != there.get(name):
                    raise UserError(
                        f"{self.folder / str(step)}: {item} {name} was saved as "
                        f"{there.get(name, 'nothing')}, the model needs {here.get(name, 'nothing')}"
                    )


def _dev_loss(metrics: dict[str, float]) -> float:
    return metrics["dev_loss"]


def _abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings. One device, where none is given: orbax would take the saved."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape, a.dtype, sharding=getattr(a, "sharding", None) or here
        ),
        tree,
    )


def _leaves(tree: Any) -> dict[str, str]:
    """The shape and dtype of each leaf by its path, which namedtuples and dicts have alike."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{a.dtype}{list(a.shape)}"
        for path, a in leaves
    }


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    """The hash of every file of a checkpoint by its name."""
    return {
        file.relative_to(folder).as_posix(): _hash(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(MANIFEST)
    }

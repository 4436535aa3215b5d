"""Store the results of finished groups until the whole sweep is finished."""

import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makemore_jax.config import Config, flatten
from makemore_jax.data_folder import find
from makemore_jax.integrity.runs import reporting_errors
from makemore_jax.npz import read_npz
from makemore_jax.sweep.axes import with_values
from makemore_jax.sweep.results import Result, TrainedRun
from makemore_jax.text.token_file import hash_text
from makemore_jax.training.state import TrainState
from makemore_jax.versions import versions


class FinishedGroups:
    """Store the results of each group in a file of `folder`/finished.

    The name of a file is a hash of the group's config, members, data file and library versions. If
    one of them changes, the group is trained again.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "finished"

    def create_folder(self) -> None:
        """Create the folder. Raise UserError if no file can be written there."""
        with reporting_errors(self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()

    def describe(self) -> str:
        """Return one line about what an interrupted sweep keeps."""
        num = len(list(self.folder.glob("*.npz")))
        if not num:
            return "stopped in the first group"
        kept = f"{num} finished group{'' if num == 1 else 's'} kept in {self.folder}"
        return f"{kept}; run the same command to resume"

    def load(
        self, config: Config, members: list[dict[str, Any]], template: TrainState
    ) -> list[Result] | None:
        """Return the results of a group, or None if it is not finished or can't be read.

        `template` has the shapes and dtypes of the runs' states.
        """
        try:
            arrays = read_npz(self._file(config, members))
            states = {
                name: _unflatten(name, arrays, template)
                for name in ("best", "last")
                if f"{name}0" in arrays
            }
            return [_from_json(fields, states) for fields in json.loads(arrays["results"].item())]
        except (OSError, ValueError, LookupError, TypeError, RecursionError, zipfile.BadZipFile):
            return None

    def save(self, config: Config, members: list[dict[str, Any]], results: list[Result]) -> None:
        """Store the results of a finished group."""
        arrays = {"results": np.array(json.dumps([_to_json(result) for result in results]))}
        for trained in (result.trained for result in results if result.trained):
            arrays |= _flatten("best", trained.best) | _flatten("last", trained.last)
        file = self._file(config, members)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            np.savez(out, **arrays)
        partial.replace(file)

    def delete(self) -> None:
        """Delete all files. Call this when the sweep has written its results."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, config: Config, members: list[dict[str, Any]]) -> Path:
        path = find(with_values(config, members[0]).data.path)
        content = [flatten(config), members, hash_text(path), versions()]
        group = json.dumps(content, sort_keys=True)
        return self.folder / f"{hashlib.sha256(group.encode()).hexdigest()[:16]}.npz"


def _to_json(result: Result) -> dict[str, Any]:
    """Return a result without the states of its run, which are arrays."""
    trained = result.trained and result.trained._replace(best=None, last=None)._asdict()
    return result._asdict() | {"trained": trained}


def _from_json(fields: dict[str, Any], states: dict[str, TrainState]) -> Result:
    trained = fields["trained"]
    return Result(**fields | {"trained": trained and TrainedRun(**trained | states)})


def _flatten(name: str, state: TrainState) -> dict[str, np.ndarray]:
    return {f"{name}{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def _unflatten(name: str, arrays: dict[str, np.ndarray], template: TrainState) -> TrainState:
    """Return a state. Raise KeyError or ValueError if an array is missing or has another shape."""
    shapes, structure = jax.tree.flatten(template)
    leaves = [arrays[f"{name}{i}"] for i in range(len(shapes))]
    for leaf, shape in zip(leaves, shapes, strict=True):
        if (leaf.shape, leaf.dtype) != (shape.shape, shape.dtype):
            raise ValueError(f"{name} has an array {leaf.dtype}{list(leaf.shape)}")
    return jax.tree.unflatten(structure, leaves)

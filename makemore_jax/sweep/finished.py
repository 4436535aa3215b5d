"""Store the results of finished groups until the whole sweep is finished."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from makemore_jax.config import Config, flatten
from makemore_jax.versions import versions


class FinishedGroups:
    """Store the results of each group in a file of `folder`/finished.

    The name of a file is a hash of the group's config, members, data file and library versions. If
    one of them changes, the group is trained again. The files are pickles, so use a trusted folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "finished"

    def load(self, config: Config, members: list[dict[str, Any]]) -> list[Any] | None:
        """Return the results of a group, or None if it is not finished or can't be read."""
        try:
            return pickle.loads(self._file(config, members).read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError):
            return None

    def save(self, config: Config, members: list[dict[str, Any]], results: list[Any]) -> None:
        """Store the results of a finished group."""
        file = self._file(config, members)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(results))
        partial.replace(file)

    def delete(self) -> None:
        """Delete all files. Call this when the sweep has written its results."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, config: Config, members: list[dict[str, Any]]) -> Path:
        with open(config.data.path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        group = json.dumps([flatten(config), members, sha256, versions()], sort_keys=True)
        return self.folder / f"{hashlib.sha256(group.encode()).hexdigest()[:16]}.pickle"

"""The manifest of a checkpoint: the SHA-256 of each of its files, verified when it is restored."""

import hashlib
import json
from pathlib import Path

from makemore_jax.errors import UserError

NAME = "manifest.json"


def exists(folder: Path) -> bool:
    """Return whether the checkpoint in `folder` has a manifest."""
    return (folder / NAME).exists()


def write(folder: Path) -> None:
    """Hash the files of a complete checkpoint and write the manifest."""
    hashes = {
        file.relative_to(folder).as_posix(): _hash(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(NAME)
    }
    partial = folder / f"{NAME}.partial"
    partial.write_text(json.dumps(hashes, indent=1), "utf-8")
    partial.replace(folder / NAME)


def verify(folder: Path) -> None:
    """UserError if a file differs from the manifest."""
    if not exists(folder):
        return  # the training was killed after the commit, before the manifest was written
    for name, expected in json.loads((folder / NAME).read_text("utf-8")).items():
        if _hash(folder / name) != expected:
            raise UserError(
                f"{folder / name} is damaged: its sha256 is not that of its manifest; "
                f"delete {folder} to use an earlier checkpoint, if there is one"
            )


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

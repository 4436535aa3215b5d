"""The manifest of a checkpoint: the SHA-256 of each of its files, verified when it is restored.

It is written before the checkpoint gets its name, so a checkpoint without one is damaged.
"""

import json
import os
from pathlib import Path

from makemore_jax.errors import UserError
from makemore_jax.integrity.untrusted import check_json
from makemore_jax.text.token_file import hash_file

NAME = "manifest.json"


class Damaged(UserError):
    """The files of a checkpoint are not those that were saved."""


def write(folder: Path) -> None:
    """Hash the files of a complete checkpoint and write the manifest."""
    hashes = {
        file.relative_to(folder).as_posix(): hash_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != NAME
    }
    (folder / NAME).write_text(json.dumps(hashes, indent=1), "utf-8")


def verify(folder: Path, only: str | None = None) -> None:
    """Raise Damaged if a file differs from the manifest. `only` names one file to verify."""
    try:
        if (folder / NAME).exists():
            check_json(folder / NAME)
        hashes = dict(json.loads((folder / NAME).read_text("utf-8")))
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing") from None
    except (OSError, ValueError, TypeError, RecursionError):
        raise Damaged(f"{NAME} can't be read") from None
    if only and only not in hashes and (folder / only).exists():
        raise Damaged(f"{only} is not in its manifest")
    for name in hashes if only is None else hashes.keys() & {only}:
        file = folder / name
        is_outside = Path(name).is_absolute() or ".." in Path(name).parts
        if is_outside or (os.path.exists(file) and not os.path.isfile(file)):  # such as /dev/zero
            raise Damaged(f"{name} in its manifest is not a file of the checkpoint")
        try:
            is_same = hash_file(file) == hashes[name]
        except OSError as error:
            raise Damaged(f"{name} can't be read: {error.strerror}") from None
        except ValueError:
            raise Damaged(f"{name!r} in its manifest is not a file name") from None
        if not is_same:
            raise Damaged(f"the sha256 of {name} is not that of its manifest")

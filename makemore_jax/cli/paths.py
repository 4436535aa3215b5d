"""Paths that a user gives: ~ is expanded, and addresses such as gs://bucket/run are refused."""

import os
import re

from absl import flags

from makemore_jax.errors import UserError

COPY_COMMANDS = {"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive"}
# All flags, of all programs, whose value is a path.
FLAGS = ("workdir", "out", "score", "data", "meta", "doc", "html", "markdown")


def expand_flags() -> None:
    """Apply `local` to the values of all path flags."""
    for name in FLAGS:
        if name not in flags.FLAGS or (value := flags.FLAGS[name].value) is None:
            continue
        if isinstance(value, list):
            flags.FLAGS[name].value = [local(path, f"--{name}") for path in value]
        else:
            flags.FLAGS[name].value = local(value, f"--{name}")


def local(path: str, name: str = "--workdir") -> str:
    """Return a path with ~ expanded.

    Raise UserError, which starts with `name`, for an address or a path that is empty or too long.
    """
    if not path:
        raise UserError(f"{name}: is empty")
    check_address(path, name)
    path = os.path.expanduser(path)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {path}: {getattr(error, 'strerror', error)}") from None
    return path


def check_address(path: str, name: str) -> None:
    """Raise UserError, which starts with `name`, for an address such as gs://bucket/run."""
    if match := re.match(r"([a-zA-Z][\w.+-]*)://", path):
        copy = COPY_COMMANDS.get(match[1], "a program of its service")
        advice = f"give a local path and copy with {copy}, or mount it and give its folder"
        if match[1] == "file":
            advice = f"give {path[match.end() :] or 'a path'}"
        raise UserError(f"{name}: {path} is an address, not a local path; {advice}")

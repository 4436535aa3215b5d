"""Paths that a user gives: ~ is expanded, and addresses such as gs://bucket/run are refused."""

import os
import re

from absl import flags

from makemore_jax.errors import UserError

# The flags of all programs that take a path.
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

    UserError, which starts with `name`, for an address or for a path that is too long.
    """
    if match := re.match(r"(\w+)://", path):
        advice = "mount the bucket and give its folder, or copy the run there afterwards"
        if match[1] == "file":
            advice = f"give {path[match.end() :] or 'a path'}"
        raise UserError(f"{name}: {path} is an address, not a local folder; {advice}")
    path = os.path.expanduser(path)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {path}: {getattr(error, 'strerror', error)}") from None
    return path

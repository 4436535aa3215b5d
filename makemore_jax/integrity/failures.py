"""Failures to write into the working directory during a training, as one line."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from makemore_jax.errors import UserError

# Not EPIPE: a closed pipe is stdout.
ERRNOS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOENT", "EIO", "ESTALE")
    if hasattr(errno, name)
}


class StorageFailure(UserError):
    """The working directory can't be written. The command was valid, so the exit code is 1."""

    exit_code = 1

    def __init__(self, path: Path, reason: Exception | str):
        reason = _describe(reason) if isinstance(reason, Exception) else reason
        super().__init__(
            f"{path} can't be written: {reason}; the checkpoints saved before are unchanged, and "
            "the same command resumes from them"
        )


@contextlib.contextmanager
def reporting_storage_failures(folder: Path) -> Iterator[None]:
    """Turn the OSErrors of writing into a working directory into a StorageFailure."""
    try:
        yield
    except OSError as error:
        is_inside = error.filename is None or _is_in(os.fsdecode(error.filename), folder)
        if error.errno in ERRNOS and is_inside:
            raise StorageFailure(folder, error) from error
        raise


def ignore_closed_loops() -> None:
    """Print no traceback for each array that TensorStore could not write.

    Its threads call back into an event loop that orbax has closed after the first error.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    if not hasattr(previous, "ignores_closed_loops"):
        hook.ignores_closed_loops = True
        sys.unraisablehook = hook


def _is_in(file: str, folder: Path) -> bool:
    return Path(file).absolute().is_relative_to(folder.absolute())


def _describe(error: Exception) -> str:
    """Return the reason in the words of the operating system, which other errors may quote."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    for number in ERRNOS:
        if re.search(rf"\b{re.escape(os.strerror(number))}\b", text):
            return os.strerror(number)
    if "directory does not exist" in text:  # orbax
        return "it was moved or deleted"
    return text[:200]

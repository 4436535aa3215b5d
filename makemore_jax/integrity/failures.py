"""Failures to write into the working directory during a training, as one line."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

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
            f"{path} can't be written: {reason}; free space or repair the folder and run the same "
            "command again; checkpoints saved before are unchanged"
        )


@contextlib.contextmanager
def reporting_storage_failures(folder: Path) -> Iterator[None]:
    """Turn the OSErrors of writing into a working directory into a StorageFailure."""
    try:
        yield
    except OSError as error:
        if error.errno in ERRNOS:
            raise StorageFailure(folder, error) from error
        raise


def _describe(error: Exception) -> str:
    """Return what the operating system says; other libraries quote it within long messages."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    for number in ERRNOS:
        if re.search(rf"\b{re.escape(os.strerror(number))}\b", text):
            return os.strerror(number)
    return text[:200]

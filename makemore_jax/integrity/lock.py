"""The lock of a working directory: one training at a time."""

from pathlib import Path
from typing import TextIO

from makemore_jax.errors import UserError
from makemore_jax.integrity.runs import reporting_errors


def lock(workdir: Path) -> TextIO:
    """Create and lock a working directory, until the returned file is closed or the process ends.

    UserError if another training has locked it, or if it can't be written.
    """
    with reporting_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w", encoding="utf-8")
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError):  # the first on POSIX, the second on Windows
            file.close()
            raise UserError(f"--workdir: {workdir} is in use by another training") from None
    return file


def _lock_file(file: TextIO) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

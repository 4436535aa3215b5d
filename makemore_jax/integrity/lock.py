"""The lock of a working directory: one training at a time.

On a file system with locks, the lock ends with its process. On others, such as some Lustre and NFS
mounts, a file names the host and the process that own the directory.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from makemore_jax.errors import UserError
from makemore_jax.integrity.runs import reporting_errors


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Create a working directory and own it within the block.

    Raise UserError if another training owns it, or if it can't be written.
    """
    with contextlib.ExitStack() as stack:
        with reporting_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((workdir / ".lock").open("w", encoding="utf-8"))
            try:
                _lock_file(file)
            except (BlockingIOError, PermissionError):  # the first on POSIX, the second on Windows
                raise _in_use(workdir, workdir / ".owner") from None
            except OSError:  # no locks here; file systems return many different errors
                _create_owner_file(workdir)
            else:
                (workdir / ".owner").write_text(_this_process(), "utf-8")
            stack.callback(_remove, workdir / ".owner")
        yield


def _lock_file(file: TextIO) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _create_owner_file(workdir: Path) -> None:
    """Own a directory whose file system has no locks. Raise UserError if a live process owns it."""
    owner = workdir / ".owner"
    for _ in range(2):
        try:
            with owner.open("x", encoding="utf-8") as file:
                file.write(_this_process())
            return
        except FileExistsError:
            if not _remove_if_ended(owner):
                break
    raise UserError(f"{_in_use(workdir, owner)}; if that process has ended, delete {owner}")


def _remove_if_ended(owner: Path) -> bool:
    """Remove an owner file if its process has ended. Return whether it is gone.

    The file is renamed first: another starting training may have replaced it since it was read.
    """
    if not _has_ended(owner):
        return False
    aside = owner.with_name(f"{owner.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        owner.rename(aside)
        if not _has_ended(aside):
            aside.rename(owner)
            return False
        aside.unlink()
    return True


def _has_ended(owner: Path) -> bool:
    """Return whether an owner file names a process of this host that has ended."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no process wrote the file
        host, _, process = owner.read_text("utf-8").rpartition(" ")
        number, _, start = process.partition("/")
        return host == socket.gethostname() and start != _start_time(number)
    return False


def _this_process() -> str:
    """Return "HOST PROCESS/START": a later process may get the same number."""
    number = str(os.getpid())
    return f"{socket.gethostname()} {number}/{_start_time(number)}"


def _start_time(process: str) -> str:
    """Return when a process of this host started, in ticks since boot; "" if it has ended.

    Systems without /proc do not give this time: a live process there returns "running".
    """
    if not os.path.isdir("/proc/self"):
        return "running" if _is_running(int(process)) else ""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _in_use(workdir: Path, owner: Path) -> UserError:
    try:
        host, _, process = owner.read_text("utf-8").rpartition(" ")
        who = f": process {process.partition('/')[0]} on {host}"
    except (OSError, ValueError):
        who = ""
    return UserError(f"--workdir: {workdir} is in use by another training{who}")


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()

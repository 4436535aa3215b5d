"""Training in several processes, each with its own devices.

All processes run the same program on the same data and compute the same Python values. Arrays are
sharded over the devices of all processes. Only the primary process, number 0, writes logs. All
write checkpoints.
"""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np

from makemore_jax.cli.resources import program_name
from makemore_jax.errors import Stopped, UserError

PROGRAM = program_name()  # starts every message
CONNECT_TIMEOUT = 60  # seconds until all processes must be connected
HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
POLL = 0.5  # seconds between two attempts to connect
EXIT_DELAY = 5  # seconds for the other processes to report their own error
RESUME_HINT = (
    "start all processes again, with any number of them, to resume from the last checkpoint"
)

# jax aborts a process when it detects that another process has died, possibly before Python can
# print anything. A child process therefore prints the message: it reads from a pipe until the
# parent dismisses it or ends.
WATCHER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if not sys.stdin.read():
    print(sys.argv[1], file=sys.stderr)
"""


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect to the other processes.

    Raise UserError if that fails. Call this before using devices.

    `coordinator` is the host:port at which the primary process listens. If all arguments are None,
    jax gets them from the cluster that started this process.
    """
    flags = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    is_cluster = all(value is None for value in flags.values())
    if not is_cluster:
        _check_flags(flags)
        if process_id > 0:
            host, _, port = coordinator.rpartition(":")
            _wait_for_primary(host, int(port))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    timeouts = {"initialization_timeout": CONNECT_TIMEOUT, "heartbeat_timeout_seconds": HEARTBEAT}
    failure = f"--coordinator: not all of {num_processes} processes connected to {coordinator}"
    watcher = _start_watcher(f"{PROGRAM}: {failure}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, **timeouts)
        _dismiss(watcher)
    except Exception as error:  # jax raises many types here
        _dismiss(watcher)
        reason = _first_line(error)
        if is_cluster:
            raise UserError(
                f"--distributed: jax finds no cluster here ({reason}); pass {', '.join(flags)}"
            ) from None
        _print_error(f"{PROGRAM}: {failure}: {reason}")
        os._exit(2)


def _check_flags(flags: dict[str, str | int | None]) -> None:
    """Raise UserError if a flag is missing or not valid."""
    missing = [name for name, value in flags.items() if value is None]
    if missing:
        raise UserError(f"{missing[0]}: is missing; use {', '.join(flags)} together")
    coordinator, num_processes, process_id = flags.values()
    if num_processes < 1:
        raise UserError(f"--num_processes: {num_processes} must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id: {process_id} must be from 0 to --num_processes - 1 = "
            f"{num_processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator: {coordinator!r} is not host:port, such as 10.0.0.1:1234")


def _wait_for_primary(host: str, port: int) -> None:
    """Wait until the primary process listens. Raise UserError if it can't be reached.

    jax's own client may abort the process when the connection fails, without an exception.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            socket.create_connection((host, port), timeout=POLL).close()
            return
        except OSError as error:
            if time.monotonic() > deadline or isinstance(error, socket.gaierror):
                raise UserError(
                    f"--coordinator: {host}:{port} can't be reached: {error.strerror or error}"
                ) from None
        time.sleep(POLL)


def is_primary() -> bool:
    """Return whether this is the process that writes logs."""
    return jax.process_index() == 0


def is_distributed() -> bool:
    """Return whether there is more than one process."""
    return jax.process_count() > 1


def barrier(name: str) -> None:
    """Wait for all processes. The name must be the same in all of them."""
    if is_distributed():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def all_max(number: int) -> int:
    """Return the maximum of a number over all processes."""
    if not is_distributed():
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(name: str, value: object) -> None:
    """Raise UserError if the processes have different values. They compare hashes of `repr`."""
    if not is_distributed():
        return
    digest = int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:3])
    if all_max(digest) != -all_max(-digest):
        raise UserError(f"the processes have different {name}; start all with the same command")


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Return the sum of a float64 array (n, ...) over all processes, in every process."""
    if not is_distributed():
        return values
    from jax.experimental import multihost_utils

    # jax would round float64 to float32, so the bits are gathered as integers.
    bits = multihost_utils.process_allgather(values.view(np.uint32))
    return np.ascontiguousarray(bits).view(np.float64).sum(axis=0)


def has_ended(error: Exception) -> bool:
    """Return whether an error says that another process has ended or can't be reached."""
    is_from_jax = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return is_distributed() and is_from_jax


@contextlib.contextmanager
def exit_together() -> Iterator[None]:
    """Run the block. If it fails in this or another process, exit at once with one line.

    A normal exit would wait for the other processes, which wait for this one.
    """
    if not is_distributed():
        yield
        return
    name = f"{PROGRAM}: process {jax.process_index()} of {jax.process_count()}"
    watcher = _start_watcher(
        f"{name}: was ended by a signal, or by jax because another process ended; {RESUME_HINT}"
    )
    try:
        yield
        _dismiss(watcher)
    except (SystemExit, Stopped):
        _dismiss(watcher)
        raise
    except UserError as error:
        _print_error(f"{PROGRAM}: {error}")
        _dismiss(watcher)
        if is_primary():  # jax ends the other processes when the primary one ends
            time.sleep(EXIT_DELAY)
        os._exit(error.exit_code)
    except Exception as error:
        message = _first_line(error)
        if has_ended(error):
            reason = "another process has ended or can't be reached"
            message = f"{reason}; {RESUME_HINT} ({message:.120})"
        else:
            traceback.print_exc()
        _print_error(f"{name}: {message}")
        _dismiss(watcher)  # only after the message: jax may end this process at any moment
        os._exit(1)


def _start_watcher(message: str) -> subprocess.Popen:
    """Start the child process that prints `message` if this process ends before `_dismiss`."""
    return subprocess.Popen([sys.executable, "-c", WATCHER, message], stdin=subprocess.PIPE)


def _dismiss(watcher: subprocess.Popen) -> None:
    """End the child process without its message."""
    watcher.communicate(b"dismissed")


def _first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _print_error(message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)

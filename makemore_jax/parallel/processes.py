"""More than one process, each with its own devices: how they meet, who writes, how they end.

All run the same program on the same data and hold the same Python values; arrays are spread over
the devices of all. The first alone writes logs, all write checkpoints.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from makemore_jax.errors import Stopped, UserError

PROGRAM = Path(sys.argv[0]).name  # starts every message, as in command_line.run
PATIENCE = 60  # seconds in which all must have come
HEARTBEAT = 30  # seconds without a word after which a process is taken for dead
POLL = 0.5
GRACE = 5  # seconds in which the others may say what keeps them from going on as well
GO_ON = "start them all again, as many as you like, and they go on from the last checkpoint"

# jax aborts a process from within when it hears that another has died, perhaps before Python can
# say anything. So this is said by a child, which reads until its parent says farewell or is gone.
WATCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if not sys.stdin.read():
    print(sys.argv[1], file=sys.stderr)
"""


def meet(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes, before jax looks for devices. UserError if they can't be reached.

    Without arguments jax finds out from the cluster that has started it. `coordinator` is the
    host:port at which the first process, number 0, listens.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise UserError(f"{missing[0]}: is missing; all of {', '.join(given)} go together")
    if not missing:
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id: {process_id} must be from 0 to --num_processes - 1 = "
                f"{num_processes - 1}"
            )
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator: {coordinator!r} is not host:port, as 10.0.0.1:1234")
        if process_id > 0:
            _wait_for(host, int(port))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    timeouts = {"initialization_timeout": PATIENCE, "heartbeat_timeout_seconds": HEARTBEAT}
    came = f"--coordinator: not all of {num_processes} processes came to {coordinator}"
    watcher = _watch(f"{PROGRAM}: {came}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, **timeouts)
        _farewell(watcher)
    except Exception as error:  # jax raises many kinds here
        _farewell(watcher)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if missing:
            raise UserError(
                f"--distributed: jax finds no cluster here ({reason}); give {', '.join(given)}"
            ) from None
        _say(f"{PROGRAM}: {came}: {reason}")
        os._exit(2)


def _wait_for(host: str, port: int) -> None:
    """Until the first process listens. Asked here, as jax's own client may abort the process."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, port), timeout=POLL).close()
            return
        except OSError as error:
            if time.monotonic() > last or isinstance(error, socket.gaierror):
                raise UserError(
                    f"--coordinator: {host}:{port} can't be reached: {error.strerror or error}"
                ) from None
        time.sleep(POLL)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def are_many() -> bool:
    """Whether there are others."""
    return jax.process_count() > 1


def wait(where: str) -> None:
    """Until all processes have come here."""
    if are_many():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if not are_many():
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(number)).max())


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of a float64 array (n, ...) over all processes, the same in each of them."""
    if not are_many():
        return values
    from jax.experimental import multihost_utils

    # jax would round float64 to float32, so the bits travel as integers.
    bits = multihost_utils.process_allgather(values.view(np.uint32))
    return np.ascontiguousarray(bits).view(np.float64).sum(axis=0)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End this process at once, with one line, when it or another one can't go on.

    An ordinary exit would wait for the others, who wait for this one.
    """
    if not are_many():
        yield
        return
    name = f"{PROGRAM}: process {jax.process_index()} of {jax.process_count()}"
    gone = f"{name}: was ended by a signal, or by jax because another one has ended; {GO_ON}"
    watcher = _watch(gone)
    try:
        yield
        _farewell(watcher)
    except (SystemExit, Stopped):
        _farewell(watcher)
        raise
    except UserError as error:
        _say(f"{PROGRAM}: {error}")
        _farewell(watcher)
        if is_first():  # the others hear of each other through it, and jax ends them without it
            time.sleep(GRACE)
        os._exit(error.exit_code)
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):
            traceback.print_exc()
            message = lines[0]
        else:
            message = f"another one has ended or can't be reached; {GO_ON} ({lines[0]:.120})"
        _say(f"{name}: {message}")
        _farewell(watcher)  # when all is said: jax may end this process at any moment
        os._exit(1)


def _watch(message: str) -> subprocess.Popen:
    """The child that says this when the process ends before `_farewell`."""
    return subprocess.Popen([sys.executable, "-c", WATCH, message], stdin=subprocess.PIPE)


def _farewell(watcher: subprocess.Popen) -> None:
    watcher.communicate(b"farewell")


def _say(message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)

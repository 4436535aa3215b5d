"""The flags of a training in multiple processes."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

from makemore_jax.cli import out_of_memory
from makemore_jax.errors import UserError

flags.disclaim_key_flags()  # they are flags of the program that calls `define`


def define() -> None:
    """Define the flags."""
    flags.DEFINE_bool(
        "distributed", False, "train in multiple processes; JAX detects most clusters by itself"
    )
    flags.DEFINE_string("coordinator", None, "host:port of the first process")
    flags.DEFINE_integer("num_processes", None, "number of processes")
    flags.DEFINE_integer("process_id", None, "index of this process, from 0")


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect to the other processes if there are any, and exit together with them."""
    from makemore_jax.cli import startup
    from makemore_jax.parallel import processes

    values = flags.FLAGS
    if values.distributed:
        processes.initialize(values.coordinator, values.num_processes, values.process_id)
    else:
        for name in ("coordinator", "num_processes", "process_id"):
            if values[name].value is not None:
                raise UserError(f"--{name}: needs --distributed")
    if processes.is_primary():
        startup.announce_compiling(sys.stdout)
    # `reporting` is inside, or `exit_together` would take jax's error for the end of a process.
    with processes.exit_together(), out_of_memory.reporting():
        yield

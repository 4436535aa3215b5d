"""The error for arrays that do not fit in the memory of a device or of this machine."""

import contextlib
import re
from collections.abc import Iterator

from absl import flags

from makemore_jax.cli.resources import is_train
from makemore_jax.errors import UserError


class OutOfMemory(UserError):
    """An array does not fit. The command line was valid, so programs exit with code 1."""

    exit_code = 1


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Turn the errors of jax and NumPy about memory into a UserError that names what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = re.search(r"(\d+(?:\.\d+)?)\.? ?(bytes|[KMGTP]i?B)", str(error))
        wanted = f" for {size[1]} {size[2]}" if size else ""
        raise OutOfMemory(f"not enough memory{wanted}{_advice()}") from None


def _advice() -> str:
    """Return ": " and what to lower, or "" for a program that has no such flags."""
    if "config" in flags.FLAGS:
        accumulate = ", or raise train.accumulate," if is_train() else ""
        return f": lower train.batch_size{accumulate} and run the command again"
    return ": lower --num or --max_len" if "max_len" in flags.FLAGS else ""

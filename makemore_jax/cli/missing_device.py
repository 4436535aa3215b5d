"""The errors for variables of the environment that jax can't use, such as JAX_PLATFORMS."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from makemore_jax.errors import UserError

VARIABLE = "JAX_PLATFORMS"


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Turn errors of jax about its variables into UserErrors.

    For some names in JAX_PLATFORMS, jax raises a bare AssertionError, and only when a program first
    needs a device.
    """
    try:
        yield
    except ValueError as error:  # raised by `import jax`
        if match := re.search(r"for (?:JAX flag|environment) '?(jax_\w+)", str(error)):
            variable = match[1].upper()
            raise UserError(f"{variable}: {os.environ.get(variable)!r} is not valid") from None
        raise
    except (RuntimeError, AssertionError):
        platforms = os.environ.get(VARIABLE)
        if platforms and not _has_devices():
            raise UserError(
                f"{VARIABLE}: {platforms} has no device that jax can use here; install the extra "
                f"for it, such as cuda13 or tpu, or unset {VARIABLE} to use what there is"
            ) from None
        raise


def _has_devices() -> bool:
    if "jax" not in sys.modules:  # the error has another cause
        return True
    try:
        return bool(sys.modules["jax"].devices())
    except (RuntimeError, AssertionError):
        return False

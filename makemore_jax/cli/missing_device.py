"""The error for a JAX_PLATFORMS that names a device that this machine does not have."""

import contextlib
import os
import sys
from collections.abc import Iterator

from makemore_jax.errors import UserError

VARIABLE = "JAX_PLATFORMS"


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Turn an error of jax into a UserError if it can't use the devices of JAX_PLATFORMS.

    jax raises a bare AssertionError for some names, and only when a program first needs a device.
    """
    try:
        yield
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

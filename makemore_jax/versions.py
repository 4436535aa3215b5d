"""The software and the device that a result depends on."""

import importlib.metadata
import platform

PACKAGES = ("makemore_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers


def device() -> str:
    """Return the number and the kind of the devices, such as "1 cpu"."""
    import jax

    devices = jax.devices()
    return f"{len(devices)} {devices[0].device_kind}"

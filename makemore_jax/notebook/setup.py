"""Set up a notebook on Colab, Kaggle or a local Jupyter: dependencies, devices, folder for runs.

A notebook imports this module before the dependencies of the project are installed, so the module
itself imports only the standard library.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

# Package -> module, if the names differ.
MODULES = {"orbax-checkpoint": "orbax.checkpoint", "absl-py": "absl"}
# Runtimes have versions of these packages for their accelerator. pip must not replace them.
PREINSTALLED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")
# Environment variables that are set on the TPU runtimes of Colab and Kaggle.
TPU_VARIABLES = ("COLAB_TPU_ADDR", "COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")


def install_missing(project: Path, install: Callable[[list[str]], None] | None = None) -> None:
    """Install the dependencies of the project and matplotlib, if they are missing.

    The packages of PREINSTALLED keep their versions. `install` runs pip with these arguments.
    RuntimeError if pip fails.
    """
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = table["dependencies"] + table["optional-dependencies"]["plots"]
    missing = [line for line in requirements if not _is_installed(_package(line))]
    for line in (line for line in requirements if line not in missing):
        _warn_if_old(line)
    if not missing:
        print("all required packages are installed")
        return
    print(f"installing {', '.join(map(_package, missing))}")
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(
            "".join(f"{name}=={_version(name)}\n" for name in PREINSTALLED if _version(name)),
            "utf-8",
        )
        (install or _pip_install)(["--constraint", str(pins), *missing])
    importlib.invalidate_caches()


def _pip_install(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    result = subprocess.run(command, **pipe, text=True, encoding="utf-8", errors="replace")
    if result.returncode:
        raise RuntimeError(f"pip could not install the missing packages:\n{result.stdout}")


def _package(requirement: str) -> str:
    """Return the package name of a requirement such as 'jax>=0.7.2'."""
    return re.match(r"[\w.-]+", requirement)[0]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES.get(package, package)) is not None
    except ModuleNotFoundError:  # the parent of a module is missing
        return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _warn_if_old(requirement: str) -> None:
    """Print a line if the installed version is below the floor of a requirement."""
    package, _, floor = requirement.partition(">=")
    version = _version(package)
    if version and floor and _numbers(version) < _numbers(floor):
        print(f"warning: {package} {version} is older than {floor}, the oldest version tested")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def platform(environment: Mapping[str, str] = os.environ) -> str:
    """Return the service that runs this notebook: colab, kaggle or local."""
    if environment.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle"
    return "colab" if environment.get("COLAB_RELEASE_TAG") else "local"


def expected_accelerator(
    environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")
) -> str | None:
    """Return the accelerator of this machine, tpu or gpu, even if jax can't use it."""
    if any(devices.glob("nvidia[0-9]*")):
        return "gpu"
    if any(environment.get(name) for name in TPU_VARIABLES) or any(devices.glob("accel[0-9]*")):
        return "tpu"
    return None


def use_devices() -> None:
    """Configure jax as train.py does, and print its devices.

    Print a warning if jax uses the CPU of a machine with an accelerator.
    """
    import jax

    from makemore_jax.cli import startup

    startup.use_compilation_cache()
    startup.configure_jax()
    print(f"jax {jax.__version__} on Python {sys.version.split()[0]} ({platform()})")
    print(jax.devices())
    print(describe_devices(jax.device_count(), jax.devices()[0].device_kind, jax.default_backend()))
    if warning := fallback_warning(jax.default_backend(), expected_accelerator()):
        print(warning)


def describe_devices(count: int, kind: str, backend: str) -> str:
    """Describe the devices in a sentence such as 'jax has 1 device: TPU v5 lite.'"""
    name = "CPU core" if backend == "cpu" else kind
    return f"jax has {count} device{'s' if count > 1 else ''}: {name}."


def fallback_warning(
    backend: str, accelerator: str | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return a warning if jax uses the CPU of a machine with an accelerator, or None."""
    is_cpu_requested = "cpu" in environment.get("JAX_PLATFORMS", "").lower()
    if backend != "cpu" or accelerator is None or is_cpu_requested:
        return None
    return (
        f"WARNING: this runtime has a {accelerator.upper()}, but jax uses the CPU. Restart the "
        "runtime: another process may hold the accelerator. If that does not help, the installed "
        f"jax has no {accelerator.upper()} support; reset the runtime to get its own jax back."
    )


def runs_folder(on_drive: bool = False) -> Path:
    """Return the folder for runs. `on_drive` selects Google Drive, which Colab asks you to connect.

    Colab deletes its own files when the runtime is disconnected. RuntimeError without Colab.
    """
    if not on_drive:
        return Path("runs")
    if platform() != "colab":
        raise RuntimeError("Google Drive is only available on Colab")
    from google.colab import drive

    drive.mount("/content/drive")
    return Path("/content/drive/MyDrive/makemore_jax/runs")

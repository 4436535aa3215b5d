"""Set up JAX before it initializes its devices: compilation cache, CPU cores as devices."""

import contextlib
import hashlib
import os
import platform
import threading
from pathlib import Path
from typing import TextIO

import jax
import jaxlib
from tqdm import tqdm

from makemore_jax.cli import interrupts, progress

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
NOTICE_DELAY = 2.0  # seconds of compiling before the notice; reading a cached program takes less
# Variables of the environment could change these types. A run in float64 would have other numbers,
# and its checkpoints could be read only with the same variables.
DEFAULT_OPTIONS = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,  # for debugging; the devices of a mesh need compiled programs
}
# Events of jax.monitoring before and after a program is compiled or read from the cache.
COMPILE_BEGINS = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE_ENDS = "/jax/core/compile/backend_compile_duration"


def use_compilation_cache() -> None:
    """Cache compiled programs for the next run, in a folder that only this user can read.

    JAX_COMPILATION_CACHE_DIR names another folder; an empty value turns the cache off.
    """
    if CACHE_VARIABLE in os.environ or (folder := cache_folder()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_latest_call: object = None


def announce_compiling(file: TextIO | None = None) -> None:
    """Print a line to `file` once, when a program has been compiling for NOTICE_DELAY.

    `file` is progress.default_file() by default. A second call in the same interactive session
    replaces the first one.
    """
    global _latest_call
    this_call = _latest_call = object()
    timer, is_announced = None, False

    def announce() -> None:
        nonlocal is_announced
        is_announced = True
        folder = jax.config.jax_compilation_cache_dir
        note = f" (first run only, cached in {folder})" if folder else ""
        output = file or progress.default_file()
        tqdm.write(f"compiling{note}", file=output)
        output.flush()

    def on_event(event: str, seconds: float, **_: str | int) -> None:
        nonlocal timer
        if is_announced or this_call is not _latest_call:
            return
        if event not in (COMPILE_BEGINS, COMPILE_ENDS):
            return
        if timer is not None:
            timer.cancel()
            timer = None
        if event == COMPILE_BEGINS:
            timer = threading.Timer(NOTICE_DELAY, announce)
            timer.daemon = True
            timer.start()

    jax.monitoring.register_event_duration_secs_listener(on_event)


def cache_folder(prefix: str = "") -> Path | None:
    """Return the folder for compiled programs, created if needed; None if that fails.

    Each version of jaxlib and each processor type has its own, because machines with different
    instruction sets may share a home directory.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = f"{prefix}jaxlib-{jaxlib.__version__}-{_processor_hash()}"
        folder = home / "makemore_jax" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return None  # another user could put programs there that this user would run
    except (OSError, RuntimeError):
        return None
    return folder


def configure_jax() -> None:
    """Set JAX's types. Make each CPU core a device, unless JAX_NUM_CPU_DEVICES sets their number.

    XLA computes the small matrix products of these models on one core, so a second core only helps
    as a second device. `parallel.mesh` decides for which models. An interactive session keeps its
    types, and its devices if they are initialized.
    """
    if not interrupts.is_interactive():
        for option, value in DEFAULT_OPTIONS.items():
            jax.config.update(option, value)
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 1 and not by_flag:
        with contextlib.suppress(RuntimeError):  # the devices are initialized
            jax.config.update("jax_num_cpu_devices", num_cores())


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor type of this machine."""
    return _cpuinfo().get("model name", "") or platform.processor() or platform.machine()


def _processor_hash() -> str:
    """Return a hash of the processor type. Machines with the same one share compiled programs."""
    cpuinfo = _cpuinfo()
    description = [platform.system(), platform.machine(), platform.processor()]
    description += [cpuinfo.get(field, "") for field in ("model name", "flags", "Features")]
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:12]


def _cpuinfo() -> dict[str, str]:
    """Return /proc/cpuinfo of the last core; an empty dict on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in fields}

"""Compile the training steps of every config for a TPU: python -m benchmarks.tpu_compile

Needs the TPU's compiler, pip install "jax[tpu]", but no TPU. Each config is compiled in its own
process, for one chip of a v5e or for the mesh in MESHES.
"""

import argparse
import importlib.metadata
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import sides, tpu
from benchmarks.arithmetic import flops_per_step
from benchmarks.configs import CONFIGS, config_of
from makemore_jax.cli import startup
from makemore_jax.config import Config, MeshConfig
from makemore_jax.versions import versions
from makemore_jax.workdir import write_json

MESHES = {"gpt2_small": ("v5e:4x4", MeshConfig(data=16, fsdp=True))}
ONE_CHIP = ("v5e:2x2", MeshConfig(data=1))
NAMES = sorted(file.stem for file in CONFIGS.glob("*.py"))


def configure(name: str) -> tuple[Config, str]:
    """Return a config with the mesh that it is compiled for, and the topology of the chips."""
    topology, mesh = MESHES.get(name, ONE_CHIP)
    config = config_of(name)
    config.mesh = mesh
    return config, topology


def make_compiler() -> Any:
    """Return the function (name) -> measurements, to run in its own process."""
    return measure


def measure(name: str) -> dict[str, Any]:
    """Compile the training steps of a config, as one call of 100 steps."""
    config, topology = configure(name)
    programs = tpu.Programs(config, tpu.make_mesh(topology, config.mesh))
    began, cpu_began = time.perf_counter(), time.process_time()
    compiled = programs.train_steps().compile()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "topology": topology,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "load": load(),
        "memory": tpu.memory(compiled),
        "collectives": tpu.collectives(compiled),
        "host_transfers": sorted(tpu.host_transfers(compiled)),
        "flops": flops_per_step(config),
        "config": sizes(config),
    }


def sizes(config: Config) -> dict[str, Any]:
    """Return the config fields that determine memory and arithmetic."""
    fields = asdict(config.model) | asdict(config.mesh)
    fields |= {"data_kind": config.data.kind, "block_size": config.data.block_size}
    return fields | {"batch_size": config.train.batch_size, "accumulate": config.train.accumulate}


def load() -> float | None:
    """Return the mean number of running processes in the last minute, None on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row for each config."""
    rows = []
    for name, result in results.items():
        mesh = MeshConfig(**{f: result["config"][f] for f in ("data", "model", "fsdp")})
        collectives = ", ".join(f"{count} {kind}" for kind, count in result["collectives"].items())
        rows.append(
            [
                name,
                f"{mesh.data}x{mesh.model}{' fsdp' if mesh.fsdp else ''}",
                f"{result['seconds']:.1f}",
                f"{result['cpu_seconds']:.1f}",
                f"{result['memory'] / 2**20:,.1f}",
                collectives or "none",
                f"{result['flops'] / 1e9:,.3g}"
                if result["flops"] < 1e11
                else f"{result['flops'] / 1e9:,.0f}",
            ]
        )
    header = [
        "config",
        "mesh",
        "compile, s",
        "CPU, s",
        "MiB per chip",
        "collectives",
        "GFLOP per step",
    ]
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    help_text = "configs to measure; keeps the results of the others"
    parser.add_argument("--configs", nargs="+", choices=NAMES, default=NAMES, help=help_text)
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    if not tpu.is_available():
        parser.error('needs the TPU compiler: pip install "jax[tpu]"')
    os.environ.update(tpu.ENVIRONMENT)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "tpu_compile.json"
    results = json.loads(file.read_text("utf-8"))["results"] if file.exists() else {}
    for name in args.configs:
        compiler = sides.Side(make_compiler)
        results[name] = compiler(name)
        compiler.close()
        print(as_table({name: results[name]}).splitlines()[-1], flush=True)
        results = dict(sorted(results.items()))
        write_json(file, {"machine": machine(), "results": results})
        file.with_suffix(".md").write_text(as_table(results) + "\n", "utf-8")
    print(f"\n{as_table(results)}")


def machine() -> dict[str, Any]:
    """Return the hardware, load and versions, on which compile times depend."""
    libtpu = {"libtpu": importlib.metadata.version("libtpu")}
    hardware = {"processor": startup.processor(), "cores": startup.num_cores()}
    return hardware | {"load": load(), "versions": versions() | libtpu}


if __name__ == "__main__":
    main()

"""One training by train.py, as a user runs it, and all that it wrote."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Training(NamedTuple):
    """What a run has told."""

    seconds: float  # of the whole command
    lines: list[dict[str, Any]]  # of metrics.jsonl
    summary: dict[str, Any]


def train(command: list[str], cache: Path | None = None) -> Training:
    """Run `train.py ...` in a folder of its own, which is gone afterwards; it must succeed.

    `cache` replaces the folder of the user's caches, with compiled programs among them.
    """
    env = dict(os.environ)
    if cache is not None:
        env |= {"XDG_CACHE_HOME": str(cache)}
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        given = [sys.executable, *command, "--workdir", folder]
        subprocess.run(given, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        written = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
        summary = json.loads((Path(folder) / "summary.json").read_text("utf-8"))
    return Training(seconds, [json.loads(line) for line in written], summary)

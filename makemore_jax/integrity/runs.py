"""One-line errors for a working directory that is not writable, or has no run or a damaged one."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from makemore_jax import workdir as workdir_lib
from makemore_jax.data.files import text_sha256
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.integrity import untrusted
from makemore_jax.workdir import Run


def read(workdir: Path) -> Run:
    """Return `workdir.read(...)`.

    Raise UserError if there is no run, or if its files are damaged.
    """
    if not (workdir / "config.json").exists():
        if (workdir / "checkpoints").is_dir():
            raise UserError(f"--workdir: {workdir} has checkpoints but no config.json")
        raise UserError(f"--workdir: {workdir} has no run{_nearest_run(workdir)}")
    try:
        for name in ("config.json", "vocab.json"):
            if not (workdir / name).exists():
                raise UserError(f"--workdir: {workdir} has no {name}")
            untrusted.check_json(workdir / name)
        run = workdir_lib.read(workdir)
        untrusted.check_run(run)
        vocab_sha256 = json.loads((workdir / "config.json").read_text("utf-8"))["vocab_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--workdir: {workdir} has a damaged run: {error!r}") from None
    if text_sha256([(workdir / "vocab.json").read_bytes()]) != vocab_sha256:
        raise UserError(f"--workdir: {workdir / 'vocab.json'} is not the one of its config.json")
    return run


@contextlib.contextmanager
def reporting_errors(workdir: Path) -> Iterator[None]:
    """Turn the errors of writing into `workdir` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--workdir: {workdir} can't be written: {error.strerror}") from None
    except UnicodeError as error:
        raise UserError(f"--workdir: a path in it is not Unicode text: {error}") from None


def _nearest_run(workdir: Path) -> str:
    if (workdir / "best" / "config.json").exists():
        return f"; it is a sweep, whose best run is in {workdir / 'best'}"
    if not workdir.parent.is_dir():
        return ""
    runs = [str(p) for p in workdir.parent.iterdir() if (p / "config.json").exists()]
    return did_you_mean(str(workdir), runs)

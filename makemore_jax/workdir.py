"""A working directory: what a run is, written down, so that it can be resumed and sampled."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from makemore_jax import config as config_lib
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.data.files import find
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.metrics import versions, write_json

IS_FIXED = ("seed", "optimizer.name", "optimizer.decay")  # besides data and model, but for these:
MAY_DIFFER = ("data.memory_map", "model.layer_loop", "model.remat")


@dataclass(frozen=True)
class Run:
    """What is written in a working directory."""

    config: Config  # with the block_size that the data gave
    vocab: Vocab
    data_file: str  # absolute path
    data_sha256: str
    max_len: int  # tokens of the longest line that may be drawn, its end included


def check(workdir: Path, config: Config, dataset: Dataset) -> None:
    """UserError where `workdir` holds something else than this run.

    What may differ from the run that is there: how long and how fast it trains, not what it is.
    """
    if (workdir / "config.json").exists():
        _check_same(read(workdir), config, dataset, workdir)
    elif workdir.is_dir() and (other := sorted(filter(_is_foreign, workdir.iterdir()))):
        raise UserError(
            f"--workdir: {workdir} holds {other[0].name} but no run; give a new or an empty folder"
        )


def prepare(workdir: Path, config: Config, dataset: Dataset) -> TextIO:
    """Make `workdir` the place of this run; lock it and return the lock.

    UserError names why it is none for it, or can't be written.
    """
    check(workdir, config, dataset)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = _lock(workdir)
        write_json(workdir / "vocab.json", list(dataset.vocab.chars))
        content = {
            "config": config_lib.to_json(config),
            "data_file": str(Path(find(config.data.path)).absolute()),
            "data_sha256": dataset.sha256,
            "max_len": dataset.max_len,
            "vocab_sha256": _sha256(workdir / "vocab.json"),
            "versions": versions(),
        }
        write_json(workdir / "config.json", content)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} can't be written: {error.strerror}") from None
    except UnicodeError as error:
        raise UserError(f"--workdir: a path in it is no Unicode text: {error}") from None
    return lock


def read_summary(workdir: Path, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has ended after so many steps, if there is one."""
    try:
        summary = json.loads((workdir / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return summary if summary.get("steps") == steps else None


def _is_foreign(file: Path) -> bool:
    """Whether a file is none that `prepare` leaves behind when it is killed, nor a hidden one."""
    return file.name != "vocab.json" and file.suffix != ".partial" and file.name[0] != "."


def _lock(workdir: Path) -> TextIO:
    """Lock a working directory until the returned file is closed or the process ends."""
    file = (workdir / ".lock").open("w", encoding="utf-8")
    try:
        _lock_file(file)
    except (BlockingIOError, PermissionError):  # the first on POSIX, the second on Windows
        raise UserError(f"--workdir: {workdir} is in use by another training") from None
    return file


def _lock_file(file: TextIO) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read(workdir: Path) -> Run:
    """What `prepare` wrote. UserError if there is no run, or if its files are damaged."""
    if not (workdir / "config.json").exists():
        raise UserError(f"--workdir: {workdir} holds no run{_nearest_run(workdir)}")
    try:
        content = json.loads((workdir / "config.json").read_text("utf-8"))
        config = config_lib.from_json(content["config"])
        chars = json.loads((workdir / "vocab.json").read_text("utf-8"))
        vocab = Vocab(tuple(chars), has_end=config.data.kind != "text")
        max_len = content.get("max_len", config.data.block_size)
        run = Run(config, vocab, content["data_file"], content["data_sha256"], max_len)
        vocab_sha256 = content["vocab_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--workdir: {workdir} holds a damaged run: {error!r}") from None
    if _sha256(workdir / "vocab.json") != vocab_sha256:
        raise UserError(f"--workdir: {workdir / 'vocab.json'} is not the one of its config.json")
    return run


def _check_same(run: Run, config: Config, dataset: Dataset, workdir: Path) -> None:
    there, here = config_lib.flatten(run.config), config_lib.flatten(config)
    there["data.path"], here["data.path"] = run.data_sha256, dataset.sha256
    for name in here:
        is_fixed = name.startswith(("data.", "model.")) or name in IS_FIXED
        if not is_fixed or name in MAY_DIFFER or here[name] == there[name]:
            continue
        if name == "data.path":
            raise UserError(
                f"data.path: {config.data.path} is not the file that the run in {workdir} was "
                "begun with, or has changed since; give another --workdir"
            )
        raise UserError(
            f"{name}: {workdir} holds a run with {json.dumps(there[name])}, not "
            f"{json.dumps(here[name])}; give another --workdir"
        )


def _nearest_run(workdir: Path) -> str:
    if not workdir.parent.is_dir():
        return ""
    runs = [str(p) for p in workdir.parent.iterdir() if (p / "config.json").exists()]
    return did_you_mean(str(workdir), runs)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

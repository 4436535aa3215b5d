"""The working directory of a run: its config and vocabulary, so that it can resume and sample."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from makemore_jax import config as config_lib
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.data.files import find
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.versions import versions

MAX_JSON_BYTES = 2**25  # a vocabulary of all Unicode characters has half of this


@dataclass(frozen=True)
class Run:
    """The content of config.json and vocab.json."""

    config: Config  # with the block_size of the data
    vocab: Vocab
    data_file: str  # absolute path
    data_sha256: str
    max_len: int  # maximum tokens of a sampled line, its end included


def prepare(workdir: Path, config: Config, dataset: Dataset) -> None:
    """Create `workdir` and write config.json and vocab.json. UserError if that fails."""
    with reporting_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
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


def read(workdir: Path) -> Run:
    """Return what `prepare` wrote. UserError if there is no run, or if its files are damaged."""
    if not (workdir / "config.json").exists():
        raise UserError(f"--workdir: {workdir} holds no run{_nearest_run(workdir)}")
    try:
        content = read_json(workdir / "config.json")
        config = config_lib.from_json(content["config"])
        chars = read_json(workdir / "vocab.json")
        vocab = Vocab(tuple(chars), has_end=config.data.kind != "text")
        max_len = content.get("max_len", config.data.block_size)
        if [len(c) for c in set(chars)] != [1] * len(chars) or max_len not in range(1, 2**20):
            raise ValueError("the characters or max_len are not valid")
        run = Run(config, vocab, content["data_file"], content["data_sha256"], max_len)
        vocab_sha256 = content["vocab_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--workdir: {workdir} holds a damaged run: {error!r}") from None
    if _sha256(workdir / "vocab.json") != vocab_sha256:
        raise UserError(f"--workdir: {workdir / 'vocab.json'} is not the one of its config.json")
    return run


def read_summary(workdir: Path, steps: int) -> dict[str, Any] | None:
    """Return summary.json if the run ended after `steps` steps, else None."""
    try:
        summary = read_json(workdir / "summary.json")
        return summary if summary["steps"] == steps else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    write_json(workdir / "summary.json", summary)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file. ValueError if it is too large or no regular file."""
    if not file.is_file() or file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file.name} is no file of at most {MAX_JSON_BYTES:,} bytes")
    return json.loads(file.read_text("utf-8"))


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file. A reader sees the old content or the new, never a part."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    partial = file.with_suffix(".partial")
    partial.write_text(text + "\n", "utf-8")
    os.replace(partial, file)


@contextlib.contextmanager
def reporting_errors(workdir: Path) -> Iterator[None]:
    """Turn the errors of writing into `workdir` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--workdir: {workdir} can't be written: {error.strerror}") from None
    except UnicodeError as error:
        raise UserError(f"--workdir: a path in it is no Unicode text: {error}") from None


def _nearest_run(workdir: Path) -> str:
    if not workdir.parent.is_dir():
        return ""
    runs = [str(p) for p in workdir.parent.iterdir() if (p / "config.json").exists()]
    return did_you_mean(str(workdir), runs)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

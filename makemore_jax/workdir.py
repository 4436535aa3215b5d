"""The working directory of a run: its config and vocabulary, so that it can resume and sample."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from makemore_jax import config as config_lib
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.data.files import text_sha256
from makemore_jax.data.vocabulary import Vocab


@dataclass(frozen=True)
class Run:
    """The content of config.json and vocab.json."""

    config: Config  # with the block_size of the data
    vocab: Vocab
    data_file: str  # absolute path
    data_sha256: str
    max_len: int  # maximum tokens of a sampled line, its end included


def prepare(workdir: Path, config: Config, dataset: Dataset, **facts: Any) -> None:
    """Create `workdir` and write vocab.json and config.json.

    `facts` are entries of config.json, which add to those of this function or replace them.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "vocab.json", list(dataset.vocab.chars))
    content = {
        "config": config_lib.to_json(config),
        "data_file": str(Path(config.data.path).absolute()),
        "data_sha256": dataset.sha256,
        "max_len": dataset.max_len,
        "vocab_sha256": text_sha256([(workdir / "vocab.json").read_bytes()]),
        **facts,
    }
    write_json(workdir / "config.json", content)


def read(workdir: Path) -> Run:
    """Return what `prepare` wrote. `integrity.runs` reports missing and damaged files."""
    content = json.loads((workdir / "config.json").read_text("utf-8"))
    config = config_lib.from_json(content["config"])
    chars = json.loads((workdir / "vocab.json").read_text("utf-8"))
    vocab = Vocab(tuple(chars), has_end=config.data.kind != "text")
    return Run(config, vocab, *(content[key] for key in ("data_file", "data_sha256", "max_len")))


def write_summary(workdir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json and return its content."""
    write_json(workdir / "summary.json", summary)
    return summary


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file. A reader sees the old content or the new, never a part."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    partial = file.with_suffix(".partial")
    partial.write_text(text + "\n", "utf-8", newline="\n")
    os.replace(partial, file)

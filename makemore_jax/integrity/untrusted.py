"""Limits on a run folder that someone else made: no links out of it, no unlimited sizes."""

import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makemore_jax.errors import UserError
from makemore_jax.workdir import Run

MAX_JSON_BYTES = 2**25  # a vocabulary of all Unicode characters has half of this
MAX_TOKENS = 2**20  # of a line
MAX_LAYERS = 1_000
MAX_PATH = 2**12  # a moved project is searched for all ends of a path: n^2 characters


def check_links(workdir: Path, flag: str = "--workdir") -> None:
    """Raise UserError if an entry of a folder is a link: a program would write to its target.

    The folder itself may be a link.
    """
    for file in sorted(workdir.iterdir()) if workdir.is_dir() else ():
        if file.is_symlink():
            raise UserError(
                f"{flag}: {file} is a link; writing would change {os.readlink(file)}; "
                "replace it by its target"
            )


def check_json(file: Path) -> None:
    """Raise ValueError if a JSON file is not a regular file, or is larger than in any run."""
    if not file.is_file() or file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file.name} is no file of at most {MAX_JSON_BYTES:,} bytes")


def check_run(run: Run) -> None:
    """Raise ValueError if the fields of a run are not those of a trained model."""
    chars, num_layers = run.vocab.chars, run.config.model.n_layer
    if [len(char) for char in set(chars)] != [1] * len(chars):
        raise ValueError("vocab.json must hold distinct characters")
    if not isinstance(run.data_file, str) or len(run.data_file) > MAX_PATH:
        raise ValueError(f"data_file must be a path of at most {MAX_PATH:,} characters")
    if run.max_len not in range(1, MAX_TOKENS):
        raise ValueError(f"max_len: {run.max_len} must be at least 1, below {MAX_TOKENS:,}")
    if num_layers > MAX_LAYERS:
        raise ValueError(f"model.n_layer: {num_layers:,} must be at most {MAX_LAYERS:,}")


def check_memory(arrays: Any) -> None:
    """Raise UserError if a tree of arrays to be read is larger than the memory of this machine."""
    if not hasattr(os, "sysconf"):
        return
    needed = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(arrays))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"--workdir: its config.json describes {needed / 2**30:,.0f} GiB of arrays; this "
            f"machine has {memory / 2**30:,.0f} GiB of memory"
        )


def check_chunks(metadata: Any) -> None:
    """Raise UserError if an array is stored in chunks larger than itself, which no training writes.

    A chunk is read as a whole: a small file can expand to a chunk of any size.
    """
    for array in jax.tree.leaves(getattr(metadata, "tree", metadata)):
        chunk_shape = getattr(getattr(array, "storage", None), "chunk_shape", None) or ()
        if math.prod(chunk_shape) > math.prod(array.shape):
            raise UserError(
                f"--workdir: its checkpoint stores an array of {list(array.shape)} in chunks of "
                f"{list(chunk_shape)}; no training writes such a file"
            )

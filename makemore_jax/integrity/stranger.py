"""Limits on a run folder that someone else made: no links out of it, no size without bound."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makemore_jax.errors import UserError


def check_links(workdir: Path) -> None:
    """UserError if an entry of a run folder is a link: training would write to its target.

    The folder itself may be a link.
    """
    for file in sorted(workdir.iterdir()) if workdir.is_dir() else ():
        if file.is_symlink():
            raise UserError(
                f"--workdir: {file} is a link; training would write to {os.readlink(file)}; "
                "replace it by its target"
            )


def check_memory(arrays: Any) -> None:
    """UserError if a tree of arrays to be read is larger than the memory of this machine."""
    if not hasattr(os, "sysconf"):
        return
    needed = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(arrays))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"--workdir: its config.json describes {needed / 2**30:,.0f} GiB of arrays; this "
            f"machine has {memory / 2**30:,.0f} GiB of memory"
        )

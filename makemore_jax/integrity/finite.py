"""Refuse to save a state that has diverged.

The loss of a step is computed before its update, so the loss can be finite although the update made
a parameter or a moment of Adam infinite. An infinite moment stops the updates of its parameter
forever, without any effect on the loss.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from makemore_jax.errors import Diverged


def check(step: int, state: Any) -> None:
    """Raise Diverged if an array of the state holds a value that is not finite.

    Each process checks its own part of sharded arrays.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        is_on_devices = isinstance(leaf, jax.Array)
        parts = [shard.data for shard in leaf.addressable_shards] if is_on_devices else [leaf]
        if not all(np.isfinite(np.asarray(part)).all() for part in parts):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise Diverged(step, f"{name} has a value that is not finite")

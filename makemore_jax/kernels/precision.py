"""The precision of reductions."""

import jax.numpy as jnp
from jax import Array


def at_least_float32(x: Array) -> Array:
    """Return x in float32 or wider. Reductions over many numbers lose accuracy in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

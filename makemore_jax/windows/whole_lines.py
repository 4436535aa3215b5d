"""Apply a model of any family to whole lines."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def read_lines(model: nn.Module, variables: Any, tokens: Array) -> Array:
    """Return the logits of each position of lines in rows. (B, T) -> (B, T, V)

    A model that reads windows gets `window` - 1 zeros before the first token.
    """
    padding = getattr(model, "window", 1) - 1
    return model.apply(variables, jnp.pad(tokens, [(0, 0), (padding, 0)]))

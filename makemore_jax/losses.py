"""The loss: negative log likelihood in nats. Padding does not count."""

import jax
import jax.numpy as jnp
from jax import Array


def token_losses(logits: Array, targets: Array) -> Array:
    """Return the negative log likelihood of each target, 0 for padding (-1). (B, T, V) -> (B, T)

    The mask is explicit because optax's cross-entropy silently reads -1 as the last class.
    """
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(targets, 0)[..., None], axis=-1)
    return jnp.where(targets == -1, 0.0, -picked[..., 0])


def sum_losses(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the sum of the losses in nats and the number of targets that are not -1. () each"""
    losses = token_losses(logits, targets)
    return losses.sum(), (targets != -1).sum().astype(losses.dtype)


def mean_loss(logits: Array, targets: Array) -> Array:
    """Return the mean over targets that are not -1, as torch's cross_entropy(ignore_index=-1)."""
    loss, count = sum_losses(logits, targets)
    return loss / jnp.maximum(count, 1)

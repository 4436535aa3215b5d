"""Statistics of activations and gradients: histograms, saturated values, dead units."""

import jax.numpy as jnp
from jax import Array

from makemore_jax.diagnostics.taps import SQUASHING, Tap

N_BINS = 50
SATURATED = 0.97  # share of the radius; the lecture's limit for tanh


def target_mask(tap: Tap, inputs: Array, targets: Array) -> Array | None:
    """Return which values of a tap belong to a token with a target: a bool mask, broadcastable.

    With inputs and targets (B, T), in rows or packed, the values may be (B, T, ..., C),
    (T, B, ..., C) if a scan over time stacked them, or (B * T, ..., C). Axes stacked by other scans
    come first. All values of any other shape belong to a target. So do those of windows: inputs
    (B, T), targets (B, 1).

    Return None for a tap with one number per token or per batch, such as a variance that is clamped
    at 0: it has no units.
    """
    num, is_real, has_units = tap.num_stacked, targets != -1, len(tap.shape) > 1
    # The mask, and the number of axes before it, for each of these layouts.
    layouts = [(num, is_real), (num - 1, is_real.T), (num, is_real.ravel()), (num, is_real.T)]
    for num_before, mask in layouts if inputs.shape == targets.shape else []:
        num_after = len(tap.shape) - num_before - mask.ndim
        masked_shape = tap.shape[num_before : num_before + mask.ndim]
        if num_before >= 0 and masked_shape == mask.shape:
            if num_after > 0:
                return mask.reshape(*[1] * num_before, *mask.shape, *[1] * num_after)
            has_units = False  # unless a later layout fits, as with T units and a scan over time
    return jnp.ones([1] * len(tap.shape), bool) if has_units else None


def histogram(x: Array, mask: Array) -> dict[str, Array]:
    """Compute a histogram of the values of x at which `mask` (bool, broadcastable) is true.

    N_BINS equal bins divide the range from `low` to `high`, the extreme values. If `mask` is
    true nowhere, low and high are infinite. `mean` and `std` are over the same values.
    """
    mask = jnp.broadcast_to(mask, x.shape)
    num = jnp.maximum(mask.sum(), 1)
    low = jnp.where(mask, x, jnp.inf).min()
    high = jnp.where(mask, x, -jnp.inf).max()
    mean = jnp.where(mask, x, 0).sum() / num
    std = jnp.sqrt(jnp.where(mask, (x - mean) ** 2, 0).sum() / num)
    position = jnp.where(high > low, (x - low) / (high - low), 0)  # 0 at low, 1 at high
    bins = jnp.clip((position * N_BINS).astype(jnp.int32), 0, N_BINS - 1)
    bins = jnp.zeros(N_BINS, jnp.int32).at[bins].add(mask)
    return {"low": low, "high": high, "counts": bins, "mean": mean, "std": std}


def saturated_and_dead(tap: Tap, values: Array, mask: Array) -> tuple[Array, Array]:
    """Return the share of saturated values, and the share of units saturated for every token.

    A value of a squashing function is saturated within 1.5% of its range from a limit. There the
    slope of tanh is below 0.06 and that of a sigmoid below 0.015. A value of a ReLU is saturated
    if it is 0. Units are the entries of the last axis. `mask` comes from `target_mask`.
    """
    if tap.primitive in SQUASHING:
        _, center, radius = SQUASHING[tap.primitive]
        is_saturated = jnp.abs(values - center) > SATURATED * radius
    else:
        is_saturated = values == 0
    mask = jnp.broadcast_to(mask, values.shape)
    share = (is_saturated & mask).sum() / jnp.maximum(mask.sum(), 1)
    is_dead = (is_saturated | ~mask).reshape(-1, values.shape[-1]).all(axis=0)
    return share, is_dead.mean()

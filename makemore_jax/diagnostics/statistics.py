"""Statistics of activations and gradients: histograms, saturated values, dead units."""

import jax.numpy as jnp
from jax import Array

from makemore_jax.diagnostics.taps import SQUASHING, Tap

N_BINS = 50
SATURATED = 0.97  # share of the radius; the lecture's limit for tanh


def counted(tap: Tap, inputs: Array, targets: Array) -> Array | None:
    """Return which values of a tap belong to a token with a target: bool, broadcastable.

    With inputs and targets (B, T), in rows or packed, the values may be (B, T, ..., C),
    (T, B, ..., C) if a scan over time stacked them, or (B * T, ..., C). Axes stacked by other scans
    come first. Values of any other shape all count, as do windows: inputs (B, T), targets (B, 1).

    Return None for one number per token or per batch. These are not units but, for example, a
    variance that is clamped at 0.
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


def histogram(x: Array, counts: Array) -> dict[str, Array]:
    """Compute a histogram of the values of x at which `counts` (bool, broadcastable) is true.

    The counts are of N_BINS equal bins from `low` to `high`, the extreme values. Without any value
    low and high are infinite. `mean` and `std` are those of the values.
    """
    counts = jnp.broadcast_to(counts, x.shape)
    num = jnp.maximum(counts.sum(), 1)
    low = jnp.where(counts, x, jnp.inf).min()
    high = jnp.where(counts, x, -jnp.inf).max()
    mean = jnp.where(counts, x, 0).sum() / num
    std = jnp.sqrt(jnp.where(counts, (x - mean) ** 2, 0).sum() / num)
    position = jnp.where(high > low, (x - low) / (high - low), 0)  # 0 at low, 1 at high
    bins = jnp.clip((position * N_BINS).astype(jnp.int32), 0, N_BINS - 1)
    bins = jnp.zeros(N_BINS, jnp.int32).at[bins].add(counts)
    return {"low": low, "high": high, "counts": bins, "mean": mean, "std": std}


def saturated_and_dead(tap: Tap, values: Array, counts: Array) -> tuple[Array, Array]:
    """Return the share of saturated values, and the share of units saturated for every token.

    A value of a squashing function is saturated within 1.5% of its range from a limit. There the
    slope of tanh is below 0.06 and that of a sigmoid below 0.015. A value of a ReLU is saturated
    if it is 0. Units are the entries of the last axis. `counts` comes from `counted`.
    """
    if tap.primitive in SQUASHING:
        _, center, radius = SQUASHING[tap.primitive]
        is_saturated = jnp.abs(values - center) > SATURATED * radius
    else:
        is_saturated = values == 0
    counts = jnp.broadcast_to(counts, values.shape)
    share = (is_saturated & counts).sum() / jnp.maximum(counts.sum(), 1)
    is_dead = (is_saturated | ~counts).reshape(-1, values.shape[-1]).all(axis=0)
    return share, is_dead.mean()

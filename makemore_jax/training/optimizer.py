"""The optimizer and its learning rate, as optax transformations with PyTorch's meaning."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from makemore_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return the function from a step, counted from 0, to its learning rate.

    Step i of the warm-up has (i + 1) / warmup_steps of the learning rate. After the warm-up:

    - "constant": the learning rate
    - "step": multiplied by `gamma` every `step_size` steps, as torch.optim.lr_scheduler.StepLR
    - "cosine": half a cosine down to `min_learning_rate` at `decay_steps`, by default `steps`
    - "nanogpt": the same, but step i of the warm-up has (i + 1) / (warmup_steps + 1), as in
      nanoGPT's train.py
    """
    peak, warmup, end = config.learning_rate, config.warmup_steps, config.decay_steps or steps

    # Not optax's schedules: they divide the int32 step by an integer, and the quotient is float32
    # even if all other values are float64.
    def schedule(step: Array) -> Array:
        after = jnp.maximum(step - warmup, 0)
        learning_rate = peak
        if config.schedule == "step":
            learning_rate = peak * config.gamma ** (after // config.step_size)
        elif config.schedule in ("cosine", "nanogpt"):
            progress = jnp.minimum(after / float(max(1, end - warmup)), 1.0)
            floor = config.min_learning_rate
            learning_rate = floor + (peak - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        # The warm-up starts at peak / warmup: a step with learning rate 0 would be wasted.
        denominator = max(1, warmup + (config.schedule == "nanogpt"))
        return jnp.where(step < warmup, peak * (step + 1) / float(denominator), learning_rate)

    return schedule


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return the optimizer of a config.

    AdamW (Loshchilov and Hutter 2019) decays every parameter, as torch.optim.AdamW does.

    SGD adds weight_decay * parameter to the gradient, as torch.optim.SGD does. With
    decay="matrices", parameters with one axis (biases and norms) do not decay, as in nanoGPT.

    Muon (Jordan et al. 2024) orthogonalizes the update of every parameter with two axes. Unlike the
    original, this includes embeddings and the output layer. AdamW with Nesterov momentum updates
    all other parameters; with decay="matrices" those do not decay. With consistent_rms=0.2 the
    updates are as large as AdamW's, so that the same learning rate fits both (Liu et al. 2025,
    section 2.2).
    """
    schedule = make_schedule(config, steps)
    # Passed only if needed: a mask changes the tree of the optimizer state, and so checkpoints.
    mask = {"mask": _is_matrix} if config.decay == "matrices" else {}
    if config.name == "adamw":
        tx = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, **mask)
    elif config.name == "muon":
        tx = optax.contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay if config.decay == "all" else 0.0,
            muon_weight_dimension_numbers=_muon_axes,
            consistent_rms=0.2,
        )
    else:
        decay = optax.add_decayed_weights(config.weight_decay, **mask)
        tx = optax.chain(decay, optax.sgd(schedule))
    # Both have the same state, so a run can resume with another `grad_clip`.
    clip = _clip_by_global_norm(config.grad_clip) if config.grad_clip else optax.identity()
    return optax.chain(clip, tx)


def _clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clip gradients to this global norm (Pascanu et al. 2013, section 3.2).

    It adds 1e-6 to the norm, as torch.nn.utils.clip_grad_norm_ does; optax's clipping does not.
    """

    def clip(grads: Any, params: Any) -> Any:
        factor = jnp.minimum(max_norm / (optax.tree.norm(grads) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(clip)


def _num_axes(params: Any) -> Any:
    """Return the number of axes of each parameter, without those that stacking adds.

    With layer_loop="scan", `assemble/stacked_state.py` stacks layers and networks.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, a: a.ndim - jax.tree_util.keystr(path).count("_stacked"), params
    )


def _is_matrix(params: Any) -> Any:
    """Return for each parameter whether it has two or more axes."""
    return jax.tree.map(lambda num: num >= 2, _num_axes(params))


def _muon_axes(params: Any) -> Any:
    """Return the input and output axis of each matrix, and None for other parameters."""
    axes = optax.contrib.MuonDimensionNumbers(-2, -1)
    return jax.tree.map(lambda num: axes if num == 2 else None, _num_axes(params))

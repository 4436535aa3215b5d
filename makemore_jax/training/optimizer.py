"""The optimizer and its learning rate, as optax transformations with PyTorch's meaning."""

import optax

from makemore_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step (from 0) -> learning rate.

    Step i of the warm-up has (i + 1) / warmup_steps of the learning rate. After it: constant; or
    times `gamma` every `step_size` steps, as torch.optim.lr_scheduler.StepLR; or half a cosine
    down to `min_learning_rate` at step `steps`.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "step":
        main = optax.exponential_decay(peak, config.step_size, config.gamma, staircase=True)
    elif config.schedule == "cosine":
        decay_steps = max(1, steps - warmup)
        main = optax.cosine_decay_schedule(peak, decay_steps, config.min_learning_rate / peak)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    # From peak / warmup, not from 0: a first step without a learning rate would be lost.
    ramp = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([ramp, main], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) decays every parameter, as torch.optim.AdamW does.

    SGD adds weight_decay * parameter to the gradient, as torch.optim.SGD does.
    """
    schedule = make_schedule(config, steps)
    if config.name == "adamw":
        descend = optax.adamw(
            schedule, config.b1, config.b2, eps=1e-8, weight_decay=config.weight_decay
        )
    else:
        descend = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule))
    if config.grad_clip is None:
        return optax.chain(optax.identity(), descend)  # the same state with and without clipping
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), descend)

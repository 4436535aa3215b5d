"""A training step with PyTorch's optimizers and schedulers, from the same config."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from makemore_jax.config import OptimizerConfig


def torch_mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return makemore's loss, the mean over targets that are not -1."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def make_torch_optimizer(
    module: torch.nn.Module, config: OptimizerConfig, **options: Any
) -> torch.optim.Optimizer:
    """Return AdamW or SGD. With decay="matrices" only matrices decay, as in nanoGPT."""
    parameters = list(module.parameters())
    groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        groups[0]["params"] = [p for p in parameters if p.ndim >= 2]
        groups += [{"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        return torch.optim.AdamW(groups, config.learning_rate, betas, eps=1e-8, **options)
    return torch.optim.SGD(groups, config.learning_rate, **options)


def make_torch_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a scheduler for the learning rate; call its `step` after each training step."""

    end = config.decay_steps or steps

    def factor(i: int) -> float:
        """Return the learning rate of step i, relative to the peak."""
        if i < config.warmup_steps:
            return (i + 1) / (config.warmup_steps + (config.schedule == "nanogpt"))
        i -= config.warmup_steps
        if config.schedule == "step":
            return config.gamma ** (i // config.step_size)
        if config.schedule in ("cosine", "nanogpt"):
            floor = config.min_learning_rate / config.learning_rate
            progress = min(1.0, i / max(1, end - config.warmup_steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def make_torch_step(
    module: torch.nn.Module, config: OptimizerConfig, steps: int
) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Return the function (inputs, targets) -> loss, which takes one training step."""
    optimizer = make_torch_optimizer(module, config)
    schedule = make_torch_schedule(optimizer, config, steps)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        loss = torch_mean_loss(module(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.grad_clip)
        optimizer.step()
        schedule.step()
        return loss.item()

    return step

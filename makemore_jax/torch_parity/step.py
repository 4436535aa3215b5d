"""A training step with PyTorch's own optimizers and schedules, from the same config."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from makemore_jax.config import OptimizerConfig


def torch_mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """makemore's loss: the mean over targets that are not -1."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def make_torch_optimizer(
    module: torch.nn.Module, config: OptimizerConfig, **how: Any
) -> torch.optim.Optimizer:
    """AdamW or SGD; with decay="matrices" what has one axis does not decay, as in nanoGPT."""
    parameters = list(module.parameters())
    groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        groups[0]["params"] = [p for p in parameters if p.ndim >= 2]
        groups += [{"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        return torch.optim.AdamW(groups, config.learning_rate, betas, eps=1e-8, **how)
    return torch.optim.SGD(groups, config.learning_rate, **how)


def make_torch_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """What sets the learning rate of each step, when it is told of the one before."""

    def factor(i: int) -> float:
        """The learning rate of step i, as a multiple of its peak."""
        if i < config.warmup_steps:
            return (i + 1) / config.warmup_steps
        i -= config.warmup_steps
        if config.schedule == "step":
            return config.gamma ** (i // config.step_size)
        if config.schedule == "cosine":
            floor = config.min_learning_rate / config.learning_rate
            part = min(1.0, i / max(1, steps - config.warmup_steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def make_torch_step(
    module: torch.nn.Module, config: OptimizerConfig, steps: int
) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The function (inputs, targets) -> loss that takes one step."""
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

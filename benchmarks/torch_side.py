"""The PyTorch side: makemore's loop around the reference models, in the ways that PyTorch has.

`eager` is makemore's loop with its batches ready in memory; `fused` the same with the fused AdamW;
`compiled` the same with torch.compile; on a GPU `cuda graphs` is torch.compile with
mode="reduce-overhead".
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.configs import config_of
from makemore_jax.torch_parity import weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ways() -> list[str]:
    """The ways that this machine has."""
    return ["eager", "fused", "compiled", *(["cuda graphs"] if DEVICE == "cuda" else [])]


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make_step(
    module: torch.nn.Module, way: str, optimizer: Any
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """One training step (inputs, targets) -> loss, as makemore takes it."""
    adamw = torch.optim.AdamW(
        module.parameters(),
        optimizer.learning_rate,
        (optimizer.b1, optimizer.b2),
        weight_decay=optimizer.weight_decay,
        fused=way == "fused" or None,
    )
    modes = {"compiled": {}, "cuda graphs": {"mode": "reduce-overhead"}}
    forward = torch.compile(module, **modes[way]) if way in modes else module

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = forward(inputs)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)
        module.zero_grad(set_to_none=True)
        loss.backward()
        adamw.step()
        return loss

    return step


def make_trainer(kind: str, vocab_size: int, block_size: int, batches: list, threads: int):
    """The function (way, number of steps) -> seconds, around one model for each way.

    `batches` are pairs of NumPy arrays; steps go round in them.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = config_of(kind)
    ready = [tuple(torch.tensor(a, dtype=torch.long, device=DEVICE) for a in b) for b in batches]
    steps = {}

    def run(way: str, num_steps: int) -> float:
        if way not in steps:
            module = weights.reference(config, vocab_size, block_size).to(DEVICE)
            steps[way] = make_step(module, way, config.optimizer)
        step = steps[way]
        synchronize()
        began = time.perf_counter()
        for i in range(num_steps):
            loss = step(*ready[i % len(ready)])
        assert np.isfinite(loss.item())
        synchronize()
        return time.perf_counter() - began

    return run

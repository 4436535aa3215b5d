"""The PyTorch side of benchmarks: makemore's loop around the reference models, in several variants.

`eager` is makemore's loop with batches in memory, `fused` uses the fused AdamW, `compiled` uses
torch.compile, and `compiled, fused` uses both. On a GPU `cuda graphs` is torch.compile with
mode="reduce-overhead". On a text it is nanoGPT's loop, with PyTorch's attention kernel, weight
decay on matrices only, gradient clipping and a learning rate schedule.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.configs import config_of
from makemore_jax.config import Config
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.step import make_torch_optimizer, make_torch_schedule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
USUAL = ("eager", "fused", "compiled")


def variants() -> list[str]:
    """Return the variants that this machine supports."""
    on_gpu = ["cuda graphs"] if DEVICE == "cuda" else []
    return [*USUAL, "compiled, fused", *on_gpu]


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make_step(
    module: torch.nn.Module, variant: str, config: Config
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a training step of makemore or nanoGPT: (inputs, targets) -> loss."""
    optimizer, schedule = config.optimizer, None
    adamw = make_torch_optimizer(module, optimizer, fused="fused" in variant or None)
    if optimizer.schedule != "constant":  # makemore has none
        schedule = make_torch_schedule(adamw, optimizer, config.train.steps)
    modes = {"compiled": {}, "compiled, fused": {}, "cuda graphs": {"mode": "reduce-overhead"}}
    forward = torch.compile(module, **modes[variant]) if variant in modes else module

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = forward(inputs)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)
        module.zero_grad(set_to_none=True)
        loss.backward()
        if optimizer.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), optimizer.grad_clip)
        adamw.step()
        if schedule:
            schedule.step()
        return loss

    return step


def make_trainer(kind: str, vocab_size: int, block_size: int, batches: list, threads: int):
    """Return the function (variant, number of steps) -> seconds. Each variant has its own model.

    `batches` are pairs of NumPy arrays. The steps cycle through them.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, JAX's default on a GPU
    config = config_of(kind)
    fused_attention = config.data.kind == "text"  # makemore computes attention explicitly
    tensors = [tuple(torch.tensor(a, dtype=torch.long, device=DEVICE) for a in b) for b in batches]
    steps = {}

    def run(variant: str, num_steps: int) -> float:
        if variant not in steps:
            module = weights.reference(config, vocab_size, block_size, fused_attention)
            steps[variant] = make_step(module.to(DEVICE), variant, config)
        step = steps[variant]
        synchronize()
        began = time.perf_counter()
        for i in range(num_steps):
            loss = step(*tensors[i % len(tensors)])
        assert np.isfinite(loss.item())
        synchronize()
        return time.perf_counter() - began

    return run

"""Make tests/golden/*.npz: results of the PyTorch reference models in float64.

    python tests/make_golden.py

With these files, parity can be tested without torch. If a test fails against them, the results have
changed. Run this script again only after an intended change of the reference models.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from golden_sizes import BATCH, SIZES, STEPS, optimizer_configs

from makemore_jax.torch_parity.compare import make_torch_step, torch_mean_loss
from makemore_jax.torch_parity.models import MODELS


def record(kind: str) -> dict[str, np.ndarray]:
    """Return weights, batch, logits, loss, gradients, and the weights after a few steps."""
    torch.manual_seed(17)
    module = MODELS[kind](**SIZES).double()
    with torch.no_grad():
        for parameter in module.parameters():  # some are initialized with zeros
            parameter += 0.1 * torch.randn_like(parameter)
    inputs = torch.randint(0, SIZES["vocab_size"], BATCH)
    targets = torch.randint(0, SIZES["vocab_size"], BATCH)
    targets[torch.rand(BATCH) < 0.3] = -1
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    arrays = {f"weights/{name}": tensor for name, tensor in start.items()}
    logits = module(inputs)
    loss = torch_mean_loss(logits, targets)
    loss.backward()
    arrays |= {"inputs": inputs, "targets": targets, "logits": logits, "loss": loss}
    arrays |= {f"gradients/{name}": p.grad.clone() for name, p in module.named_parameters()}
    for name, config in optimizer_configs().items():
        module.load_state_dict(start)
        step = make_torch_step(module, config, STEPS)
        arrays[f"losses/{name}"] = torch.tensor([step(inputs, targets) for _ in range(STEPS)])
        arrays |= {f"{name}/{n}": p.detach().clone() for n, p in module.named_parameters()}
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


if __name__ == "__main__":
    folder = Path(__file__).parent / "golden"
    folder.mkdir(exist_ok=True)
    for kind in MODELS.keys() - {"window_mlp"}:  # which reads windows; test_convert.py compares it
        np.savez_compressed(folder / f"{kind}.npz", **record(kind))
        print(folder / f"{kind}.npz")

"""Small models of both sides, and the differences of their functions in outputs and gradients."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from makemore_jax.assemble import create_model
from makemore_jax.assemble.components import EXTENSION_MODELS
from makemore_jax.config import Config
from makemore_jax.models import MODELS
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.difference import Difference, worst_relative

SIZES = {"B": 3, "T": 7, "n_layer": 2, "n_head": 2, "n_embd": 10, "n_embd2": 11}
VOCAB_SIZE = 13
BATCH_SIZE = 14


def config_of(kind: str) -> Config:
    """Return the config of a small model of a family, for batches of a few words."""
    config = Config(seed=5)
    config.model.kind = kind
    declared = (MODELS | EXTENSION_MODELS)[kind].__dataclass_fields__
    for name in declared.keys() & SIZES.keys():
        setattr(config.model, name, SIZES[name])
    if kind == "modern":
        config.model.n_head = 5  # an even number of channels in each head
    config.train.batch_size = BATCH_SIZE
    return config


@cache
def both(kind: str) -> tuple[nn.Module, Any, torch.nn.Module]:
    """Return a model, its parameters in float64, and the PyTorch module with the same parameters.

    Noise is added to the initial parameters, so that none are zero.
    """
    config, block_size = config_of(kind), _block_size(kind)
    model = create_model(config.model, VOCAB_SIZE, block_size)
    tokens = jnp.zeros((1, block_size), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(3), tokens)["params"]
    noise = np.random.RandomState(5)
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.1 * noise.randn(*a.shape)), params)
    module = weights.reference(config, VOCAB_SIZE, block_size).double()
    return model, params, weights.load_into(module, params, kind)


def _block_size(kind: str) -> int:
    """Return the context length. Families on windows read several windows of T tokens."""
    return 3 if hasattr((MODELS | EXTENSION_MODELS)[kind], "window") else SIZES["T"]


def random_inputs(shapes: tuple[str, ...]) -> list[np.ndarray]:
    """Return random inputs, given their shapes as in `pairs.TOKENS`."""
    random = np.random.RandomState(7)
    arrays = []
    for names in map(str.split, shapes):
        size = [SIZES[name] for name in names if name != "tokens"]
        if "tokens" in names:
            arrays.append(random.randint(VOCAB_SIZE, size=size, dtype=np.int32))
        else:
            arrays.append(random.randn(*size))
    return arrays


def compare_functions(
    run_jax: Callable[..., jax.Array],
    run_torch: Callable[..., torch.Tensor],
    params: Any,
    module: torch.nn.Module,
    inputs: list[np.ndarray],
    kind: str,
) -> Difference:
    """Compare (params, *inputs) -> array with (*inputs) -> tensor, and their gradients.

    The gradients are those of a random weighted sum of the output.
    """
    ours = jax.jit(run_jax)(params, *inputs)
    factors = np.asarray(np.random.RandomState(11).randn(*ours.shape))
    indices = [i for i, array in enumerate(inputs) if array.dtype.kind == "f"]

    def weighted_sum(params: Any, floats: list[jax.Array]) -> jax.Array:
        arrays = list(map(jnp.asarray, inputs))
        for i, array in zip(indices, floats, strict=True):
            arrays[i] = array
        return (run_jax(params, *arrays) * factors).sum()

    floats = [inputs[i] for i in indices]
    param_grads, input_grads = jax.jit(jax.grad(weighted_sum, argnums=(0, 1)))(params, floats)
    our_grads = weights.to_torch(param_grads, kind)
    our_grads |= {f"input {i}": np.asarray(g) for i, g in zip(indices, input_grads, strict=True)}

    module.zero_grad(set_to_none=True)
    tensors = [
        torch.tensor(array, requires_grad=True)
        if i in indices
        else torch.tensor(array, dtype=torch.long)
        for i, array in enumerate(inputs)
    ]
    theirs = run_torch(*tensors)
    (theirs * torch.tensor(factors)).sum().backward()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    their_grads = {name: gradient_of(p) for name, p in parameters.items()}
    their_grads |= {f"input {i}": gradient_of(tensors[i]) for i in indices}
    output = float(np.max(np.abs(np.asarray(ours) - theirs.detach().numpy())))
    return Difference(output, worst_relative(our_grads, their_grads))


def gradient_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the gradient of a tensor. PyTorch has None where no output depends on it."""
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy().copy()

"""Run both sides of the pairs and return their differences.

All sizes are small. Everything is computed in float64, except the compiled program of `train.py`,
which is float32. jax_enable_x64 must be set.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from makemore_jax.assemble import create_model
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.difference import Difference, worst
from makemore_jax.torch_parity.measure_functions import (
    SIZES,
    VOCAB_SIZE,
    both,
    compare_functions,
    config_of,
    random_inputs,
)
from makemore_jax.torch_parity.measure_training import TOPICS
from makemore_jax.torch_parity.pairs import Pair

NUM_DRAWS = 300  # of initial values


def measure(pair: Pair, kind: str) -> Difference:
    """Return the differences of a pair of the family `kind`, or of a topic ("")."""
    assert jax.config.jax_enable_x64, "set jax_enable_x64"
    if pair.measured_as == "function":
        return _function(pair, kind)
    if pair.measured_as == "initial_values":
        return _initial_values(kind)
    if pair.measured_as == "nothing":
        return Difference()
    return TOPICS[pair.measured_as]()


def _function(pair: Pair, kind: str) -> Difference:
    """Compare the output, and the gradients of all parameters and inputs."""
    model, params, module = both(kind)
    return compare_functions(
        lambda params, *inputs: pair.run_jax(
            lambda method, *args: model.apply({"params": params}, *args, method=method), *inputs
        ),
        lambda *inputs: pair.run_torch(module, *inputs),
        params,
        module,
        random_inputs(pair.inputs),
        kind,
    )


def _initial_values(kind: str) -> Difference:
    """Compare mean and standard deviation of each tensor over many draws.

    The difference is relative to the root mean square of the tensor. Random streams differ, so
    only distributions can be compared.
    """
    config = config_of(kind)
    model = create_model(config.model, VOCAB_SIZE, SIZES["T"])
    tokens = jnp.zeros((1, SIZES["T"]), jnp.int32)
    keys = jax.random.split(jax.random.key(2), NUM_DRAWS)
    draws = jax.jit(jax.vmap(lambda key: model.init(key, tokens)["params"]))(keys)
    moments = jax.tree.map(lambda a: np.array([a.mean(), a.std()]), jax.device_get(draws))
    ours = {name: np.squeeze(a) for name, a in weights.to_torch(moments, kind).items()}
    drawn: dict[str, list[torch.Tensor]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for _ in range(NUM_DRAWS):
            module = weights.reference(config, VOCAB_SIZE, SIZES["T"])
            for name, p in module.named_parameters(remove_duplicate=False):
                drawn.setdefault(name, []).append(p.detach())
    assert ours.keys() == drawn.keys()
    differences = []
    for name, tensors in drawn.items():
        values = torch.stack(tensors).double()
        theirs = np.array([values.mean(), values.std(correction=0)])
        scale = float(np.sqrt(np.sum(theirs**2))) or 1.0
        differences.append(np.max(np.abs(ours[name] - theirs)) / scale)
    return Difference(worst(differences))

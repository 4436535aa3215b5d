"""The compiled training steps of `train.py`, compared with a PyTorch run.

`compare` takes one plain step at a time. `train.py` computes many steps in one program, which skips
padding and splits a batch into microbatches and over devices. The functions here run that program
from the same initial values, on one device and on two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from makemore_jax.assemble import programs
from makemore_jax.config import MeshConfig
from makemore_jax.data import Split
from makemore_jax.parallel import shardings
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import state as state_lib
from makemore_jax.training.state import TrainState

DEVICE_COUNTS = (1, 2)


class Start(NamedTuple):
    """A training in JAX before its first step."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    state: TrainState
    split: Split
    key: jax.Array  # of `make_train_steps`
    batch_size: int


class Outcome(NamedTuple):
    """The results of the compiled steps."""

    grads: Any  # of the mean loss of the first batch, a tree like the parameters
    losses: list[float]  # of each step


class Recorded(NamedTuple):
    """The state of `recording_first_gradients`."""

    inner: Any  # of the optimizer
    step: jax.Array
    grads: Any  # of the first step


def recording_first_gradients(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Return an optimizer that keeps the gradients of its first update in its state."""

    def init(params: Any) -> Recorded:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Recorded(optimizer.init(params), jnp.zeros((), jnp.int32), zeros)

    def update(grads: Any, state: Recorded, params: Any) -> tuple[Any, Recorded]:
        updates, inner = optimizer.update(grads, state.inner, params)
        is_first = state.step == 0
        kept = jax.tree.map(lambda new, old: jnp.where(is_first, new, old), grads, state.grads)
        return updates, Recorded(inner, state.step + 1, kept)

    return optax.GradientTransformation(init, update)


def why_not(num_devices: int, batch_size: int) -> str | None:
    """Return the reason why a run cannot use this number of devices, or None if it can."""
    if num_devices > len(jax.devices()):
        return f"only {len(jax.devices())} device is available"
    if batch_size % num_devices:
        return f"a batch of {batch_size} is not divisible by {num_devices}"
    return None


def train(start: Start, num_steps: int, num_devices: int) -> Outcome:
    """Run compiled steps from `start`, which stays valid, on `num_devices` devices."""
    model, _, state, split, key, batch_size = start
    mesh = make_mesh(MeshConfig(data=num_devices), batch_size, state_lib.num_params(state.params))
    layouts, num_microbatches = programs.choose_layouts(split, model, batch_size, num_devices)
    optimizer = recording_first_gradients(start.optimizer)
    state = state.replace(opt_state=optimizer.init(state.params))
    replicated = shardings.replicated(mesh)
    state = jax.device_put(jax.device_get(state), replicated)  # a copy: the program reuses memory
    split = jax.device_put(split, replicated)
    steps = programs.compile_steps(model, optimizer, batch_size, layouts, mesh, num_microbatches)
    state, metrics = steps(state, split, key, num_steps)
    losses = np.asarray(metrics["train_loss"], np.float64).tolist()
    return Outcome(jax.device_get(state.opt_state.grads), losses)

"""The compiled programs of a run, and those of the core: one device, without extensions."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
from jax import Array

from makemore_jax import models
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import gradients, make_train_step, make_train_steps


class Programs(NamedTuple):
    """A model and its compiled functions."""

    model: nn.Module
    create_state: Callable[[Array], TrainState]  # from a key
    train_steps: Callable[..., tuple[TrainState, dict[str, Array]]]
    evaluate: Callable[..., float]
    put: Callable[[Any], Any] = lambda tree: tree  # arrays -> arrays on the devices of the run
    fetch: Callable[[Any], Any] = lambda tree: tree  # sharded variables -> whole variables


def make_programs(config: Config, dataset: Dataset) -> Programs:
    """Return the programs of a model on one device."""
    model = models.create(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    train_step = make_train_step(gradients(model), optimizer, config.train.batch_size)
    evaluate = make_evaluate(model)

    def create_state(key: Array) -> TrainState:
        return state_lib.create(model, optimizer, key, dataset.block_size)

    return Programs(model, create_state, make_train_steps(train_step), evaluate)

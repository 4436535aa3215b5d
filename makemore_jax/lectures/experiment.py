"""Train a config in a notebook, without files. The state of an experiment is one value.

`train.py` trains the same models with checkpoints, logging and evaluation during training. Here a
function takes an experiment and returns the next one, so a notebook can keep any of them.
"""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from makemore_jax.assemble import create_model, load_data, validate
from makemore_jax.cli import resources
from makemore_jax.config import Config
from makemore_jax.data import Dataset, Split
from makemore_jax.decoding import LanguageModel
from makemore_jax.download import download
from makemore_jax.errors import UserError
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import gradients, make_train_step


class Experiment(NamedTuple):
    """A config with its dataset, model and optimizer, and the training state."""

    config: Config
    dataset: Dataset
    model: nn.Module
    optimizer: optax.GradientTransformation
    state: TrainState


def names_file() -> str:
    """Return the path of makemore's list of names. Download it if it is missing.

    If that fails, print why and return the path of names.txt.
    """
    try:
        return str(download("names", resources.FOLDER / "data"))
    except UserError as error:
        print(f"{error}\nusing the project's own list, names.txt")
        return str(resources.FOLDER / "names.txt")


def prepare(config: Config, dataset: Dataset | None = None) -> Experiment:
    """Load the data and initialize the model with the config's seed. UserError as in train.py.

    Pass a `dataset` with the same `config.data` to avoid loading it again.
    """
    validate(config)
    dataset = dataset or load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    key = jax.random.key(config.seed)
    state = state_lib.create(model, optimizer, key, dataset.block_size)
    return Experiment(config, dataset, model, optimizer, state)


def train(experiment: Experiment, num_steps: int, key: Array) -> tuple[Experiment, np.ndarray]:
    """Train for `num_steps` steps. -> the experiment after them, the loss of each step (nats)."""
    settings = (experiment.model, experiment.optimizer, experiment.config.train.batch_size)
    split = experiment.dataset.splits["train"]
    state, losses = train_state(*settings, num_steps, experiment.state, split, key)
    return experiment._replace(state=state), np.asarray(losses)


@partial(jax.jit, static_argnames=("model", "optimizer", "batch_size", "num_steps"))
def train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_steps: int,
    state: TrainState,
    split: Split,
    key: Array,
) -> tuple[TrainState, Array]:
    """Train for `num_steps` steps in one compiled call. -> the new state, losses (num_steps,).

    This is a pure function, so `jax.vmap` can train a stack of states at once.
    """
    train_step = make_train_step(gradients(model), optimizer, batch_size)
    keys = jax.random.split(key)

    def body(state: TrainState, _: None) -> tuple[TrainState, Array]:
        state, metrics = train_step(state, split, keys)
        return state, metrics["train_loss"]

    return jax.lax.scan(body, state, length=num_steps)


def evaluate(experiment: Experiment, split: str, max_examples: int | None = None) -> float:
    """Return the loss over a split ("train", "dev" or "test"), in nats per character.

    Uses the first `max_examples` examples, or all of them.
    """
    evaluate_split = make_evaluate(experiment.model)
    variables, examples = experiment.state.variables, experiment.dataset.splits[split]
    return evaluate_split(variables, examples, max_examples)


def language_model(experiment: Experiment) -> LanguageModel:
    """Return the model with its parameters, for sampling and scoring."""
    dataset = experiment.dataset
    return LanguageModel(
        experiment.model,
        experiment.state.variables,
        dataset.vocab,
        dataset.max_len,
        dataset.block_size,
    )

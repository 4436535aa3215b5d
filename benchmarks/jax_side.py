"""The JAX side of a comparison: the compiled training steps of train.py for any config."""

import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.configs import config_of
from makemore_jax import assemble, data
from makemore_jax.assemble.programs import make_programs
from makemore_jax.cli import startup
from makemore_jax.config import Config
from makemore_jax.decoding import LanguageModel
from makemore_jax.training.state import num_params


class Trainer:
    """A model that a call trains. The first call with a number of steps also compiles."""

    def __init__(self, config: Config):
        startup.configure_jax()
        began = time.perf_counter()
        self.dataset = assemble.load_data(config.data, config.seed)
        self.load_seconds = time.perf_counter() - began
        self.config, self.key = config, jax.random.key(config.seed)
        programs = make_programs(config, self.dataset)
        self.model, self.train_steps = programs.model, programs.train_steps
        self.state = programs.create_state(self.key)
        self.split = programs.put(self.dataset.splits["train"])
        self.num_params = num_params(self.state.params)

    def __call__(self, num_steps: int, calls: int = 1) -> float:
        """Run `calls` calls of `num_steps` steps. Return the seconds per step."""
        began = time.perf_counter()
        for _ in range(calls):
            self.state, metrics = self.train_steps(self.state, self.split, self.key, num_steps)
        assert np.isfinite(np.asarray(metrics["train_loss"])).all()
        return (time.perf_counter() - began) / (calls * num_steps)

    def language_model(self) -> LanguageModel:
        """Return the model with its current parameters."""
        variables = jax.device_get(self.state.variables)
        sizes = self.dataset.max_len, self.dataset.block_size
        return LanguageModel(self.model, variables, self.dataset.vocab, *sizes)


def draw_batches(config: Config, dataset: data.Dataset, num: int) -> list[tuple[np.ndarray, ...]]:
    """Return batches of the training split, drawn with the keys 0 to num - 1."""
    split = dataset.splits["train"]
    draw = jax.jit(lambda i: data.draw(split, jax.random.key(i), config.train.batch_size)[:2])
    return [tuple(np.asarray(a) for a in draw(i)) for i in range(num)]


def make_trainer(kind: str) -> Callable[[int], float]:
    """Return the function (number of calls of `log_every` steps) -> seconds per step."""
    config = config_of(kind)
    trainer = Trainer(config)
    return lambda calls: trainer(config.train.log_every, calls)

"""Our side: the compiled training step as train.py takes it, of any config."""

import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.configs import config_of
from makemore_jax import data
from makemore_jax.assemble import create_model, load_data
from makemore_jax.cli import startup
from makemore_jax.config import Config
from makemore_jax.decoding import LanguageModel
from makemore_jax.kernels.layouts import choose
from makemore_jax.parallel import sharding
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import make_train_steps


class Trainer:
    """A model that is trained by calling it; the first call with a number of steps compiles."""

    def __init__(self, config: Config):
        startup.use_cores()
        began = time.perf_counter()
        self.dataset = load_data(config.data, config.seed)
        self.load_seconds = time.perf_counter() - began
        self.config, batch_size = config, config.train.batch_size
        self.model = create_model(config.model, self.dataset.vocab.size, self.dataset.block_size)
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        self.key = jax.random.key(config.seed)
        state = state_lib.create(self.model, optimizer, self.key, self.dataset.block_size)
        self.num_params = state_lib.num_params(state.params)
        block_size = self.dataset.block_size
        mesh = sharding.make_mesh(config.mesh, batch_size, self.num_params, block_size=block_size)
        self.state = jax.device_put(state, sharding.replicated(mesh))
        self.split = jax.device_put(self.dataset.splits["train"], sharding.replicated(mesh))
        layouts = choose(self.split, batch_size, self.model, mesh.shape["data"])
        self.train_steps = make_train_steps(self.model, optimizer, batch_size, layouts, mesh)

    def __call__(self, num_steps: int, calls: int = 1) -> float:
        """Take `calls` times so many steps; seconds a step."""
        began = time.perf_counter()
        for _ in range(calls):
            self.state, metrics = self.train_steps(self.state, self.split, self.key, num_steps)
        assert np.isfinite(np.asarray(metrics["train_loss"])).all()
        return (time.perf_counter() - began) / (calls * num_steps)

    def language_model(self) -> LanguageModel:
        """The model as it is now."""
        variables = jax.device_get(self.state.variables)
        sizes = self.dataset.max_len, self.dataset.block_size
        return LanguageModel(self.model, variables, self.dataset.vocab, *sizes)


def draw_batches(config: Config, dataset: data.Dataset, num: int) -> list[tuple[np.ndarray, ...]]:
    """Return batches of the training split, drawn with the keys 0 to num - 1."""
    split = dataset.splits["train"]
    draw = jax.jit(lambda i: data.draw(split, jax.random.key(i), config.train.batch_size))
    return [tuple(np.asarray(a) for a in draw(i)) for i in range(num)]


def make_trainer(kind: str) -> Callable[[int], float]:
    """Return the function (number of calls of `log_every` steps) -> seconds per step."""
    config = config_of(kind)
    trainer = Trainer(config)
    return lambda calls: trainer(config.train.log_every, calls)

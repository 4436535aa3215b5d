"""The differences of the pairs in `training_pairs.py`, by `Pair.measured_as`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from makemore_jax.assemble import create_model
from makemore_jax.config import Config, OptimizerConfig
from makemore_jax.data import draw, draw_indices
from makemore_jax.data.lines import encode
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.losses import mean_loss
from makemore_jax.models import layers
from makemore_jax.original_splits import torch_randperm
from makemore_jax.torch_parity import compiled, idioms, weights
from makemore_jax.torch_parity.difference import Difference, worst, worst_relative
from makemore_jax.torch_parity.family_pairs import FAMILIES
from makemore_jax.torch_parity.measure_functions import (
    BATCH_SIZE,
    SIZES,
    VOCAB_SIZE,
    both,
    compare_functions,
    config_of,
    gradient_of,
    random_inputs,
)
from makemore_jax.torch_parity.pairs import TOKENS
from makemore_jax.torch_parity.step import (
    make_torch_optimizer,
    make_torch_schedule,
    make_torch_step,
    torch_mean_loss,
)
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer, make_schedule
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import gradients, make_train_step, make_train_steps, step_keys

NUM_STEPS = 10
WORDS = (
    *("ana", "bea", "cleo", "dana", "eli", "fae", "gia", "hal", "ida", "jon", "kai", "lea"),
    *("mia", "noa", "ola", "pia", "quinn", "ray", "sol", "tea", "uma", "vera", "wes", "zoe"),
    *("abigail", "benedikt", "clementine"),
)


def _layers() -> Difference:
    class Layers(nn.Module):
        def setup(self):
            self.wte = layers.embedding(VOCAB_SIZE, SIZES["n_embd"])
            self.linear = layers.Linear(SIZES["n_embd"], SIZES["n_embd2"])
            self.norm = layers.LayerNorm()

        def __call__(self, tokens: jax.Array) -> jax.Array:
            return self.norm(self.linear(self.wte(tokens)))

    (tokens,) = random_inputs((TOKENS,))
    model, module = Layers(), idioms.Layers(VOCAB_SIZE, SIZES["n_embd"], SIZES["n_embd2"]).double()
    params = model.init(jax.random.key(1), tokens)["params"]
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    module = weights.load_into(module, params, "layers")
    return compare_functions(
        lambda params, tokens: model.apply({"params": params}, tokens),
        module,
        params,
        module,
        [tokens],
        "layers",
    )


def _loss() -> Difference:
    random = np.random.RandomState(3)
    logits = random.randn(SIZES["B"], SIZES["T"], VOCAB_SIZE)
    targets = random.randint(-1, VOCAB_SIZE, size=logits.shape[:2])
    return compare_functions(
        lambda params, logits: mean_loss(logits, targets),
        lambda logits: torch_mean_loss(logits, torch.tensor(targets)),
        {},
        torch.nn.Module(),
        [logits],
        "loss",
    )


class Training(NamedTuple):
    """The parts of a short training on WORDS, for both sides."""

    model: nn.Module
    module: torch.nn.Module
    state: TrainState
    optimizer: Any
    split: Any
    key: jax.Array
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    config: Config


def _training(kind: str, dtype: Any = jnp.float64) -> Training:
    """Return a training from the initial values of the JAX side."""
    config = config_of(kind)
    chars = tuple(sorted(set("".join(WORDS))))
    block_size = max(map(len, WORDS)) + 1
    split = encode(list(WORDS), Vocab(chars), block_size)
    model = create_model(config.model, len(chars) + 1, block_size)
    optimizer = make_optimizer(config.optimizer, NUM_STEPS)
    start = state_lib.create(model, optimizer, jax.random.key(4), block_size)
    params = jax.tree.map(lambda a: a.astype(dtype), start.params)
    state = TrainState(start.step, params, optimizer.init(params))
    module = weights.reference(config, len(chars) + 1, block_size)
    module = weights.load_into(module.to(getattr(torch, dtype.__name__)), params, kind)
    key = jax.random.key(6)
    keys = jax.random.split(key)
    batches = []
    for i in range(NUM_STEPS):
        inputs, targets, _ = draw(split, step_keys(keys, i)[0], BATCH_SIZE)
        batches.append((_tokens(inputs), _tokens(targets)))
    return Training(model, module, state, optimizer, split, key, batches, config)


def _tokens(array: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.long)


def _torch_gradients(t: Training) -> dict[str, np.ndarray]:
    """Return the gradients of the first batch."""
    inputs, targets = t.batches[0]
    t.module.zero_grad(set_to_none=True)
    torch_mean_loss(t.module(inputs), targets).backward()
    parameters = t.module.named_parameters(remove_duplicate=False)
    return {name: gradient_of(p) for name, p in parameters}


def _step() -> Difference:
    t = _training("gru")
    gradient_fn, keys = gradients(t.model), jax.random.split(t.key)
    data_key, dropout_key = step_keys(keys, 0)
    indices = draw_indices(t.split, data_key, BATCH_SIZE)
    sums = jax.jit(gradient_fn)(t.state.variables, t.split, indices, dropout_key)
    grads = weights.to_torch(jax.tree.map(lambda g: g / sums.count, sums.grads), "gru")
    gradient = worst_relative(grads, _torch_gradients(t))

    train_step = jax.jit(make_train_step(gradient_fn, t.optimizer, BATCH_SIZE))
    torch_step = make_torch_step(t.module, t.config.optimizer, NUM_STEPS)
    state, differences = t.state, []
    for batch in t.batches:
        state, metrics = train_step(state, t.split, keys)
        differences.append(abs(float(metrics["train_loss"]) - torch_step(*batch)))
    return Difference(worst(differences), gradient)


def _optimizer() -> Difference:
    random, differences = np.random.RandomState(8), []
    start, *grads = random.randn(1 + NUM_STEPS, 5, 7)
    for name in ("adamw", "sgd"):
        config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1)
        optimizer, ours = make_optimizer(config, NUM_STEPS), {"w": jnp.asarray(start)}
        state = optimizer.init(ours)
        module = torch.nn.Module()
        module.w = torch.nn.Parameter(torch.tensor(start))
        torch_optimizer = make_torch_optimizer(module, config)
        for grad in grads:
            updates, state = optimizer.update({"w": jnp.asarray(grad)}, state, ours)
            ours = {"w": ours["w"] + updates["w"]}
            module.w.grad = torch.tensor(grad)
            torch_optimizer.step()
        differences.append(np.max(np.abs(ours["w"] - module.w.detach().numpy())))
    return Difference(worst(differences))


def _schedule() -> Difference:
    config = OptimizerConfig(schedule="cosine", warmup_steps=11, min_learning_rate=1e-5)
    schedule = make_schedule(config, 100)
    module = torch.nn.Linear(1, 1)
    optimizer = make_torch_optimizer(module, config)
    torch_schedule, differences = make_torch_schedule(optimizer, config, 100), []
    for i in range(100):
        (theirs, *_) = torch_schedule.get_last_lr()
        differences.append(abs(float(schedule(jnp.asarray(i))) - theirs))
        optimizer.step()
        torch_schedule.step()
    return Difference(worst(differences))


def _permutation() -> Difference:
    with torch.random.fork_rng():
        theirs = idioms.shuffled(1009, 3407).numpy()
    return Difference(float(np.max(np.abs(torch_randperm(1009, 3407) - theirs))))


def _resuming() -> Difference:
    """Compare the batches of steps 5 to 9 with and without steps 0 to 4 before them."""
    generator = torch.Generator().manual_seed(1)
    theirs = []
    for i in range(10):
        if i == 5:
            saved = generator.get_state()
        theirs.append(idioms.draw_from(generator, len(WORDS), BATCH_SIZE).numpy())
    resumed = torch.Generator()
    resumed.set_state(saved)
    again = [idioms.draw_from(resumed, len(WORDS), BATCH_SIZE).numpy() for _ in range(5, 10)]

    t = _training("bigram")
    keys = jax.random.split(t.key)

    def draw_step(i: int) -> np.ndarray:
        return np.asarray(draw_indices(t.split, step_keys(keys, i)[0], BATCH_SIZE))

    ours = [draw_step(i) for i in range(10)]
    ours_again = [draw_step(i) for i in range(5, 10)]
    sides = ((theirs, again), (ours, ours_again))
    return Difference(worst(np.max(np.abs(np.subtract(a[5:], b))) for a, b in sides))


def _batches() -> Difference:
    t = _training("bigram")
    chars = sorted(set("".join(WORDS)))
    dataset = idioms.CharDataset(list(WORDS), chars, t.split.block_size)
    order = np.random.RandomState(1).permutation(len(WORDS))
    ours = t.split.take(jnp.asarray(order))
    theirs = [dataset[int(i)] for i in order]
    loader = idioms.make_loader(dataset, BATCH_SIZE, torch.Generator().manual_seed(1))
    assert next(iter(loader))[0].shape == (BATCH_SIZE, t.split.block_size)
    pairs = zip(ours[:2], zip(*theirs, strict=True), strict=True)
    return Difference(worst(np.abs(np.asarray(a) - torch.stack(b).numpy()).max() for a, b in pairs))


def _round_trip() -> Difference:
    differences = []
    for kind in FAMILIES:
        _, params, _ = both(kind)
        back = weights.from_torch(weights.to_torch(params, kind), params, kind)
        changes = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), params, back)
        differences += jax.tree.leaves(changes)
    return Difference(worst(differences))


def _many_steps() -> Difference:
    t = _training("gru")
    train_step = make_train_step(gradients(t.model), t.optimizer, BATCH_SIZE)
    loader = [tuple(batch) for batch in t.batches]
    theirs = idioms.train_compiled(
        t.module, t.config.optimizer, loader, NUM_STEPS, backend="aot_eager"
    )
    _, metrics = make_train_steps(train_step)(t.state, t.split, t.key, NUM_STEPS)
    return Difference(float(np.max(np.abs(np.asarray(metrics["train_loss"]) - theirs))))


def _compiled_program(num_devices: int) -> Difference:
    """Compare the program of train.py, in float32."""
    if reason := compiled.why_not(num_devices, BATCH_SIZE):
        raise AssertionError(f"{num_devices} devices: {reason}")
    with _float32():
        t = _training("transformer", jnp.float32)
        theirs = _torch_gradients(t)
        start = compiled.Start(t.model, t.optimizer, t.state, t.split, t.key, BATCH_SIZE)
        ours = compiled.train(start, NUM_STEPS, num_devices)
        torch_step = make_torch_step(t.module, t.config.optimizer, NUM_STEPS)
        losses = np.array([torch_step(*batch) for batch in t.batches])
    gradient = worst_relative(weights.to_torch(ours.grads, "transformer"), theirs)
    return Difference(float(np.max(np.abs(ours.losses - losses))), gradient)


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    jax.config.update("jax_enable_x64", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", True)


TOPICS: dict[str, Callable[[], Difference]] = {
    "layers": _layers,
    "loss": _loss,
    "step": _step,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "permutation": _permutation,
    "resuming": _resuming,
    "batches": _batches,
    "round_trip": _round_trip,
    "many_steps": _many_steps,
    "on_one_device": lambda: _compiled_program(1),
    "on_two_devices": lambda: _compiled_program(2),
}

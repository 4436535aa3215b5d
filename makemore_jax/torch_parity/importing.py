"""Make a run from a model that PyTorch saved."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from makemore_jax import models
from makemore_jax.assemble import create_model, load_data, open_checkpoints, open_workdir, validate
from makemore_jax.config import Config, flatten
from makemore_jax.data import Dataset
from makemore_jax.errors import Diverged, UserError
from makemore_jax.integrity import finite
from makemore_jax.text.dataset import SAMPLE_LEN, TextDataset
from makemore_jax.torch_parity import files, infer, moments, weights
from makemore_jax.torch_parity.files import Stored
from makemore_jax.torch_parity.meta_file import read_meta
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState


class Converted(NamedTuple):
    """The result of `from_torch`."""

    config: Config
    step: int
    has_moments: bool  # whether the state of the optimizer was in the file
    dev_loss: float | None


def from_torch(
    file: Path, config: Config, folder: Path, data: str | None = None, meta: Path | None = None
) -> Converted:
    """Make a run in `folder` from the model in `file`.

    `config` has the fields that the file does not determine. `data`, by default that of the config,
    and `meta`, nanoGPT's meta.pkl, have the vocabulary. UserError, with nothing written, if they do
    not match.
    """
    if (folder / "config.json").exists():
        raise UserError(f"--workdir: {folder} already has a run; give another folder")
    stored = files.read(file)
    with reporting_content(file):
        vocab_size = complete(config, stored, file)
    config.data.path = data or config.data.path
    dataset = load_dataset(config, meta, has_text=data is not None or meta is None)
    if dataset.vocab.size != vocab_size:
        raise UserError(
            f"{config.data.path} has {dataset.vocab.size} tokens, {file} has {vocab_size}; "
            "give the text that the model was trained on"
        )
    config.data.block_size = dataset.block_size
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    shapes = models.variable_shapes(model, dataset.block_size)
    with reporting_content(file):
        state, has_moments = to_state(stored, config, shapes, vocab_size, file)
    try:
        finite.check(int(state.step), state)
    except Diverged as error:
        raise UserError(f"{file}: {error.problem}") from None
    dev_loss = _dev_loss(stored.dev_loss)
    if dataset.splits:
        dev_loss = make_evaluate(model)(state.variables, dataset.splits["dev"])
    with open_workdir(folder, config, dataset):
        open_checkpoints(folder).save(state, dev_loss)
        if dataset.splits:
            write_config_file(folder / "config.py", config)
    return Converted(config, int(state.step), has_moments, dev_loss)


@contextlib.contextmanager
def reporting_content(file: Path) -> Iterator[None]:
    """Turn the errors that unexpected values in a file cause into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} has unexpected content: {error!r:.200}") from None


def complete(config: Config, stored: Stored, file: Path) -> int:
    """Set the fields of a config that a file determines. Return the size of its vocabulary.

    Raise UserError if the result is not valid.
    """
    inferred, vocab_size = infer.model_fields(stored, file, config.model.batch_norm)
    if stored.model_args is not None:
        inferred |= infer.nanogpt_fields(stored, inferred, vocab_size, file)
    if stored.optimizer is not None:
        from_optimizer = moments.optimizer_fields(stored.optimizer, file)
        # The learning rate of the optimizer is that of one step, so nanoGPT's settings count.
        inferred = from_optimizer | inferred
        inferred["optimizer.decay"] = from_optimizer["optimizer.decay"]
    infer.merge(config, inferred, file)
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return vocab_size


def load_dataset(config: Config, meta: Path | None, has_text: bool) -> Dataset:
    """Return the data of a config. Without a text it only has the vocabulary of `meta`.

    Raise UserError if the text and `meta` have different characters.
    """
    if meta is None:
        return load_data(config.data, config.seed)
    vocab, sha256 = read_meta(meta)
    if config.data.kind != "text":
        raise UserError(f"--meta: nanoGPT's models read text, not data.kind={config.data.kind}")
    if has_text:
        dataset = load_data(config.data, config.seed)
        if dataset.vocab != vocab:
            raise UserError(f"--meta: {meta} and {config.data.path} have different characters")
        return dataset
    if config.data.block_size is None:
        raise UserError("data.block_size: is not set; the file does not have it")
    config.data.path = str(meta)
    return TextDataset(
        vocab=vocab,
        block_size=config.data.block_size,
        max_len=SAMPLE_LEN,
        splits={},
        sha256=sha256,
        unit="characters",
        source=config.data,
    )


def to_state(
    stored: Stored, config: Config, shapes: Any, vocab_size: int, file: Path
) -> tuple[TrainState, bool]:
    """Return the training state in a file, and whether it has the state of the optimizer.

    `shapes` are those of the model's variables.
    """
    kind, block_size = config.model.kind, config.data.block_size
    try:
        tensors = weights.without_masks(stored.tensors, kind, block_size)
        variables = weights.variables_from_torch(tensors, shapes, kind)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    variables = _to_float32(variables)
    params = variables.pop("params")
    step = int(np.asarray(stored.step))
    if not 0 <= step < 2**31:
        raise UserError(f"{file}: iter_num is {step}, not a number of steps")
    opt_state = make_optimizer(config.optimizer, config.train.steps).init(params)
    has_moments = stored.optimizer is not None and config.optimizer.name == "adamw"
    if has_moments:
        module = weights.shapes_only(config, vocab_size)
        order = {name: tuple(p.shape) for name, p in module.named_parameters()}
        count, *both = moments.read(stored.optimizer, order, file)
        mu, nu = (_to_float32(weights.from_torch(m, shapes["params"], kind)) for m in both)
        step = step if stored.model_args is not None else count
        opt_state = moments.replace_moments(opt_state, step, count, mu, nu)
    return TrainState(jnp.int32(step), params, opt_state, variables), has_moments


def _to_float32(tree: Any) -> Any:
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), tree)


def _dev_loss(value: Any) -> float | None:
    """Return the loss that nanoGPT saved, if it is a finite number."""
    is_scalar = isinstance(value, int | float | np.ndarray) and np.ndim(value) == 0
    return float(value) if is_scalar and np.isfinite(value) else None


def write_config_file(file: Path, config: Config) -> None:
    """Write a config as a file for train.py --config."""
    lines = [
        '"""The config of a model that was converted from PyTorch."""\n',
        "from makemore_jax.config import Config\n\n",
        "def get_config() -> Config:",
        "    config = Config()",
    ]
    default = flatten(Config())
    for name, value in flatten(config).items():
        lines += [f"    config.{name} = {value!r}"] if value != default[name] else []
    file.write_text("\n".join([*lines, "    return config", ""]), "utf-8")

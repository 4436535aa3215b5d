"""Convert a trained model from PyTorch to a run of this project, or back.

    python -m makemore_jax.torch_parity.convert from-torch model.pt \\
        --data data/makemore_names.txt --workdir runs/from-makemore
    python -m makemore_jax.torch_parity.convert from-torch out/ckpt.pt \\
        --data data/tinyshakespeare.txt --workdir runs/from-nanogpt
    python -m makemore_jax.torch_parity.convert to-torch --workdir runs/gru model.pt

from-torch reads the model.pt of makemore.py, the ckpt.pt of nanoGPT's train.py, or the same tensors
as .npz or .safetensors. It makes a run that sample.py and train.py can use. The file determines the
family, the sizes and, for nanoGPT, the settings of the training; --config what the file does not
say. If the file has the state of AdamW, training continues with it. The vocabulary comes from
--data, the text that the model was trained on, or from --meta, nanoGPT's meta.pkl.

to-torch writes a ckpt.pt for nanoGPT if the model is nanoGPT's: a transformer with tied weights and
model.activation=gelu_exact. Else it writes a model.pt that makemore's model of the same sizes loads
with strict=True. --meta names the meta.pkl to write for nanoGPT's sample.py.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from makemore_jax import models
from makemore_jax.assemble import create_model, load_data, open_checkpoints, open_workdir, read_run
from makemore_jax.cli import command_line, config_flag
from makemore_jax.config import Config, flatten, validate
from makemore_jax.data import Dataset
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.text.dataset import SAMPLE_LEN, TextDataset
from makemore_jax.torch_parity import files, infer, moments, weights
from makemore_jax.torch_parity.files import Stored
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_batch_sums, make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "from-torch: config file, or the name of one in configs/"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run to write (from-torch) or to read (to-torch)"
)
DATA = flags.DEFINE_string("data", None, "from-torch: text that the model was trained on")
META = flags.DEFINE_string("meta", None, "nanoGPT's meta.pkl, to read or to write")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "to-torch: lowest dev loss, or latest"
)


class Converted(NamedTuple):
    """What from-torch has made."""

    config: Config
    step: int
    has_moments: bool  # whether the state of the optimizer was in the file
    dev_loss: float | None


def from_torch(
    file: Path, config: Config, folder: Path, data: str | None = None, meta: Path | None = None
) -> Converted:
    """Make a run in `folder` from the model in `file`.

    `config` has the fields that the file does not determine. `data`, by default that of the config,
    and `meta` are described above. UserError, with nothing written, if they do not match.
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
    dev_loss = _dev_loss(stored.dev_loss)
    if dataset.splits:
        dev_loss = make_evaluate(make_batch_sums(model))(state.variables, dataset.splits["dev"])
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

    UserError if the result is not valid.
    """
    found, vocab_size = infer.model_fields(stored, file, config.model.batch_norm)
    if stored.optimizer is not None:
        found |= moments.optimizer_fields(stored.optimizer, file)
    if stored.model_args is not None:
        found |= infer.nanogpt_fields(stored, found, vocab_size, file)
    infer.merge(config, found, file)
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return vocab_size


def load_dataset(config: Config, meta: Path | None, has_text: bool) -> Dataset:
    """Return the data of a config. Without a text it only has the vocabulary of `meta`.

    UserError if the characters of both differ.
    """
    if meta is None:
        return load_data(config.data, config.seed)
    vocab, sha256 = files.read_meta(meta)
    if config.data.kind != "text":
        raise UserError(f"--meta: nanoGPT's models read text, not data.kind={config.data.kind}")
    if has_text:
        dataset = load_data(config.data, config.seed)
        if dataset.vocab != vocab:
            raise UserError(f"--meta: {meta} has other characters than {config.data.path}")
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
    if stored.optimizer is not None:
        module = reference(config, vocab_size)
        order = {name: tuple(p.shape) for name, p in module.named_parameters()}
        count, *both = moments.read(stored.optimizer, order, config.optimizer.decay, file)
        mu, nu = (_to_float32(weights.from_torch(m, shapes["params"], kind)) for m in both)
        step = step if stored.model_args is not None else count
        opt_state = moments.replace_moments(opt_state, step, count, mu, nu)
    state = TrainState(jnp.int32(step), params, opt_state, variables)
    return state, stored.optimizer is not None


def reference(config: Config, vocab_size: int) -> Any:
    """Return the PyTorch model of a config without memory for its tensors."""
    import torch

    with torch.device("meta"):
        return weights.reference(config, vocab_size, config.data.block_size)


def _to_float32(tree: Any) -> Any:
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), tree)


def _dev_loss(value: Any) -> float | None:
    """Return the loss that nanoGPT saved, if it is a number."""
    return float(value) if isinstance(value, int | float | np.ndarray) else None


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


def is_nanogpt(config: Config) -> bool:
    """Return whether nanoGPT has the model of a config."""
    model = config.model
    return model.kind == "transformer" and model.tied and model.activation == "gelu_exact"


def to_torch(folder: Path, file: Path, checkpoint: str, meta: Path | None = None) -> str:
    """Write the model of a run to `file`. Return the name of the program that reads it."""
    import torch

    run = read_run(folder)
    config, vocab_size = run.config, run.vocab.size
    block_size, kind = config.data.block_size, config.model.kind
    is_pickle = file.suffix not in (".npz", ".safetensors")
    as_checkpoint = is_nanogpt(config) and is_pickle
    if meta is not None and run.vocab.has_end:
        raise UserError("--meta: needs a run on data.kind=text; this run was trained on lines")
    model = create_model(config.model, vocab_size, block_size)
    checkpoints = open_checkpoints(folder, read_only=True)
    if as_checkpoint:
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        template = state_lib.shapes(model, optimizer, block_size)
        state = checkpoints.restore(checkpoint, template)
        content = to_checkpoint(state, config, run.vocab, checkpoints.best_dev_loss(), meta)
    else:
        template = models.variable_shapes(model, block_size)
        variables = checkpoints.restore_variables(checkpoint, template)
        module = weights.reference(config, vocab_size, block_size)
        weights.load_into(module, variables["params"], kind, variables.get("batch_stats"))
        content = module.state_dict()
    try:
        if is_pickle:
            torch.save(content, file)
        else:
            write_arrays(file, content)
        if meta is not None:
            files.write_meta(meta, run.vocab)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} can't be written: {error!s:.200}") from None
    return "nanoGPT" if is_nanogpt(config) else "makemore"


def to_checkpoint(
    state: TrainState, config: Config, vocab: Vocab, dev_loss: float, meta: Path | None
) -> dict[str, Any]:
    """Return the content of nanoGPT's ckpt.pt. The name of its data is the folder of `meta`."""
    import torch

    tensors = weights.to_torch(state.params, "transformer")
    found, mu, nu = moments.find_moments(state.opt_state), {}, {}
    if config.optimizer.name == "adamw":
        mu, nu = (weights.to_torch(tree, "transformer") for tree in (found.mu, found.nu))
    # nanoGPT always has two groups. With decay="all" both decay.
    groups = replace(config.optimizer, name="adamw", decay="matrices")
    count = int(found.count) if mu else 0
    optimizer = moments.write(reference(config, vocab.size), groups, count, mu, nu)
    if config.optimizer.decay == "all":
        optimizer["param_groups"][1]["weight_decay"] = config.optimizer.weight_decay
    dataset = (meta.absolute().parent if meta else Path(config.data.path)).stem
    settings = infer.nanogpt_settings(config, dataset)
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    return {
        "model": {name: torch.tensor(value) for name, value in tensors.items()},
        "optimizer": optimizer,
        "model_args": {name: settings[name] for name in names} | {"vocab_size": vocab.size},
        "iter_num": int(state.step),
        "best_val_loss": dev_loss,
        "config": settings,
    }


def write_arrays(file: Path, tensors: dict[str, Any]) -> None:
    """Write PyTorch's tensors to a .npz or .safetensors file."""
    if file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
        return
    from safetensors.torch import save_file

    # safetensors rejects tensors that share memory, such as tied weights.
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)


def main(arguments: list[str]) -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of the run to write or to read")
    if len(arguments) != 2 or arguments[0] not in ("from-torch", "to-torch"):
        raise UserError("expected from-torch FILE or to-torch FILE; see --help")
    direction, file, folder = arguments[0], Path(arguments[1]), Path(WORKDIR.value)
    meta = None if META.value is None else Path(META.value)
    if direction == "to-torch":
        try:
            program = to_torch(folder, file, CHECKPOINT.value, meta)
        except ModuleNotFoundError as error:
            raise UserError(f"to-torch: needs {error.name}: pip install {error.name}") from None
        print(f"{file}: the {CHECKPOINT.value} weights of {folder}, for {program}")
        return
    if CONFIG.value is None and DATA.value is None and meta is None:
        raise UserError(
            "--data is missing; give the text that the model was trained on, or --meta with "
            "nanoGPT's meta.pkl"
        )
    config = config_flag.read(CONFIG) if CONFIG.value else Config()
    made = from_torch(file, config, folder, DATA.value, meta)
    loss = "" if made.dev_loss is None else f", dev loss {made.dev_loss:.4f}"
    optimizer = f" of step {made.step} with its optimizer" if made.has_moments else ""
    print(f"{folder}: a run with the weights of {file}{optimizer}{loss}")
    if (folder / "config.py").exists():
        print(f"python train.py --config {folder / 'config.py'} --workdir {folder} continues it")


if __name__ == "__main__":
    command_line.run(main, __doc__, config_required=False, name="convert")

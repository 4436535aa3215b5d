"""Convert a trained model from PyTorch to a run of this project, or back.

    python -m makemore_jax.torch_parity.convert from-torch model.pt \\
        --config configs/gru.py --workdir runs/gru-from-torch
    python -m makemore_jax.torch_parity.convert to-torch --workdir runs/gru model.pt

from-torch reads the model.pt of makemore.py (or the same tensors as .npz or .safetensors) and makes
a run that sample.py and train.py can use. The data of the config determines the vocabulary, so it
must be the file that the model was trained on. to-torch writes a model.pt that makemore's model of
the same sizes loads with strict=True.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from makemore_jax import models
from makemore_jax.assemble import create_model, load_data, open_checkpoints, open_workdir, read_run
from makemore_jax.cli import command_line, config_flag
from makemore_jax.config import Config, validate
from makemore_jax.errors import UserError
from makemore_jax.torch_parity import weights
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "from-torch: config file, or the name of one in configs/"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run to write (from-torch) or to read (to-torch)"
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "to-torch: lowest dev loss, or latest"
)


def from_torch(file: Path, config: Config, folder: Path) -> float:
    """Make a run in `folder` from the weights in `file`. Return its dev loss.

    UserError, with nothing written, if file, config and data do not match.
    """
    validate(config)
    if (folder / "config.json").exists():
        raise UserError(f"--workdir: {folder} already has a run; give another folder")
    tensors = weights.read(file)
    dataset = load_data(config.data, config.seed)
    config.data.block_size = dataset.block_size
    weights.check_kind(config.model.kind)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    template = models.param_shapes(model, dataset.block_size)
    try:
        tensors = weights.without_masks(tensors, config.model.kind, dataset.block_size)
        values = weights.from_torch(tensors, template, config.model.kind)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    params = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), values)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    dev_loss = make_evaluate(model)(state.variables, dataset.splits["dev"])
    with open_workdir(folder, config, dataset):
        open_checkpoints(folder).save(state, dev_loss)
    return dev_loss


def to_torch(folder: Path, file: Path, checkpoint: str) -> None:
    """Write the weights of a run to `file`, as a state_dict with makemore's names and buffers."""
    import torch

    run = read_run(folder)
    block_size = run.config.data.block_size
    model = create_model(run.config.model, run.vocab.size, block_size)
    template = models.variable_shapes(model, block_size)
    checkpoints = open_checkpoints(folder, read_only=True)
    params = checkpoints.restore_variables(checkpoint, template)["params"]
    module = weights.reference(run.config, run.vocab.size, block_size)
    weights.load_into(module, params, run.config.model.kind)
    tensors = module.state_dict()
    try:
        if file.suffix == ".npz":
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
        elif file.suffix == ".safetensors":
            from safetensors.torch import save_file

            # safetensors rejects tensors that share memory, such as tied weights.
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
        else:
            torch.save(tensors, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} can't be written: {error!s:.200}") from None


def main(arguments: list[str]) -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of the run to write or to read")
    if len(arguments) != 2 or arguments[0] not in ("from-torch", "to-torch"):
        raise UserError("expected from-torch FILE or to-torch FILE; see --help")
    direction, file, folder = arguments[0], Path(arguments[1]), Path(WORKDIR.value)
    if direction == "to-torch":
        try:
            to_torch(folder, file, CHECKPOINT.value)
        except ModuleNotFoundError as error:
            raise UserError(f"to-torch: needs {error.name}: pip install {error.name}") from None
        print(f"{file}: the {CHECKPOINT.value} weights of {folder}")
        return
    if CONFIG.value is None:
        raise UserError("--config is missing; give the config of the model")
    dev_loss = from_torch(file, config_flag.read(CONFIG), folder)
    print(f"{folder}: a run with the weights of {file}, dev loss {dev_loss:.4f}")


if __name__ == "__main__":
    command_line.run(main, __doc__, config_required=False, name="convert")

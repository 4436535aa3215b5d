"""Write the model of a run to a file that PyTorch programs load."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax import models
from makemore_jax.assemble import create_model, open_checkpoints, read_run
from makemore_jax.config import Config
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.torch_parity import infer, moments, weights
from makemore_jax.torch_parity.meta_file import write_meta
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState

SUFFIXES = (".pt", ".pth", ".bin", ".npz", ".safetensors")
MAKEMORE_KINDS = ("bigram", "mlp", "rnn", "gru", "bow", "transformer")


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
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file}: the name must end in {', '.join(SUFFIXES)}")
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
        variables = checkpoints.restore_items(checkpoint, template)
        module = weights.reference(config, vocab_size, block_size)
        weights.load_into(module, variables["params"], kind, variables.get("batch_stats"))
        content = module.state_dict()
    try:
        if is_pickle:
            torch.save(content, file)
        else:
            write_arrays(file, content)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} can't be written: {error!s:.200}") from None
    if meta is not None:
        try:
            write_meta(meta, run.vocab)
        except OSError as error:
            raise UserError(f"{meta} can't be written: {error.strerror}") from None
    if is_nanogpt(config):
        return "nanoGPT"
    return "makemore" if kind in MAKEMORE_KINDS else "torch_parity/models.py"


def to_checkpoint(
    state: TrainState, config: Config, vocab: Vocab, dev_loss: float, meta: Path | None
) -> dict[str, Any]:
    """Return the content of nanoGPT's ckpt.pt. The name of its data is the folder of `meta`."""
    import torch

    tensors = weights.to_torch(state.params, "transformer")
    adam, mu, nu = moments.find_moments(state.opt_state), {}, {}
    if config.optimizer.name == "adamw":
        mu, nu = (weights.to_torch(tree, "transformer") for tree in (adam.mu, adam.nu))
    # nanoGPT always has two groups. With decay="all" both decay.
    groups = replace(config.optimizer, name="adamw", decay="matrices")
    count = int(adam.count) if mu else 0
    optimizer = moments.write(weights.shapes_only(config, vocab.size), groups, count, mu, nu)
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

"""Weights from one world to the other: a walk over the tree of a Flax model.

Each leaf has a name in PyTorch's state_dict that follows from its path, and a shape that is the
same or, for the matrices of linear layers, turned round:

    h_0 / attn / c_attn / kernel (C, 3C)   <->   transformer.h.0.attn.c_attn.weight (3C, C)

A transformer whose output layer is its embedding has it under both of its names in PyTorch, and
once in the tree.

Nothing is computed on the way, so a round trip gives back every bit.
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from makemore_jax.config import Config
from makemore_jax.errors import UserError

OLDEST_SAFE_TORCH = (2, 10)  # torch.load(weights_only=True) has known security holes before it

# The last part of a path in Flax -> that in PyTorch.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}

HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # one tensor, where they are tied


def torch_name(path: tuple[str, ...], kind: str) -> str:
    """The name in PyTorch of the leaf at `path` of a model of this kind."""
    *modules, leaf = path
    parts = [re.sub(r"^(h|mlp)_(\d+)$", r"\1.\2", module) for module in modules]
    inside = kind == "transformer" and path[0] != "lm_head"
    return ".".join([*(["transformer"] if inside else []), *parts, _LEAVES.get(leaf, leaf)])


def _walk(tree: Any, kind: str) -> dict[tuple[str, ...], tuple[str, Any]]:
    """Every leaf by its path in Flax, in the order of the tree: its name in PyTorch and itself."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [tuple(key.key for key in path) for path, _ in leaves]
    return {
        path: (torch_name(path, kind), leaf[1]) for path, leaf in zip(paths, leaves, strict=True)
    }


def _is_tied(tree: Any, kind: str) -> bool:
    return kind == "transformer" and "lm_head" not in tree


def to_torch(params: Any, kind: str) -> dict[str, np.ndarray]:
    """The parameters under PyTorch's names and in its shapes."""
    tensors = {
        name: np.asarray(leaf).T if path[-1] == "kernel" else np.asarray(leaf)
        for path, (name, leaf) in _walk(params, kind).items()
    }
    return tensors | ({HEAD: tensors[EMBEDDING]} if _is_tied(params, kind) else {})


def from_torch(tensors: dict[str, np.ndarray], like: Any, kind: str) -> Any:
    """The tree of `like` with the values of a state_dict. UserError names what does not fit."""
    walk = _walk(like, kind)
    for path, (name, leaf) in walk.items():
        if name not in tensors:
            raise UserError(f"{name} is missing; is it of a model of the kind {kind}?")
        wanted = tuple(reversed(leaf.shape)) if path[-1] == "kernel" else tuple(leaf.shape)
        if tensors[name].shape != wanted:
            raise UserError(f"{name} is {tensors[name].shape}, the config needs {wanted}")
        if not np.issubdtype(tensors[name].dtype, np.floating):
            raise UserError(f"{name} holds {tensors[name].dtype}, not floating-point numbers")
    known = {name for name, _ in walk.values()}
    for name in tensors:
        if name == HEAD and _is_tied(like, kind):
            if not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
                raise UserError(f"{HEAD} is not {EMBEDDING}; give --config.model.tied=False")
        elif name not in known:
            raise UserError(f"{name} is not a tensor of a {kind} with the sizes of the config")

    values = [
        np.ascontiguousarray(tensors[name].T if path[-1] == "kernel" else tensors[name])
        for path, (name, _) in walk.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def without_masks(tensors: dict[str, np.ndarray], kind: str, block_size: int) -> dict:
    """The tensors less makemore's buffers, the causal masks. UserError for another context."""
    pattern = {
        "transformer": r"transformer\.h\.\d+\.attn\.bias",
        "bow": r"context_block\.cbow\.bias",
    }
    masks = [name for name in tensors if re.fullmatch(pattern.get(kind, "(?!)"), name)]
    for name in masks:
        if tensors[name].shape[-2:] != (block_size, block_size):
            raise UserError(
                f"{name} is {tensors[name].shape}, for a context of {tensors[name].shape[-1]}; "
                f"the data and the config have one of {block_size}"
            )
        if not (tensors[name] == np.tril(np.ones((block_size, block_size)))).all():
            raise UserError(f"{name} is not a causal mask")
    return {name: tensor for name, tensor in tensors.items() if name not in masks}


def read(file: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a .pt, .npz or .safetensors file. UserError if that fails.

    Pickles are opened with weights_only=True, which is safe from torch 2.10 on. Everything else
    works with torch 2.9.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
        return _read_pickle(file)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # a damaged file fails in ways of its own in each of the libraries
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(f"{file} can't be read as {file.suffix or 'a pickle'}: {reason}") from None


def _read_pickle(file: Path) -> dict[str, np.ndarray]:
    import torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_SAFE_TORCH:
        raise UserError(
            f"{file}: torch {torch.__version__} can't open pickles safely; install torch 2.10 or "
            "newer, or convert the weights to .npz or .safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which is not the user's concern
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} is not opened: it holds more than tensors, or is cut") from None
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise UserError(f"{file} holds no state_dict, a dictionary of tensors by their names")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def check_kind(kind: str) -> None:
    """UserError for a family that has no twin in PyTorch here."""
    if kind == "window_mlp":
        raise UserError(f"model.kind: {kind} has no twin in PyTorch here")


def reference(
    config: Config, vocab_size: int, block_size: int, fused_attention: bool = False
) -> Any:
    """The model of a config in PyTorch, in float32 and without dropout."""
    from makemore_jax.torch_parity.models import MODELS

    check_kind(config.model.kind)
    names = ("n_layer", "n_head", "n_embd", "n_embd2", "activation", "bias", "tied")
    sizes = {name: getattr(config.model, name) for name in names}
    sizes |= {"vocab_size": vocab_size, "block_size": block_size}
    return MODELS[config.model.kind](**sizes, fused_attention=fused_attention)


def load_into(module: Any, params: Any, kind: str) -> Any:
    """Give a reference model these parameters; its masks stay its own."""
    import torch

    tensors = {name: torch.tensor(value) for name, value in to_torch(params, kind).items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    masks = {name for name, _ in module.named_buffers()}
    if set(missing) != masks or unexpected:
        raise AssertionError(f"the two models differ: {missing} {unexpected}")
    return module

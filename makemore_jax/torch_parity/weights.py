"""Convert weights between Flax and PyTorch.

The path of each leaf of the Flax tree determines its name in PyTorch's state_dict. The matrices of
linear layers are transposed, all other shapes are equal:

    h_0 / attn / c_attn / kernel (C, 3C)   <->   transformer.h.0.attn.c_attn.weight (3C, C)

Tied weights of a transformer have two names in PyTorch and occur once in the tree.

Values are copied, so a round trip is bit-exact.
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
from makemore_jax.npz import read_npz

MIN_SAFE_TORCH = (2, 10)  # earlier versions of torch.load(weights_only=True) have security holes

# Last part of a name: Flax -> PyTorch.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}

HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # the same tensor if tied


def torch_name(path: tuple[str, ...], kind: str) -> str:
    """Return the PyTorch name of the leaf at `path` of a model."""
    *modules, leaf = path
    parts = [re.sub(r"^(h|mlp)_(\d+)$", r"\1.\2", module) for module in modules]
    is_in_body = kind == "transformer" and path[0] != "lm_head"
    return ".".join([*(["transformer"] if is_in_body else []), *parts, _LEAVES.get(leaf, leaf)])


def _walk(tree: Any, kind: str) -> dict[tuple[str, ...], tuple[str, Any]]:
    """Return {path in Flax: (name in PyTorch, leaf)} in tree order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [tuple(key.key for key in path) for path, _ in leaves]
    return {
        path: (torch_name(path, kind), leaf) for path, (_, leaf) in zip(paths, leaves, strict=True)
    }


def _is_tied(tree: Any, kind: str) -> bool:
    return kind == "transformer" and "lm_head" not in tree


def to_torch(params: Any, kind: str) -> dict[str, np.ndarray]:
    """Return the parameters with PyTorch's names and shapes."""
    tensors = {
        name: np.asarray(leaf).T if path[-1] == "kernel" else np.asarray(leaf)
        for path, (name, leaf) in _walk(params, kind).items()
    }
    return tensors | ({HEAD: tensors[EMBEDDING]} if _is_tied(params, kind) else {})


def from_torch(tensors: dict[str, np.ndarray], template: Any, kind: str) -> Any:
    """Return a tree like `template` with the values of a state_dict.

    UserError for a tensor that is missing, unknown, or has the wrong shape or dtype.
    """
    walk = _walk(template, kind)
    for path, (name, leaf) in walk.items():
        if name not in tensors:
            raise UserError(f"{name} is missing; is this a model of kind {kind}?")
        expected = tuple(reversed(leaf.shape)) if path[-1] == "kernel" else tuple(leaf.shape)
        if tensors[name].shape != expected:
            raise UserError(f"{name} is {tensors[name].shape}, the config needs {expected}")
        if not np.issubdtype(tensors[name].dtype, np.floating):
            raise UserError(f"{name} has dtype {tensors[name].dtype}, not a floating-point type")
    known_names = {name for name, _ in walk.values()}
    for name in tensors:
        if name == HEAD and _is_tied(template, kind):
            if not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
                raise UserError(f"{HEAD} differs from {EMBEDDING}; use --config.model.tied=False")
        elif name not in known_names:
            raise UserError(f"{name} is not a tensor of a {kind} with the sizes of the config")

    values = [
        np.ascontiguousarray(tensors[name].T if path[-1] == "kernel" else tensors[name])
        for path, (name, _) in walk.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(template), values)


def without_masks(tensors: dict[str, np.ndarray], kind: str, block_size: int) -> dict:
    """Remove makemore's causal masks from the tensors. UserError for another context length."""
    pattern = {
        "transformer": r"transformer\.h\.\d+\.attn\.bias",
        "bow": r"context_block\.cbow\.bias",
    }
    masks = [name for name in tensors if re.fullmatch(pattern.get(kind, "(?!)"), name)]
    for name in masks:
        shape = tensors[name].shape
        if shape[-2:] != (block_size, block_size) or tensors[name].size != block_size**2:
            raise UserError(
                f"{name} is {shape}, for a context of {shape[-1] if shape else 0}; the data and "
                f"the config need one of {block_size}"
            )
        if not (tensors[name] == np.tril(np.ones((block_size, block_size)))).all():
            raise UserError(f"{name} is not a causal mask")
    return {name: tensor for name, tensor in tensors.items() if name not in masks}


def read(file: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a .pt, .npz or .safetensors file. UserError if that fails.

    Pickle files are opened with weights_only=True, which is safe since torch 2.10. Everything else
    works with torch 2.9.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        if file.suffix == ".npz":
            return read_npz(file)
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
        return _read_pickle(file)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # each library raises other errors for damaged files
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(f"{file} can't be read as {file.suffix or 'a pickle'}: {reason}") from None


def _read_pickle(file: Path) -> dict[str, np.ndarray]:
    import torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < MIN_SAFE_TORCH:
        raise UserError(
            f"{file}: torch {torch.__version__} can't open pickles safely; install torch 2.10 or "
            "newer, or convert the weights to .npz or .safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{file} was not loaded: it is incomplete or contains more than tensors"
        ) from None
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise UserError(f"{file} does not contain a state_dict (tensors by name)")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def check_kind(kind: str) -> None:
    """Raise UserError for a family without a PyTorch reference model."""
    if kind == "window_mlp":
        raise UserError(f"model.kind: {kind} has no PyTorch reference model")


def reference(
    config: Config, vocab_size: int, block_size: int, fused_attention: bool = False
) -> Any:
    """Return the PyTorch model of a config, in float32 and without dropout."""
    from makemore_jax.torch_parity.models import MODELS

    check_kind(config.model.kind)
    names = ("n_layer", "n_head", "n_embd", "n_embd2", "activation", "bias", "tied")
    sizes = {name: getattr(config.model, name) for name in names}
    sizes |= {"vocab_size": vocab_size, "block_size": block_size}
    return MODELS[config.model.kind](**sizes, fused_attention=fused_attention)


def load_into(module: Any, params: Any, kind: str) -> Any:
    """Load parameters into a reference model. Its masks do not change."""
    import torch

    tensors = {name: torch.tensor(value) for name, value in to_torch(params, kind).items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    masks = {name for name, _ in module.named_buffers()}
    if set(missing) != masks or unexpected:
        raise AssertionError(f"the two models differ: {missing} {unexpected}")
    return module

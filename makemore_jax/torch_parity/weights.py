"""Convert weights between Flax and PyTorch.

The path of each leaf of the Flax tree determines its name in PyTorch's state_dict. The matrices of
linear layers are transposed, all other shapes are equal:

    h_0 / attn / c_attn / kernel (C, 3C)   <->   transformer.h.0.attn.c_attn.weight (3C, C)

Tied weights of a transformer have two names in PyTorch and occur once in the tree.

Values are copied, so a round trip is bit-exact.
"""

import re
from typing import Any

import jax
import numpy as np

from makemore_jax.config import Config
from makemore_jax.errors import UserError

# Last part of a name: Flax -> PyTorch.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}  # of batch norm

HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # the same tensor if tied


def torch_name(path: tuple[str, ...], kind: str) -> str:
    """Return the PyTorch name of the leaf at `path` of a model."""
    *modules, leaf = path
    parts = [re.sub(r"^(h|mlp|norms)_(\d+)$", r"\1.\2", module) for module in modules]
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
    return kind == "transformer" and "wte" in tree and "lm_head" not in tree


def to_torch(params: Any, kind: str) -> dict[str, np.ndarray]:
    """Return the parameters with PyTorch's names and shapes."""
    tensors = {
        name: np.asarray(leaf).T if path[-1] == "kernel" else np.asarray(leaf)
        for path, (name, leaf) in _walk(params, kind).items()
    }
    return tensors | ({HEAD: tensors[EMBEDDING]} if _is_tied(params, kind) else {})


def from_torch(tensors: dict[str, np.ndarray], template: Any, kind: str) -> Any:
    """Return a tree like `template` with the values of a state_dict.

    Raise UserError for a tensor that is missing, unknown, or has the wrong shape or dtype.
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


def variables_from_torch(tensors: dict[str, np.ndarray], shapes: Any, kind: str) -> dict[str, Any]:
    """Return the variables of a model, such as {"params": ..., "batch_stats": ...}.

    `shapes` is a tree like the result. Errors as in `from_torch`.
    """
    split = {"params": {}, "batch_stats": {}}
    for name, tensor in tensors.items():
        is_statistic = name.endswith((".running_mean", ".running_var"))
        split["batch_stats" if is_statistic else "params"][name] = tensor
    shapes = {"batch_stats": {}, **shapes}
    trees = {name: from_torch(split[name], tree, kind) for name, tree in shapes.items()}
    return {name: tree for name, tree in trees.items() if tree}


def without_masks(tensors: dict[str, np.ndarray], kind: str, block_size: int) -> dict:
    """Remove makemore's causal masks from the tensors.

    Raise UserError for another context length.
    """
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


def check_family(kind: str) -> None:
    """Raise UserError for a family of models without a counterpart in PyTorch."""
    from makemore_jax.torch_parity.models import MODELS

    if kind not in MODELS:
        raise UserError(f"model.kind: {kind} has no counterpart in PyTorch")


def reference(
    config: Config, vocab_size: int, block_size: int, fused_attention: bool = False
) -> Any:
    """Return the PyTorch model of a config, in float32 and without dropout.

    Raise UserError for a family without one.
    """
    from makemore_jax.torch_parity.models import MODELS

    check_family(config.model.kind)
    names = ("n_layer", "n_head", "n_embd", "n_embd2", "activation", "bias", "tied")
    names += ("fuse", "batch_norm", "momentum", "output_norm")
    sizes = {name: getattr(config.model, name) for name in names}
    sizes |= {"vocab_size": vocab_size, "block_size": block_size}
    return MODELS[config.model.kind](**sizes, fused_attention=fused_attention)


def shapes_only(config: Config, vocab_size: int) -> Any:
    """Return the PyTorch model of a config without memory for its tensors."""
    import torch

    with torch.device("meta"):
        return reference(config, vocab_size, config.data.block_size)


def load_into(module: Any, params: Any, kind: str, batch_stats: Any = None) -> Any:
    """Load parameters, and the statistics of batch norm, into a reference model.

    Its masks do not change.
    """
    import torch

    values = to_torch(params, kind) | to_torch(batch_stats or {}, kind)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    masks = {name for name, _ in module.named_buffers()} - values.keys()
    if set(missing) != masks or unexpected:
        raise AssertionError(f"the two models differ: {missing} {unexpected}")
    return module

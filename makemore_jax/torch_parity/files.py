"""Read files that PyTorch programs have written, without trusting them.

A file may come from anywhere. It is read without executing code, and it is refused if its tensors
would need far more memory than the file has:

    makemore.py         model.pt     the state_dict of the model
    nanoGPT's train.py  ckpt.pt      {model, optimizer, model_args, iter_num, best_val_loss, config}
    any program         .npz, .safetensors with the tensors of a state_dict

{model, optimizer} without the rest is a model of makemore with the state of its optimizer.
"""

import itertools
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from makemore_jax.errors import UserError
from makemore_jax.npz import read_npz

MIN_SAFE_TORCH = (2, 10)  # earlier versions of torch.load(weights_only=True) have security holes
# A checkpoint has a few entries for each tensor. A list can contain another one many times, and be
# far larger than its file: the entries are counted as often as they occur.
MAX_ENTRIES = 10**6
COMPILED = "_orig_mod."  # torch.compile puts this before every name


class Stored(NamedTuple):
    """The content of a file. All tensors are NumPy arrays."""

    tensors: dict[str, np.ndarray]  # the state_dict of the model
    optimizer: dict[str, Any] | None = None  # the state_dict of the optimizer
    model_args: dict[str, Any] | None = None  # nanoGPT's sizes
    config: dict[str, Any] = {}  # noqa: RUF012  nanoGPT's settings
    step: Any = 0  # number of training steps so far, as the file has it
    dev_loss: Any = None


def read(file: Path) -> Stored:
    """Read a .npz or .safetensors file, or a .pt file of any other name.

    Raise UserError if that fails.

    Pickle files are opened with weights_only=True, which is safe since torch 2.10. Everything else
    works with torch 2.9.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        if file.suffix == ".npz":
            stored = Stored(read_npz(file))
        elif file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            stored = Stored(load_file(file))
        elif _is_pickle(file):
            _check_announced_size(file)
            stored = _read_pickle(file)
        else:
            raise UserError(f"{file} is not a file of PyTorch (.pt), .npz or .safetensors")
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # each library raises other errors for damaged files
        kind = file.suffix or "a pickle"
        raise UserError(f"{file} can't be read as {kind}: {first_line(error)}") from None
    if empty := [name for name, tensor in stored.tensors.items() if tensor.size == 0]:
        raise UserError(f"{file}: {empty[0]} is {stored.tensors[empty[0]].shape}, without values")
    return stored


def _is_pickle(file: Path) -> bool:
    """Return whether a file begins as those of torch.save do: a zip archive, or a pickle."""
    with file.open("rb") as content:
        return content.read(2).startswith((b"PK", b"\x80"))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _check_announced_size(file: Path) -> None:
    """Raise UserError if a zip archive, which a .pt file is, unpacks to more than its own size."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        announced = sum(info.file_size for info in archive.infolist())
    if announced > file.stat().st_size:  # PyTorch does not compress
        raise UserError(
            f"{file} announces {announced:,} bytes of tensors, but has {file.stat().st_size:,}"
        )


def _read_pickle(file: Path) -> Stored:
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
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{file} was not loaded: it is incomplete or contains more than tensors"
        ) from None
    try:
        content = _to_arrays(content, "its content", itertools.count(1))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    state_dict = content
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        state_dict = content["model"]
    else:
        content = {}
    is_array = [isinstance(value, np.ndarray) for value in _values(state_dict)]
    if not is_array or not all(is_array):
        raise UserError(f"{file} does not contain a state_dict (tensors by name)")
    for name in ("optimizer", "model_args", "config"):
        if not isinstance(content.get(name, {}), dict):
            raise UserError(f"{file}: {name} is no dictionary")
    return Stored(
        {str(name).removeprefix(COMPILED): tensor for name, tensor in state_dict.items()},
        content.get("optimizer"),
        content.get("model_args"),
        content.get("config", {}),
        content.get("iter_num", 0),
        content.get("best_val_loss"),
    )


def _values(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else []


def _to_arrays(tree: Any, name: str, count: Iterator[int]) -> Any:
    """Return nested dictionaries and lists with arrays for tensors.

    `count` numbers the entries. Raise UserError for too many of them, and for a tensor that repeats
    few stored values in a large shape.
    """
    import torch

    if next(count) > MAX_ENTRIES:
        raise UserError(f"{name} has more than {MAX_ENTRIES:,} entries")
    if isinstance(tree, dict):
        return {key: _to_arrays(value, str(key), count) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_to_arrays(value, name, count) for value in tree]
    if not torch.is_tensor(tree):
        return tree
    num_bytes = tree.numel() * tree.element_size()
    if num_bytes > tree.untyped_storage().nbytes():
        raise UserError(
            f"{name} announces {num_bytes:,} bytes, but has {tree.untyped_storage().nbytes():,}"
        )
    return (tree.float() if tree.dtype == torch.bfloat16 else tree).detach().numpy()

"""Read files that PyTorch programs have written, without trusting them.

A file may come from anywhere, so it is read without executing code, and its tensors can't be larger
than the file itself:

    makemore.py         model.pt     the state_dict of the model
    nanoGPT's train.py  ckpt.pt      {model, optimizer, model_args, iter_num, best_val_loss, config}
    nanoGPT's prepare   meta.pkl     {vocab_size, itos, stoi}
    any program         .npz, .safetensors with the tensors of a state_dict

{model, optimizer} without the rest is a model of makemore with the state of its optimizer.
"""

import hashlib
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.npz import read_npz

MIN_SAFE_TORCH = (2, 10)  # earlier versions of torch.load(weights_only=True) have security holes
COMPILED = "_orig_mod."  # torch.compile puts this before every name

MAX_EXPANSION = 100  # an .npz file may be compressed by at most this factor
MAX_META_BYTES = 2**26  # a meta.pkl with all characters of Unicode has less

# The instructions of a pickle that has only dicts, lists, strings and integers. None of them
# imports, calls or allocates more than the file has.
MEMO = {"BINPUT", "LONG_BINPUT"}
PLAIN_OPCODES = MEMO | {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2"),
}


class Stored(NamedTuple):
    """The content of a file. All tensors are NumPy arrays."""

    tensors: dict[str, np.ndarray]  # the state_dict of the model
    optimizer: dict[str, Any] | None = None  # the state_dict of the optimizer
    model_args: dict[str, Any] | None = None  # nanoGPT's sizes
    config: dict[str, Any] = {}  # noqa: RUF012  nanoGPT's settings
    step: Any = 0  # number of training steps so far, as the file has it
    dev_loss: Any = None


def read(file: Path) -> Stored:
    """Read a .npz or .safetensors file, or a .pt file of any other name. UserError if that fails.

    Pickle files are opened with weights_only=True, which is safe since torch 2.10. Everything else
    works with torch 2.9.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        _check_announced_size(file)
        if file.suffix == ".npz":
            stored = Stored(read_npz(file))
        elif file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            stored = Stored(load_file(file))
        else:
            stored = _read_pickle(file)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # each library raises other errors for damaged files
        kind = file.suffix or "a pickle"
        raise UserError(f"{file} can't be read as {kind}: {_first_line(error)}") from None
    if empty := [name for name, tensor in stored.tensors.items() if tensor.size == 0]:
        raise UserError(f"{file}: {empty[0]} is {stored.tensors[empty[0]].shape}, without values")
    return stored


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _check_announced_size(file: Path) -> None:
    """UserError if a zip archive, which .npz and .pt files are, unpacks to far more than it is."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        announced = sum(info.file_size for info in archive.infolist())
    limit = file.stat().st_size * (MAX_EXPANSION if file.suffix == ".npz" else 1)
    if announced > limit:
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
    content = _to_arrays(content, str(file))
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


def _to_arrays(tree: Any, name: str) -> Any:
    """Return nested dictionaries and lists with arrays for tensors.

    UserError for a tensor that repeats few stored values in a large shape.
    """
    import torch

    if isinstance(tree, dict):
        return {key: _to_arrays(value, str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_to_arrays(value, name) for value in tree]
    if not torch.is_tensor(tree):
        return tree
    num_bytes = tree.numel() * tree.element_size()
    if num_bytes > tree.untyped_storage().nbytes():
        raise UserError(
            f"{name} announces {num_bytes:,} bytes, but has {tree.untyped_storage().nbytes():,}"
        )
    return (tree.float() if tree.dtype == torch.bfloat16 else tree).numpy()


def read_meta(file: Path) -> tuple[Vocab, str]:
    """Return the vocabulary in nanoGPT's meta.pkl and the sha256 of the file.

    The file is a pickle, which could run code. This reads only dicts, lists, strings and integers.
    UserError for any other content.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise UserError(f"--meta: {file} can't be read: {error.strerror}") from None
    try:
        if len(raw) > MAX_META_BYTES:
            raise ValueError(f"it has more than {MAX_META_BYTES:,} bytes")
        _check_opcodes(raw)
        chars = _chars(pickle.loads(raw))
    except Exception as error:  # damaged pickles raise many types
        raise UserError(f"--meta: {file} is not nanoGPT's meta.pkl: {_first_line(error)}") from None
    return Vocab(chars, has_end=False), hashlib.sha256(raw).hexdigest()


def _check_opcodes(raw: bytes) -> None:
    """Raise ValueError if a pickle has more than dicts, lists, strings and integers."""
    for opcode, argument, position in pickletools.genops(raw):
        if opcode.name not in PLAIN_OPCODES:
            raise ValueError(f"it has {opcode.name} at byte {position}, which was not executed")
        if opcode.name in MEMO and argument > len(raw):  # a table of this length is allocated
            raise ValueError(f"it announces {argument:,} entries in {len(raw):,} bytes")
        if opcode.name == "STOP" and position + 1 != len(raw):
            raise ValueError("it has more after its end")


def _chars(meta: Any) -> tuple[str, ...]:
    """Return the characters in the order of their tokens. ValueError if they have none."""
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(itos, dict):
        if set(itos) != set(range(len(itos))):
            raise ValueError("the tokens of itos are not 0, 1, 2, ...")
        itos = [itos[i] for i in range(len(itos))]
    if not itos or not isinstance(itos, list):
        raise ValueError("it has no itos, the characters by token")
    if not all(isinstance(char, str) and len(char) == 1 for char in itos):
        raise ValueError("itos has entries that are not one character")
    if len(set(itos)) != len(itos) or meta.get("vocab_size", len(itos)) != len(itos):
        raise ValueError("the characters of itos are not as many as its tokens")
    return tuple(itos)


def write_meta(file: Path, vocab: Vocab) -> None:
    """Write a vocabulary as nanoGPT's meta.pkl."""
    itos = dict(enumerate(vocab.chars))
    content = {"vocab_size": vocab.size, "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    file.write_bytes(pickle.dumps(content, protocol=4))

"""The files of an exported model."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from makemore_jax.assemble import open_checkpoints, read_run, restore_language_model
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.export import model_card
from makemore_jax.export.decode import serialize_decode
from makemore_jax.versions import versions

SAFETENSORS_DTYPES = {"float32": "F32", "int32": "I32"}


def to_safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """Return float32 and int32 arrays in the safetensors format.

    It consists of the size of the header (8 bytes), a JSON header with the dtype, the shape and
    the byte range of each array, and their bytes. Everything is little-endian.
    """
    header, parts, end = {}, [], 0
    for name, array in arrays.items():
        little_endian = array.dtype.newbyteorder("<")
        parts.append(array.astype(little_endian).tobytes())
        start, end = end, end + len(parts[-1])
        dtype = SAFETENSORS_DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # align the data
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def to_files(lm: LanguageModel, metadata: dict[str, Any]) -> dict[str, bytes]:
    """Return the files that a loader needs, by name. `metadata` is added to config.json."""
    arrays = traverse_util.flatten_dict(jax.device_get(lm.variables), sep=".")
    chars, is_lines = lm.vocab.chars, lm.vocab.has_end
    sizes = {
        "is_lines": is_lines,
        "max_len": lm.max_len,
        # the token before a line, or before a text without a prompt
        "start_token": chars.index("\n") if not is_lines and "\n" in chars else 0,
    }
    return {
        "model.safetensors": to_safetensors(arrays),
        "decode.jax": serialize_decode(lm, arrays),
        "config.json": _to_json(sizes | metadata),
        "vocab.json": _to_json(chars),
    }


def _to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def export_run(folder: Path, out: Path, checkpoint: str) -> None:
    """Export the run in `folder` to `out`. Raise UserError if one of them can't be used."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is not an empty folder; give another")
    run = read_run(folder)
    checkpoints = open_checkpoints(folder, read_only=True)
    lm = restore_language_model(checkpoints, run, checkpoint)
    metadata = {"config": model_card.public_config(run.config), "versions": versions()}
    files = to_files(lm, metadata)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(lm.variables["params"]))
    card = model_card.as_markdown(folder, run, num_params, checkpoint, checkpoints)
    files["README.md"] = card.encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (out / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"--out: {out} can't be written: {error.strerror}") from None

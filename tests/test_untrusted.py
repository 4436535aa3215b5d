"""Files from a stranger: none makes a program read, write or allocate more than it should."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    assert_same,
    needs_linux,
    small_config,
)

from makemore_jax import assemble
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.errors import UserError
from makemore_jax.integrity import manifest
from makemore_jax.integrity.checkpoints import VerifiedCheckpoints
from makemore_jax.integrity.runs import read
from makemore_jax.npz import read_npz
from makemore_jax.sweep import FinishedGroups
from makemore_jax.torch_parity import weights
from makemore_jax.training.state import TrainState


def edited_run(source: Path, folder: Path, **fields) -> Path:
    """Return a copy of a run with other fields in config.json, given as group__field=value."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text("utf-8"))
    for name, value in fields.items():
        part, *groups = content, *name.split("__")[:-1]
        for group in groups:
            part = part[group]
        part[name.rpartition("__")[2]] = value
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config__model__n_embd": 2**30, "config__model__n_head": 1}, "GiB of arrays; this machi"),
        ({"config__model__n_layer": 10**9}, "model.n_layer: 1,000,000,000 must be at most 1,000"),
        ({"config__model__n_layer": 3}, "was saved as nothing, the model needs float32"),
        ({"max_len": 10**12}, "has a damaged run"),
        ({"config": []}, "has a damaged run"),
        ({"data_file": ["a"]}, "has a damaged run"),
        ({"data_file": "a/" * 10**5}, "data_file must be a path of at most 4,096 characters"),
        ({"data_sha256": {}, "vocab_sha256": None}, "is not the one of its config.json"),
    ],
)
def test_a_config_from_a_stranger_is_refused(fields, message, small_runs, tmp_path):
    """No array is allocated before its size is known to be that of the checkpoint."""
    folder = edited_run(small_runs / "transformer", tmp_path / "run", **fields)
    with pytest.raises(UserError, match=message):
        assemble.load_language_model(folder, read(folder))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{}", '["ab"]', '["a", "a"]', "[1]", " " * 2**26, "\xff"]
)
@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_json_from_a_stranger_is_refused(name, content, small_runs, tmp_path):
    folder = edited_run(small_runs / "bigram", tmp_path / "run")
    (folder / name).write_text(content, "latin-1")
    with pytest.raises(UserError, match=r"has a damaged run|is not the one of"):
        read(folder)


@needs_linux
def test_a_run_names_a_file_without_end_as_its_data(small_runs, tmp_path):
    """The samples of such a run are not marked; nothing is read."""
    names = {"data_file": "/dev/zero", "config__data__path": "/dev/zero"}
    folder = edited_run(small_runs / "bigram", tmp_path / "run", **names)
    assert assemble.find_data(read(folder), folder) is None


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.partial", "checkpoints", ".lock"])
def test_training_does_not_follow_a_link_out_of_its_folder(name, small_runs, tmp_path):
    folder, target = edited_run(small_runs / "bigram", tmp_path / "run"), tmp_path / "precious"
    target.write_text("mine", "utf-8")
    config = read(folder).config
    config.train.steps = 30
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match=f"{re.escape(name)} is a link; writing would change"):
        assemble.train(config, str(folder))
    assert target.read_text("utf-8") == "mine"


@pytest.mark.parametrize("name", ["/dev/zero", "../../few.txt", "pipe"])
@needs_linux
def test_a_manifest_names_no_file_outside_of_its_checkpoint(name, small_runs, tmp_path):
    folder = edited_run(small_runs / "bigram", tmp_path / "run")
    for checkpoint in (folder / "checkpoints").iterdir():
        os.mkfifo(checkpoint / "pipe")  # nobody writes to it
        hashes = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
        (checkpoint / "manifest.json").write_text(json.dumps(hashes | {name: ""}), "utf-8")
    with pytest.raises(UserError, match=f"{name} in its manifest is not a file of the checkpoint"):
        assemble.load_language_model(folder, read(folder))


def test_an_array_is_not_stored_in_chunks_larger_than_itself(tmp_path):
    """A chunk of zeros is a small file that expands to its whole size when it is read."""
    state = TrainState(np.array(4, np.int32), {"w": np.ones((3, 5), np.float32)}, {})
    folder = tmp_path / "[x]"  # the core saves no OCDBT there: the metadata are in JSON files
    Checkpoints(folder).save(state, 1.0)
    checkpoint = folder / "checkpoints" / "4"
    file = checkpoint / "params" / "w" / ".zarray"
    manifest.write(checkpoint)
    assert_same(VerifiedCheckpoints(folder, read_only=True).restore("latest", state), state)
    content = json.loads(file.read_text("utf-8")) | {"chunks": [2**14, 2**15]}
    file.write_text(json.dumps(content), "utf-8")
    manifest.write(checkpoint)
    with pytest.raises(UserError, match=r"an array of \[3, 5\] in chunks of \[16384, 32768\]"):
        VerifiedCheckpoints(folder, read_only=True).restore("latest", state)


def npz_member(shape: tuple, values: bytes) -> bytes:
    """Return a member of an .npz file whose header announces another shape."""
    out = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue() + values


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_npz_file_can_not_announce_more_than_it_holds(compression, tmp_path):
    bombs = {"header": npz_member((10**12,), b"1234"), "zeros": npz_member((2**23,), bytes(2**25))}
    for name, member in bombs.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", compression) as archive:
            archive.writestr("w.npy", member)
    with pytest.raises(ValueError, match=r"announces float32\[1000000000000\], but is shorter"):
        read_npz(tmp_path / "header.npz")
    if compression == zipfile.ZIP_DEFLATED:
        with pytest.raises(ValueError, match="it expands to 33,554,"):
            read_npz(tmp_path / "zeros.npz")
    else:
        assert read_npz(tmp_path / "zeros.npz")["w"].shape == (2**23,)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_to_an_npz_file_has_no_other_errors(save, tmp_path):
    """Python's zipfile and zlib raise errors of five types."""
    out, file = io.BytesIO(), tmp_path / "a.npz"
    save(out, w=np.arange(6, dtype=np.float32))
    intact = out.getvalue()
    for byte in range(0, len(intact), 3):
        flipped = intact[byte] ^ (1 << byte % 8)
        file.write_bytes(intact[:byte] + bytes([flipped]) + intact[byte + 1 :])
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile):
            read_npz(file)
    # The method of compression, in the directory at the end of the file
    at = intact.rindex(b"PK\x01\x02") + 10
    file.write_bytes(intact[:at] + b"\x63" + intact[at + 1 :])
    with pytest.raises(ValueError, match="compression method is not supported"):
        read_npz(file)


def test_a_tensor_can_not_announce_more_than_it_holds():
    """PyTorch's files may repeat one value any number of times."""
    mask = np.broadcast_to(np.float32(1), (10**9, 1, 7, 7))
    with pytest.raises(UserError, match="the data and the config need one of 7"):
        weights.without_masks({"transformer.h.0.attn.bias": mask}, "transformer", 7)


def test_the_results_of_a_sweep_are_no_program(tmp_path):
    """A pickle in their place would run code."""
    config, finished = small_config("bigram", steps=10), FinishedGroups(tmp_path)
    finished.create_folder()
    members, ran = [{"seed": 11}], tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.mkdir, ()

    for content in (pickle.dumps(Evil()), b"", b"PK\x03\x04"):
        finished._file(config, members).write_bytes(content)
        assert finished.load(config, members, None) is None
    np.savez(finished._file(config, members), results=np.array([Evil()], object))
    assert finished.load(config, members, None) is None
    assert not ran.exists()

"""Files from PyTorch programs: what is inferred from them, and which are refused. Without torch."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from makemore_jax import assemble
from makemore_jax.config import Config, flatten
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.torch_parity import convert, files, infer
from makemore_jax.torch_parity.meta_file import read_meta, write_meta
from makemore_jax.training.evaluate import make_evaluate

CHARS = "\n abé"


def meta_of(**changed):
    itos = dict(enumerate(CHARS))
    return {"vocab_size": 5, "itos": itos, "stoi": {c: i for i, c in itos.items()}} | changed


class Evil:
    """Run code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_vocabulary_of_meta(protocol, tmp_path):
    file = tmp_path / "meta.pkl"
    file.write_bytes(pickle.dumps(meta_of(), protocol))
    vocab, _ = read_meta(file)
    assert vocab == Vocab(tuple(CHARS), has_end=False)
    write_meta(tmp_path / "back.pkl", vocab)
    assert pickle.loads((tmp_path / "back.pkl").read_bytes()) == meta_of()


BAD_META = {
    "vocab_size": (meta_of(vocab_size=6), "not as many as its tokens"),
    "gap": (meta_of(itos={0: "a", 2: "b"}), "the tokens of itos are not 0, 1, 2, ..."),
    "word": (meta_of(itos={0: "ab"}), "entries that are not one character"),
    "list": ([1, 2], "it has no itos"),
    "float": ({"itos": 0.5}, "it has BINFLOAT at byte"),
    "set": ({"itos": {"a"}}, "it has EMPTY_SET at byte"),
}


@pytest.mark.parametrize("case", BAD_META)
def test_another_meta_is_refused(case, tmp_path):
    content, message = BAD_META[case]
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(content))
    check_refused(tmp_path, message)


def check_refused(folder, message):
    """Check for an error of one line, without effects."""
    with pytest.raises(UserError) as caught:
        read_meta(folder / "meta.pkl")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_meta_is_not_executed(protocol, tmp_path):
    evil = meta_of(more=Evil(str(tmp_path / "pwned")))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(evil, protocol))
    check_refused(tmp_path, "which was not executed")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta_of(), 4) + pickle.dumps(evil, protocol))
    check_refused(tmp_path, "it has more after its end")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x80\x04}r\xff\xff\xff\x7f.", "it announces 2,147,483,647 entries in 9 bytes"),
        (b"\x80\x04\x96\x00\x00\x00\x00\xff\x00\x00\x00.", "not nanoGPT's meta.pkl"),
        (b"\x80\x04\x8d\x00\x00\x00\x00\xff\x00\x00\x00.", "not nanoGPT's meta.pkl"),
        (b"", "not nanoGPT's meta.pkl"),
    ],
    ids=["memo", "bytearray", "string", "empty"],
)
def test_announced_sizes_of_meta_are_not_allocated(raw, message, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(raw)
    check_refused(tmp_path, message)


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(36_000_000))
    with pytest.raises(UserError, match=r"announces 36,000,000 bytes of tensors, but has \d+,\d+$"):
        files.read(tmp_path / "model.pt")
    np.savez_compressed(tmp_path / "model.npz", logits=np.zeros((3_000, 3_000), np.float32))
    with pytest.raises(UserError, match=r"model.npz can't be read as .npz: it expands to [^\n]+$"):
        files.read(tmp_path / "model.npz")


def test_a_header_with_a_huge_shape_is_refused(tmp_path):
    file = tmp_path / "model.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (999999, 999999)}"
    header = header.ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(40)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", array)
    with pytest.raises(UserError, match=r"^[^\n]*model.npz can't be read as .npz: [^\n]+$"):
        files.read(file)


def test_an_empty_tensor_is_refused(tmp_path):
    np.savez(tmp_path / "model.npz", logits=np.zeros((0, 10**9), np.float32))
    with pytest.raises(UserError, match=r"logits is \(0, 1000000000\), without values$"):
        files.read(tmp_path / "model.npz")


def matrices(**shapes):
    """Return tensors with these shapes. Two underscores in a name stand for a dot."""
    return {k.replace("__", "."): np.zeros(v, np.float32) for k, v in shapes.items()}


C, H, T, V = 5, 7, 3, 11
RECURRENT = {"wte__weight": (V, C), "lm_head__weight": (V, H)}
INFERRED = {
    "bigram": (matrices(logits=(V, V)), {}),
    "mlp": (
        matrices(wte__weight=(V + 1, C), mlp__0__weight=(H, T * C)),
        {"model.n_embd": C, "model.n_embd2": H, "data.block_size": T},
    ),
    "gru": (
        matrices(**RECURRENT, cell__xh_to_hbar__weight=(H, C + H)),
        {"model.n_embd": C, "model.n_embd2": H},
    ),
    "lstm": (
        matrices(**RECURRENT, cell__xh_to_cbar__weight=(H, C + H)),
        {"model.n_embd": C, "model.n_embd2": H},
    ),
    "bow": (
        matrices(wte__weight=(V, C), wpe__weight=(T, C), context_block__mlp__c_fc__weight=(H, C)),
        {"model.n_embd": C, "model.n_embd2": H, "data.block_size": T},
    ),
    "modern": (
        matrices(
            wte__weight=(V, C), h__0__attn__c_q__weight=(C, C), h__1__attn__c_q__weight=(C, C)
        ),
        {"model.n_embd": C, "model.n_layer": 2},
    ),
    "window_mlp": (
        matrices(**RECURRENT, h__0__weight=(H, 2 * C), h__1__weight=(H, 2 * H)),
        {"model.n_layer": 2, "model.fuse": 2, "data.block_size": 4, "data.kind": "windows"},
    ),
    "transformer": (
        matrices(
            transformer__wte__weight=(V, C),
            transformer__wpe__weight=(T, C),
            # The number of a layer is only a name: it must not become a number of layers.
            transformer__h__999999999__ln_1__weight=(C,),
        ),
        {"model.n_layer": 1, "model.bias": False, "model.tied": True, "data.block_size": T},
    ),
}


@pytest.mark.parametrize("kind", INFERRED)
def test_family_and_sizes_come_from_the_tensors(kind, tmp_path):
    tensors, expected = INFERRED[kind]
    found, vocab_size = infer.model_fields(files.Stored(tensors), tmp_path, "none")
    assert vocab_size == V
    assert found["model.kind"] == kind
    assert {name: found[name] for name in expected} == expected


def test_the_batch_size_of_nanogpt_is_that_of_a_microbatch():
    config, here, there = Config(), (60, 5), (12, 5)
    config.model.kind, (config.train.batch_size, config.train.accumulate) = "transformer", here
    settings = infer.nanogpt_settings(config, "names")
    assert (settings["batch_size"], settings["gradient_accumulation_steps"]) == there
    fields = infer._training_fields(settings)
    assert (fields["train.batch_size"], fields["train.accumulate"]) == here


@pytest.mark.parametrize(
    ("schedule", "decay_steps", "expected"),
    [("constant", None, (False, 90)), ("nanogpt", None, (True, 90)), ("nanogpt", 77, (True, 77))],
)
def test_the_schedule_for_nanogpt(schedule, decay_steps, expected):
    config = Config()
    config.train.steps = 90
    config.optimizer.schedule, config.optimizer.decay_steps = schedule, decay_steps
    settings = infer.nanogpt_settings(config, "names")
    assert (settings["decay_lr"], settings["lr_decay_iters"]) == expected


def test_a_file_of_arrays_becomes_a_run_without_torch(tmp_path):
    """The config says only what the file does not."""
    (tmp_path / "names.txt").write_text("\n".join(["ab", "abc", "b", "ca"] * 9), "utf-8")
    logits = np.random.RandomState(3).randn(4, 4).astype(np.float32)
    np.savez(tmp_path / "model.npz", logits=logits)
    config = Config()
    config.optimizer.learning_rate = 0.5
    data = str(tmp_path / "names.txt")
    made = convert.from_torch(tmp_path / "model.npz", config, tmp_path / "run", data)
    assert (made.step, made.has_moments) == (0, False)
    assert flatten(made.config)["model.kind"] == "bigram"
    lm = assemble.load_language_model(tmp_path / "run", assemble.read_run(tmp_path / "run"))
    dev = assemble.load_data(made.config.data, made.config.seed).splits["dev"]
    assert made.dev_loss == pytest.approx(make_evaluate(lm.model)(lm.variables, dev))
    text = (tmp_path / "run" / "config.py").read_text("utf-8")
    assert "config.model.kind = 'bigram'" in text and "learning_rate = 0.5" in text
    with pytest.raises(UserError, match="already has a run"):
        convert.from_torch(tmp_path / "model.npz", config, tmp_path / "run", data)
    np.savez(tmp_path / "nan.npz", logits=logits * np.nan)
    with pytest.raises(UserError, match=r"nan.npz: params/logits has a value that is not finite"):
        convert.from_torch(tmp_path / "nan.npz", Config(), tmp_path / "new", data)
    np.savez(tmp_path / "other.npz", logits=logits[:3, :3])
    with pytest.raises(
        UserError, match=r"names.txt has 4 tokens, .*other.npz has 3; give the text"
    ):
        convert.from_torch(tmp_path / "other.npz", Config(), tmp_path / "new", data)
    assert not (tmp_path / "new").exists()

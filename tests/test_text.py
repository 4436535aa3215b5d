"""One long text: its split, its crops, and runs from memory and from a token file."""

import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BLOCK,
    FAMILIES,
    ROOT,
    assert_one_line,
    assert_same,
    published,
    quick_of,
    read_metrics,
    run,
    set_sizes,
    small_config,
    small_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore_jax import assemble, data, losses, models
from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.config import Config, DataConfig, MeshConfig
from makemore_jax.errors import UserError
from makemore_jax.kernels.layouts import choose
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.text import dataset as text
from makemore_jax.text import prefetch, token_file
from makemore_jax.training import evaluate
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import step_keys

NUM = 2003  # characters of the small text


def text_config(path, kind: str = "bigram", **train) -> Config:
    """Return small_config for a text."""
    config = small_config(kind, num_samples=0, **train)
    config.data.kind, config.data.path, config.data.block_size = "text", str(path), BLOCK
    return config


def load_text(path, block_size: int = BLOCK, folder=None, **fields) -> text.TextDataset:
    config = DataConfig(path=str(path), kind="text", block_size=block_size, **fields)
    return load_data(config, seed=1, folder=folder)


def join_splits(dataset: text.TextDataset) -> str:
    """Return the whole text, joined from the train and dev splits."""
    tokens = [np.asarray(dataset.splits[name].tokens)[None] for name in ("train", "dev")]
    return "".join(dataset.vocab.decode_rows(part)[0] for part in tokens)


@pytest.fixture(scope="module")
def small_text(tmp_path_factory):
    """Write the first characters of names.txt to a file."""
    file = tmp_path_factory.mktemp("text") / "small.txt"
    file.write_text((ROOT / "names.txt").read_text("utf-8")[:NUM], "utf-8")
    return file


# Loading.


def test_tiny_shakespeare_has_the_split_of_nanogpt():
    path = published("shakespeare")
    dataset = load_text(path, 64)
    train, dev, test = (dataset.splits[name] for name in ("train", "dev", "test"))
    assert dataset.vocab.size == len(dataset.vocab.chars) == 65
    assert dataset.vocab.chars == tuple(sorted(dataset.vocab.chars))
    assert (train.num_chars, dev.num_chars) == (1_003_854, 1_115_394 - 1_003_854)
    assert train.tokens.shape == (1_003_854,)
    assert train.tokens.dtype == np.uint8
    assert test is dev
    sizes = "1,003,854 train, 111,540 dev, 111,540 test characters"
    assert dataset.describe_splits() == sizes
    assert join_splits(dataset) == path.read_text("utf-8")
    lecture = load_text(path, 64, train_fraction=0.8)
    assert lecture.splits["train"].num_chars == int(0.8 * 1_115_394)
    assert join_splits(lecture) == path.read_text("utf-8")


def test_byte_order_mark_and_ends_of_lines(tmp_path):
    """Every kind of line end becomes one character; spaces and empty lines stay."""
    (tmp_path / "text").write_bytes("\ufeff  anna\r\n\r\nclé \rbob\n".encode())
    dataset = load_text(tmp_path / "text", 1)
    assert join_splits(dataset) == "  anna\n\nclé \nbob\n"
    assert dataset.vocab.chars == tuple(sorted(set("\n annclébo")))


def test_reading_in_parts_gives_the_same_text(tmp_path, monkeypatch):
    """A part may end inside a line end or inside a multi-byte character."""
    content = "".join(f"Zoë {i}\r\n日本\r" for i in range(3))
    (tmp_path / "text").write_bytes(("\ufeff" + content).encode())
    expected = content.replace("\r\n", "\n").replace("\r", "\n")
    for size in (1, 2, 5):
        monkeypatch.setattr(token_file, "CHARS_PER_READ", size)
        assert join_splits(load_text(tmp_path / "text", 1)) == expected


def test_other_encodings(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(("x" * 9_000 + "José").encode("latin-1"))
    assert join_splits(load_text(file, encoding="latin-1")) == "x" * 9_000 + "José"
    with pytest.raises(UserError, match=r"text is not utf-8 at byte 9003; name its encoding"):
        load_text(file)
    with pytest.raises(UserError, match=r'data.encoding: "utf-99" can\'t be read by Python'):
        load_text(file, encoding="utf-99")


@pytest.mark.parametrize("content", ["", "\ufeff"])
def test_an_empty_text(content, tmp_path):
    (tmp_path / "text").write_text(content, "utf-8")
    with pytest.raises(UserError, match=r"text has 0 characters, too few"):
        load_text(tmp_path / "text")
    with pytest.raises(UserError, match=r"data.path: .* is a folder, not a text file"):
        load_text(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused(tmp_path):
    """A text is read twice; the second time would wait forever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"data.path: .*pipe can be read only once; save it as a"):
        load_text(tmp_path / "pipe")


def test_a_vocabulary_larger_than_a_byte(tmp_path):
    content = "".join(map(chr, range(0x4E00, 0x4E00 + 400))) * 2
    (tmp_path / "text").write_text(content, "utf-8")
    dataset = load_text(tmp_path / "text")
    assert (dataset.vocab.size, dataset.splits["train"].tokens.dtype) == (400, np.uint16)
    assert join_splits(dataset) == content
    mapped = load_text(tmp_path / "text", folder=tmp_path, memory_map="always")
    mapped.prepare()
    assert (tmp_path / "text.tokens").stat().st_size == 2 * len(content)
    indices = np.array([390, 0])
    part = mapped.splits["train"].load(lambda: indices)
    assert_same(part.take(indices), dataset.splits["train"].take(indices))


# Crops.


def test_crops_are_slices_of_the_text(small_text):
    dataset = load_text(small_text)
    content = small_text.read_text("utf-8")
    num_train = int(0.9 * NUM)
    for name, part in (("train", content[:num_train]), ("dev", content[num_train:])):
        split = dataset.splits[name]
        assert split.size == len(part) - BLOCK
        indices = [0, 5, 64, split.size - 1]
        inputs, targets = (
            dataset.vocab.decode_rows(np.asarray(a)) for a in split.take(jnp.array(indices))[:2]
        )
        for i, start in enumerate(indices):
            assert inputs[i] == part[start : start + BLOCK]
            assert targets[i] == part[start + 1 : start + BLOCK + 1]


def test_batches_depend_only_on_the_key_and_cover_the_text(small_text):
    split = load_text(small_text).splits["train"]
    drawn = data.draw(split, jax.random.key(1), 5)
    assert_same(drawn, data.draw(split, jax.random.key(1), 5))
    assert not (drawn[0] == data.draw(split, jax.random.key(2), 5)[0]).all()
    indices = np.asarray(data.draw_indices(split, jax.random.key(3), 20_000))
    assert (indices.min(), indices.max()) == (0, split.size - 1)
    counts = np.histogram(indices, bins=8, range=(0, split.size))[0]
    assert ((counts - 2500) ** 2 / 2500).sum() < 24.32  # 7 degrees of freedom, 1e-3


MAX_CHARS = 41


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(num_chars=st.integers(2, MAX_CHARS), block_size=st.sampled_from([1, 5, 50]))
def test_evaluation_predicts_every_character_except_the_first_once(num_chars, block_size):
    tokens = np.arange(1, MAX_CHARS + 1, dtype=np.uint8)  # all characters differ
    split = text.Text(jnp.asarray(tokens), num_chars, block_size).for_evaluation()
    inputs, targets, _ = map(np.asarray, data.take_below(split, jnp.arange(MAX_CHARS), split.size))
    assert inputs.shape == targets.shape == (MAX_CHARS, block_size)
    is_target = targets != -1
    assert targets[is_target].tolist() == tokens[1:num_chars].tolist()
    assert (inputs[is_target] == targets[is_target] - 1).all()
    assert is_target[: split.size].any(axis=1).all()  # no crop starts after the end


# Losses.


def test_evaluation_is_the_mean_over_adjacent_blocks(small_text, tmp_path, monkeypatch):
    # several batches, the last one not full
    monkeypatch.setattr(data, "MAX_TOKENS_PER_BATCH", 5 * BLOCK)
    dataset = load_text(small_text)
    model, params = small_model("mlp", dataset.vocab.size)
    variables = {"params": params}
    tokens = np.asarray(dataset.splits["dev"].tokens).astype(np.int32)
    assert (len(tokens) - 1) % BLOCK

    @jax.jit
    def losses_of_block(block):
        logits = model.apply(variables, block[None, :-1])
        return losses.token_losses(logits, block[None, 1:])[0]

    starts = range(0, len(tokens) - 1, BLOCK)
    blocks = [losses_of_block(tokens[start : start + BLOCK + 1]) for start in starts]
    mapped = load_text(small_text, folder=tmp_path, memory_map="always")
    mapped.prepare()
    measure = evaluate.make_evaluate(model)
    for split in dataset.splits["dev"], mapped.splits["dev"]:
        for max_crops in (None, 7):
            expected = np.concatenate(blocks[:max_crops]).mean(dtype=np.float64)
            assert measure(variables, split, max_crops) == pytest.approx(expected, abs=1e-6)


# Whole runs.


def read_params(config: Config, folder):
    """Return the latest parameters of a run."""
    dataset = load_text(config.data.path)
    model = create_model(config.model, dataset.vocab.size, BLOCK)
    template = models.variable_shapes(model, BLOCK)
    return Checkpoints(folder).restore_items("latest", template)["params"]


def read_losses(folder) -> list[dict]:
    fields = ("step", "train_loss", "dev_loss")
    lines = read_metrics(folder)
    return [{name: line[name] for name in fields if name in line} for line in lines]


def run_config(path) -> Config:
    return text_config(path, "mlp", steps=20, log_every=5, eval_every=5)


TRAIN = """
import sys
sys.path.insert(0, "tests")
from test_text import run_config
from makemore_jax import assemble

path, *runs = sys.argv[1:]
for folder, memory_map, steps in zip(runs[::3], runs[1::3], runs[2::3]):
    config = run_config(path)
    config.data.memory_map, config.train.steps = memory_map, int(steps)
    assemble.train(config, folder)
"""


@pytest.fixture(scope="module")
def runs(small_text, tmp_path_factory):
    """Train 20 steps from memory; and in parts, 10 + 5 from a token file and 5 from memory."""
    folder = tmp_path_factory.mktemp("runs")
    first = ("whole", "never", 20), ("parts", "always", 10)
    for group in (first, (("parts", "always", 15), ("parts", "never", 20))):
        flags = [a for name, *rest in group for a in (folder / name, *rest)]
        done = run("-c", TRAIN, small_text, *flags)
        assert done.returncode == 0, done.stderr
    return folder


def test_a_resumed_run_from_a_token_file_is_bit_exact(runs, small_text):
    config = run_config(small_text)
    whole, parts = runs / "whole", runs / "parts"
    assert_same(read_params(config, parts), read_params(config, whole))
    assert [line["step"] for line in read_losses(whole)] == [5, 5, 10, 10, 15, 15, 20, 20]
    assert read_losses(parts) == read_losses(whole)
    summaries = [
        json.loads((folder / "summary.json").read_text("utf-8")) for folder in (parts, whole)
    ]
    for field in ("train_loss", "dev_loss", "test_loss"):
        assert summaries[0][field] == summaries[1][field]


def test_only_a_memory_mapped_run_writes_a_token_file(runs):
    assert not (runs / "whole" / "text.tokens").exists()
    assert (runs / "parts" / "text.tokens").stat().st_size == NUM


def test_load_reads_only_the_given_steps(small_text, tmp_path):
    """Batches from a file equal those from memory; only they are on the device."""
    in_memory = load_text(small_text).splits["train"]
    dataset = load_text(small_text, folder=tmp_path, memory_map="always")
    dataset.prepare()
    keys = jax.random.split(jax.random.key(4))
    split = dataset.splits["train"]
    part = split.load(lambda: prefetch.draw_steps(split, keys, np.arange(30, 33), 5))
    assert part.tokens.shape == (3 * 5, BLOCK + 1)
    for step in (30, 31, 32):
        step_key, _ = step_keys(keys, step)
        assert_same(data.draw(part, step_key, 5), data.draw(in_memory, step_key, 5))
    assert in_memory.load(lambda: 1 / 0) is in_memory


def test_only_a_large_text_is_memory_mapped_by_default(small_text, tmp_path, monkeypatch):
    def is_mapped(**fields) -> bool:
        split = load_text(small_text, folder=tmp_path, **fields).splits["train"]
        return isinstance(split, text.TextFile)

    assert not is_mapped()
    monkeypatch.setattr(text, "TOKEN_FILE_MIN_BYTES", NUM)
    assert is_mapped()
    assert not is_mapped(memory_map="never")


@pytest.fixture
def mapped(small_text, tmp_path):
    """Return a memory-mapped text and its token file."""
    dataset = load_text(small_text, folder=tmp_path, memory_map="always")
    dataset.prepare()
    return dataset, tmp_path / "text.tokens"


def test_the_token_file_is_written_once(mapped, small_text):
    dataset, file = mapped
    tokens = np.asarray(load_text(small_text).splits["train"].tokens)
    assert (np.fromfile(file, np.uint8)[: len(tokens)] == tokens).all()
    before = file.stat().st_mtime_ns, file.stat().st_ino
    dataset.prepare()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["text.json", "text.tokens"]


def test_the_token_file_of_another_text_is_refused(mapped, small_text, tmp_path):
    dataset, file = mapped
    before = file.read_bytes()
    other = tmp_path / "other.txt"
    other.write_text(small_text.read_text("utf-8")[::-1], "utf-8")
    with pytest.raises(
        UserError, match=r"text.tokens has the tokens of another text than .*other.txt; delete"
    ):
        load_text(other, folder=tmp_path, memory_map="always").prepare()
    (tmp_path / "text.json").write_text('{"sha256": "ab', "utf-8")
    with pytest.raises(UserError, match=r"text.json is damaged; delete it"):
        dataset.prepare()
    assert file.read_bytes() == before


@pytest.mark.parametrize("size", [NUM - 100, NUM + 1])
def test_a_token_file_of_another_size_is_refused(size, mapped):
    dataset, file = mapped
    content = (file.read_bytes() * 2)[:size]
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"text.tokens is damaged: {size} bytes, not {NUM}; del"):
        dataset.prepare()
    assert file.read_bytes() == content


def test_a_damaged_token_file_is_refused(mapped):
    """A token that has changed would be trained on without a word."""
    dataset, file = mapped
    content = bytearray(file.read_bytes())
    content[NUM // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"text.tokens is damaged: its sha256 has changed; delete"):
        dataset.prepare()
    saved = json.loads(file.with_suffix(".json").read_text("utf-8"))
    del saved["tokens_sha256"]  # as an older version wrote it
    file.with_suffix(".json").write_text(json.dumps(saved), "utf-8")
    dataset.prepare()
    file.with_suffix(".json").write_text("[]", "utf-8")
    with pytest.raises(UserError, match=r"text.json is damaged; delete it"):
        dataset.prepare()


def test_a_token_file_that_becomes_shorter_ends_the_training(mapped):
    """The missing tokens would be zeros."""
    dataset, file = mapped
    file.write_bytes(file.read_bytes()[: NUM // 2])
    split = dataset.splits["train"]
    split.load(lambda: np.arange(3))
    with pytest.raises(UserError, match=r"text.tokens is damaged: it became shorter; delete it"):
        split.load(lambda: np.arange(NUM // 2 - 2, NUM // 2))


def test_a_partial_token_file_of_a_killed_run_is_not_used(mapped, monkeypatch):
    dataset, file = mapped
    before = file.read_bytes()
    for path in file.parent.iterdir():
        path.unlink()
    encoded = token_file.encode_parts

    def killed(*arguments):
        yield next(encoded(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(token_file, "CHARS_PER_READ", 1000)
        patch.setattr(token_file, "encode_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            dataset.prepare()
    assert [path.stat().st_size for path in file.parent.iterdir()] == [1000]
    assert not file.exists()
    dataset.prepare()
    assert file.read_bytes() == before


def test_a_token_file_without_metadata_is_written_again(mapped):
    dataset, file = mapped
    before = file.read_bytes()
    file.write_bytes(before[::-1])
    (file.parent / "text.json").unlink()
    dataset.prepare()
    assert file.read_bytes() == before
    assert (file.parent / "text.json").exists()


def test_a_token_file_that_cannot_be_written_is_an_error(small_text, tmp_path):
    (tmp_path / "text.partial").mkdir()
    with pytest.raises(UserError, match=r"text.tokens can't be written: Is a directory"):
        load_text(small_text, folder=tmp_path, memory_map="always").prepare()


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["mlp"]))
def test_every_family_learns_from_a_text(kind, small_text):
    config = text_config(small_text, kind)
    set_sizes(config.model, n_layer=1)
    config.optimizer.learning_rate = 0.02
    dataset = load_text(small_text)
    model = create_model(config.model, dataset.vocab.size, BLOCK)
    optimizer = make_optimizer(config.optimizer, 60)
    state = state_lib.create(model, optimizer, jax.random.key(0), BLOCK)
    split = dataset.splits["train"]
    mesh = make_mesh(MeshConfig(data=1), 5, 0)
    train_steps = programs.compile_steps(model, optimizer, 5, choose(split, 5, model), mesh)
    _, metrics = train_steps(state, split, jax.random.key(1), 60)
    train_losses = np.asarray(metrics["train_loss"])
    assert train_losses.shape == (60,)
    assert train_losses[-10:].mean() < train_losses[:10].mean() - 0.2
    assert train_losses[-10:].mean() < np.log(dataset.vocab.size) - 0.3


def test_losses_and_samples_of_a_run(small_text, tmp_path):
    """Evaluation uses eval_examples crops, and samples have 500 characters."""
    config = text_config(small_text, steps=1, eval_examples=3)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1.0
    config.train.num_samples = 2
    summary = assemble.train(config, str(tmp_path))
    table = jax.nn.log_softmax(read_params(config, tmp_path)["logits"])
    tokens = np.asarray(load_text(small_text).splits["dev"].tokens)[: 3 * BLOCK + 1]
    expected = -np.asarray(table)[tokens[:-1], tokens[1:]].mean()
    assert summary["dev_loss"] == pytest.approx(expected, abs=1e-5)
    assert summary["test_loss"] == pytest.approx(expected, abs=1e-5)
    heading, samples = (tmp_path / "samples.txt").read_text("utf-8").split("\n", 1)
    assert heading == "step 1, samples"
    assert all(line.startswith("  ") for line in samples.split("\n") if line)
    samples = re.sub(r"(?m)^  ", "", samples).removesuffix("\n").split(f"\n{text.RULE}\n")
    assert [len(sample) for sample in samples] == [500, 500]
    assert set("".join(samples)) <= set(small_text.read_text("utf-8"))


def test_text_with_a_config_for_names_prints_one_sample(small_text, tmp_path):
    config = text_config(small_text, steps=1)
    config.train.num_samples = Config().train.num_samples
    assemble.train(config, str(tmp_path))
    samples = (tmp_path / "samples.txt").read_text("utf-8")
    assert text.RULE not in samples
    assert len(re.sub(r"(?m)^  ", "", samples)) == len("step 1, samples\n") + 500 + 1


# The command line.


CONFIG = """
import sys
sys.path.insert(0, "{tests}")
from test_text import run_config


def get_config():
    return run_config("{path}")
"""


@pytest.fixture(scope="module")
def config_file(small_text, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "small.py"
    file.write_text(CONFIG.format(tests=ROOT / "tests", path=small_text), "utf-8")
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of files that are not valid texts."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "short").write_bytes(b"anna\n")
    (folder / "latin").write_bytes(b"x" * 999 + b"\xe9" + b"x" * 999)
    (folder / "other").write_bytes(b"another text " * 99)
    return folder


BAD = [
    ("data.path={files}/short", "leaves 4 of them for train, and a crop takes data.block_size"),
    ("data.train_fraction=0.999", "data.train_fraction=0.999 leaves 3 of them for dev"),
    ("data.block_size=201", "leaves 201 of them for dev, and a crop takes data.block_size + 1 ="),
    (
        "data.block_size=None",
        "data.block_size is not set; data.kind=text needs the context length",
    ),
    ("data.dedup=true", "data.dedup: true must be false for data.kind=text"),
    ("data.path={files}/shart", "{files}/shart does not exist; did you mean {files}/short?"),
    ("data.path={files}/latin", "latin is not utf-8 at byte 999; name its encoding"),
    ("data.memory_map=sometimes", 'data.memory_map: "sometimes" is not one of auto, always'),
    ("train.accumulate=2", "train.accumulate: 2 must be a divisor of train.batch_size=5"),
    ("model.kind=window_mlp", 'data.kind: "text" must be windows, which window_mlp reads'),
]


@pytest.mark.parametrize(("override", "message"), BAD)
def test_bad_input(override, message, config_file, files, tmp_path):
    flag = f"--config.{override.format(files=files)}"
    done = run("train.py", "--config", config_file, "--workdir", tmp_path / "run", flag)
    assert_one_line(done, "train.py", message.format(files=files))
    assert not (tmp_path / "run").exists()


def test_a_run_refuses_another_text_and_a_damaged_token_file(config_file, files, runs, tmp_path):
    """The error is one line, and no file changes."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "parts", folder)
    flags = ("--config.data.memory_map=always", "--config.train.steps=30")
    command = ("train.py", "--config", config_file, "--workdir", folder, *flags)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = run(*command, f"--config.data.path={files / 'other'}")
    assert_one_line(
        done, "train.py", f"data.path: {files / 'other'} is not the file that the run in {folder}"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    content = (folder / "text.tokens").read_bytes()
    (folder / "text.tokens").write_bytes(content[:1000])
    assert_one_line(
        run(*command), "train.py", f"text.tokens is damaged: 1000 bytes, not {NUM}; delete it"
    )
    assert (folder / "text.tokens").read_bytes() == content[:1000]

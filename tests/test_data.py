"""Data: published splits, makemore's examples, and the download."""

import dataclasses
import errno
import hashlib
import http.server
import re
import runpy
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_one_line, published, run

from makemore_jax import data, download, original_splits
from makemore_jax.assemble import load_data
from makemore_jax.config import DataConfig
from makemore_jax.data import files, lines, splits
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.data_folder import find
from makemore_jax.errors import UserError

# torch 2.13: torch.manual_seed(3407); torch.randperm(32033)
TORCH_FIRST = [18545, 10853, 360, 10522, 2312, 27407]
TORCH_LAST = [5509, 2957, 9964, 30618, 16636, 29400]


def write(folder, content, encoding="utf-8"):
    path = folder / "lines.txt"
    path.write_bytes(content.encode(encoding))
    return str(path)


def test_randperm_matches_torch():
    order = original_splits.torch_randperm(32033, 3407)
    assert order[:6].tolist() == TORCH_FIRST
    assert order[-6:].tolist() == TORCH_LAST
    assert sorted(order) == list(range(32033))


def test_makemore_split_of_makemores_list():
    config = DataConfig(path=str(published("names")), split="makemore")
    dataset = load_data(config, seed=3407)
    words = published("names").read_text("utf-8").split()
    assert [dataset.splits[k].size for k in ("train", "dev", "test")] == [31033, 1000, 1000]
    assert dataset.words["test"] == dataset.words["dev"]
    assert dataset.words["train"][:6] == [words[i] for i in TORCH_FIRST]
    assert dataset.words["test"][-6:] == [words[i] for i in TORCH_LAST]
    assert (dataset.vocab.size, dataset.block_size) == (27, 16)


def test_makemore_split_of_a_short_list_holds_out_a_tenth():
    indices = original_splits.makemore(57, seed=1)
    assert len(indices["test"]) == 5
    assert len(indices["train"]) == 52


def test_lecture_split_of_makemores_list():
    """Each character and each end of a line is one of the lecture's examples."""
    config = DataConfig(path=str(published("names")), split="lecture")
    dataset = load_data(config, seed=3407)
    examples = [sum(len(w) + 1 for w in dataset.words[k]) for k in ("train", "dev", "test")]
    assert examples == [182_625, 22_655, 22_866]
    assert dataset.words["train"][:3] == ["yuheng", "diondre", "xavien"]


@pytest.mark.parametrize("split", original_splits.SPLITS)
@pytest.mark.parametrize("n", [20, 1009])
def test_splits_cover_every_line_once(split, n):
    indices = original_splits.SPLITS[split](n, 5)
    parts = [indices["train"], indices["test"]]
    if split != "makemore":  # its dev split is its test split
        parts.append(indices["dev"])
    assert sorted(np.concatenate(parts)) == list(range(n))


def test_holdout_is_90_5_5_and_depends_on_the_seed():
    first, second = splits.holdout(1000, 1), splits.holdout(1000, 2)
    assert [len(first[k]) for k in ("train", "dev", "test")] == [900, 50, 50]
    assert set(first["test"]) != set(second["test"])


def test_dedup(tmp_path):
    config = DataConfig(path=str(published("names")), dedup=True)
    dataset = load_data(config, seed=1)
    words = [w for k in ("train", "dev", "test") for w in dataset.words[k]]
    assert len(words) == len(set(words)) == 29_494


def test_dedup_keeps_the_order_of_the_file(tmp_path):
    """A split of the distinct lines then equals that of the published scripts."""
    path = write(tmp_path, "\n".join(["dora", "anna", "dora", "carl", "bob", "anna"] * 5))
    dataset = load_data(DataConfig(path=path, dedup=True), seed=1)
    order = np.concatenate([splits.holdout(4, 1)[k] for k in ("train", "dev", "test")])
    words = [w for k in ("train", "dev", "test") for w in dataset.words[k]]
    assert words == [["dora", "anna", "carl", "bob"][i] for i in order]


@pytest.mark.parametrize(
    ("dedup", "expected"),
    [(False, ["ab", "ann", "ann", "ann", "bob"]), (True, ["ab", "ann", "bob"])],
)
def test_cut_lines_are_stripped_and_then_deduplicated(dedup, expected, tmp_path):
    path = write(tmp_path, "ab cd\nanna\nbob\nanna x\nanna y")
    config = DataConfig(path=path, block_size=4, long_lines="cut", dedup=dedup)
    words = [w for part in load_data(config, seed=1).words.values() for w in part]
    assert sorted(words) == expected


def test_options_that_remove_lines_are_named(tmp_path):
    path = write(tmp_path, "anna\nanna\nanna\nelizabeth")
    config = DataConfig(path=path, dedup=True, long_lines="drop", block_size=6)
    message = r"has 1 line after data.long_lines or data.dedup, too few: the holdout split"
    with pytest.raises(UserError, match=message):
        load_data(config, seed=1)


def test_examples_match_makemore():
    vocab = Vocab(("a", "b", "c"))
    split = lines.encode(["ab", "c", "cba"], vocab, block_size=5)
    inputs, targets, _ = split.take(jnp.array([2, 0, 1]))
    assert inputs.tolist() == [[0, 3, 2, 1, 0], [0, 1, 2, 0, 0], [0, 3, 0, 0, 0]]
    assert targets.tolist() == [[3, 2, 1, 0, -1], [1, 2, 0, -1, -1], [3, 0, -1, -1, -1]]
    assert split.stream.dtype == np.uint8


def test_encoding_and_decoding_keep_every_line(names):
    for name, split in names.splits.items():
        inputs, targets, _ = map(np.asarray, split.take(jnp.arange(split.size)))
        assert names.vocab.decode_rows(inputs[:, 1:]) == names.words[name]
        assert names.vocab.decode_rows(np.maximum(targets, 0)) == names.words[name]
        assert (inputs[:, 0] == 0).all()


def test_batches_depend_only_on_the_key(names):
    split = names.splits["train"]
    first = data.draw(split, jax.random.key(1), 7)
    again = data.draw(split, jax.random.key(1), 7)
    other = data.draw(split, jax.random.key(2), 7)
    assert (first[0] == again[0]).all()
    assert not (first[0] == other[0]).all()


def test_draws_are_uniform_with_replacement():
    vocab = Vocab(tuple("abcdefg"))
    split = lines.encode(list("abcdefg"), vocab, 2)
    inputs, *_ = data.draw(split, jax.random.key(0), 7000)
    counts = np.bincount(np.asarray(inputs)[:, 1], minlength=8)[1:]
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5  # chi-square, 6 degrees, p = 0.001


def test_a_large_vocabulary_uses_a_wider_integer(tmp_path):
    words = [chr(0x4E00 + i) + "x" for i in range(400)]
    dataset = load_data(DataConfig(path=write(tmp_path, "\n".join(words))), seed=1)
    assert dataset.splits["train"].stream.dtype == np.uint16
    inputs, *_ = dataset.splits["train"].take(jnp.array([3]))
    assert dataset.vocab.decode_rows(np.asarray(inputs)[:, 1:])[0] == dataset.words["train"][3]


def test_byte_order_mark_carriage_returns_and_blank_lines(tmp_path):
    content = "\ufeffanna\r\n\r\n  bob \r\n\nclé\r\ndora\r\n"
    dataset = load_data(DataConfig(path=write(tmp_path, content)), seed=1)
    words = [w for k in ("train", "dev", "test") for w in dataset.words[k]]
    assert sorted(words) == ["anna", "bob", "clé", "dora"]
    assert dataset.vocab.chars == tuple(sorted(set("annabobclédora")))


def test_other_encodings(tmp_path):
    path = write(tmp_path, "José\nZoë\nAna\nEva\n", "latin-1")
    dataset = load_data(DataConfig(path=path, encoding="latin-1"), seed=1)
    assert "é" in dataset.vocab.chars
    with pytest.raises(UserError, match=r"is not utf-8 at byte 3"):
        load_data(DataConfig(path=path), seed=1)


def test_found_in(names):
    first = {k: names.words[k][0] for k in ("train", "dev", "test")}
    assert names.found_in([*first.values(), "qqqq"]) == ["train", "dev", "test", "new"]
    assert names.show(["qqqq", first["dev"]], [False, False])[:2] == [
        "in dev:",
        f"  {first['dev']}",
    ]


def test_a_line_of_several_splits_is_found_in_train_first(names):
    words = {"train": ["a"], "dev": ["a", "b", "c"], "test": ["a", "b"]}
    splits_of_lines = dataclasses.replace(names, words=words).found_in(["a", "b", "c"])
    assert splits_of_lines == ["train", "test", "dev"]


def test_samples_are_shown_one_per_line_grouped_by_split(names):
    known = names.words["train"][0]
    texts, is_cut = ["", "a, b", known, known, "qqqq"], [False, False, False, True, True]
    assert names.found_in(texts, is_cut) == ["new", "new", "train", "cut", "cut"]
    assert names.show(texts, is_cut) == [
        *("in train:", f"  {known}", "new:", '  ""', "  a, b", "cut:", f"  {known}", "  qqqq")
    ]


# The download, against a server on this machine.


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.delenv("MAKEMORE_DATA", raising=False)
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def source(server, monkeypatch):
    """Replace makemore's list by a small text on the server."""
    folder, url = server
    content = b"emma\nolivia\n"
    (folder / "names.txt").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    known = download.Source("makemore_names.txt", f"{url}/names.txt", sha256)
    monkeypatch.setitem(download.SOURCES, "names", known)
    return folder / "names.txt"


def test_download_keeps_the_file_and_does_not_fetch_it_twice(source, tmp_path):
    path = download.download("names", tmp_path / "data")
    assert path.read_bytes() == source.read_bytes()
    source.unlink()  # so that a second fetch would fail
    assert download.download("names", tmp_path / "data") == path
    assert [p.name for p in path.parent.iterdir()] == ["makemore_names.txt"]


def test_download_refuses_another_text_and_leaves_nothing(source, tmp_path):
    source.write_bytes(b"emma\nmallory\n")
    with pytest.raises(UserError, match="not the expected text"):
        download.download("names", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_download_without_a_server_is_an_error(source, tmp_path):
    with pytest.raises(UserError, match="can't be fetched"):
        download.download("names", tmp_path / "data", url=download.SOURCES["names"].url + "x")
    assert not (tmp_path / "data").exists()


def test_a_failed_download_explains_what_to_do(source, tmp_path):
    target = re.escape(str(tmp_path / "data" / "makemore_names.txt"))
    advice = f"; save the file as {target}, or set MAKEMORE_DATA to the folder that has it$"
    for url in (download.SOURCES["names"].url + "x", "http://127.0.0.1:9/", "no address"):
        with pytest.raises(UserError, match=f"^{url} can't be fetched: .*{advice}"):
            download.download("names", tmp_path / "data", url)
    source.write_bytes(b"emma\nmallory\n")
    with pytest.raises(UserError, match=f"not the expected text.*{advice}"):
        download.download("names", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_download_to_a_full_disk_keeps_no_part(source, tmp_path, monkeypatch):
    def write_part(file, content):
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_part)
    with pytest.raises(UserError, match="can't be written: No space left on device"):
        download.download("names", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_files_are_found_in_data_then_in_makemore_data(source, tmp_path, monkeypatch):
    """The download, configs and lectures use the same rule."""
    monkeypatch.chdir(tmp_path)
    second = tmp_path / "second" / "makemore_names.txt"
    second.parent.mkdir()
    second.write_bytes(source.read_bytes())
    path = "data/makemore_names.txt"
    config = DataConfig(path=path)

    with pytest.raises(UserError, match=f"^data.path: {path} does not exist; python -m"):
        load_data(config, seed=1)
    monkeypatch.setenv("MAKEMORE_DATA", str(tmp_path))
    message = rf"{path} does not exist, and MAKEMORE_DATA \({tmp_path}\) does not have it; python"
    with pytest.raises(UserError, match=message):
        load_data(config, seed=1)

    monkeypatch.setenv("MAKEMORE_DATA", str(second.parent))
    assert download.download("names") == second
    assert find(path) == str(second)
    for elsewhere in ("makemore_names.txt", "other/makemore_names.txt", "/data/makemore_names.txt"):
        assert find(elsewhere) == elsewhere
    assert files.read(find(path), "utf-8")[0] == source.read_text("utf-8")
    text = load_data(DataConfig(path=path, kind="text", block_size=1, train_fraction=0.5), seed=1)
    assert text.splits["train"].num_chars == 6

    first = tmp_path / path
    first.parent.mkdir()
    first.write_text("anna", "utf-8")
    assert find(path) == path
    assert files.read(find(path), "utf-8")[0] == "anna"
    with pytest.raises(UserError, match=r"^data/.* is not the expected text.*; delete it"):
        download.download("names")
    assert second.exists()


def test_a_config_trains_and_samples_with_only_makemore_data(tmp_path):
    """Run the download, training and sampling commands without a network."""
    folder = {"MAKEMORE_DATA": str(published("names").parent), "PYTHONPATH": str(ROOT)}
    done = run("-m", "makemore_jax.download", "names", cwd=tmp_path, **folder)
    path = "data/makemore_names.txt"
    assert done.stdout.endswith(f" (from MAKEMORE_DATA): use it with --config.data.path={path}\n")
    config = (ROOT / "train.py", "--config", ROOT / "configs/bigram.py", "--workdir", "run")
    steps = ("--config.train.steps=1", "--config.train.num_samples=0")
    done = run(*config, f"--config.data.path={path}", *steps, cwd=tmp_path, **folder)
    assert done.returncode == 0, done.stderr
    done = run(ROOT / "sample.py", "--workdir", "run", "--num", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")  # it finds the data of the run
    assert not (tmp_path / "data").exists()


def test_download_command_refuses_another_text(tmp_path):
    (tmp_path / "other.txt").write_text("x", "utf-8")
    url = (tmp_path / "other.txt").as_uri()
    folder = tmp_path / "data"
    command = ("-m", "makemore_jax.download", "shakespeare", "--folder", folder, "--url", url)
    assert_one_line(run(*command, MAKEMORE_DATA=""), "download", "not the expected text")
    assert not folder.exists()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda f: f.stem)
def test_configs_document_their_download(file):
    scope = runpy.run_path(str(file))
    needed = Path(scope["get_config"]().data.path)
    names = [name for name, source in download.SOURCES.items() if source.file == needed.name]
    assert bool(names) == (needed.parent == Path("data"))
    for name in names:
        assert "the first command downloads" in " ".join(scope["__doc__"].split())
        assert f"python -m makemore_jax.download {name}\n" in scope["__doc__"]


def test_published_texts_have_the_expected_checksums():
    for name, known in download.SOURCES.items():
        assert hashlib.sha256(published(name).read_bytes()).hexdigest() == known.sha256

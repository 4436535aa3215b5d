"""Any text: encodings, characters of all scripts, very long lines, moved and converted files."""

# ruff: noqa: RUF001  (the tests name characters that look like others)

import bz2
import gzip
import io
import json
import shutil
import unicodedata
import warnings

import jax
import numpy as np
import pytest
from conftest import ROOT, small_config

from makemore_jax import assemble, workdir
from makemore_jax.cli import command_line, output, sample_output
from makemore_jax.cli.data_warnings import data_warnings
from makemore_jax.cli.sample_rules import check_prompt
from makemore_jax.config import DataConfig
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import Decoding, sample_token
from makemore_jax.errors import UserError
from makemore_jax.integrity import run_files
from makemore_jax.metrics import RunFiles
from makemore_jax.report.labels import char_class, char_label
from makemore_jax.text import token_file

NAMES = ["emma", "olivia", "ava", "mia", "zoe", "lena", "nora", "ida", "ella", "eva"] * 3
ACCENTS = [f"{name}é" for name in NAMES]
CHINESE = ["中国", "日本", "韓國", "世界", "你好"] * 6


def write(folder, content):
    path = folder / "data.txt"
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode())
    return str(path)


def load(path, **fields):
    return assemble.load_data(DataConfig(path=path, **fields), seed=1)


def words_of(dataset):
    return sorted(word for words in dataset.words.values() for word in words)


# Files


@pytest.fixture
def any_text(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import any_text

    return any_text


def test_100_random_files_are_kept_or_refused(any_text):
    counts = any_text.check_many(100)
    assert counts["refused"] > 10 and counts["lines"] > 10 and counts["text"] > 25


@pytest.mark.slow
def test_random_files_train_resume_and_sample(any_text):
    assert any_text.check_many(30, train_every=10)["trained"] >= 2


@pytest.mark.parametrize("words", [NAMES, ACCENTS, CHINESE])
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_other_unicode_encodings_are_named_and_work(words, encoding, tmp_path):
    path = write(tmp_path, "\n".join(words).encode(encoding))
    for wrong in ("utf-8", "latin-1", "utf-16-be" if "be" not in encoding else "utf-16-le"):
        with pytest.raises(UserError) as error:
            load(path, encoding=wrong)
        expected = f"is {encoding}, not {wrong}; name its encoding: --config.data.encoding="
        assert str(error.value) == f"data.path: {path} {expected}{encoding}"
    assert words_of(load(path, encoding=encoding)) == sorted(words)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_utf8_is_not_read_as_utf16(encoding, tmp_path):
    """Pairs of ASCII characters are valid UTF-16: Chinese characters."""
    with pytest.raises(UserError, match=f"is utf-8, not {encoding}; name its encoding"):
        load(write(tmp_path, NAMES), encoding=encoding)


def test_utf16_without_a_byte_order_mark_says_so(tmp_path):
    """A text is decoded in parts, and Python refuses the first one."""
    path = write(tmp_path, ("".join(CHINESE) * 50).encode("utf-16-le"))
    end = "has no byte order mark; data.encoding=utf-16-le or utf-16-be needs none"
    with pytest.raises(UserError, match=f"^data.path: {path} {end}$"):
        load(path, encoding="utf-16", kind="text", block_size=4)
    assert load(path, encoding="utf-16-le", kind="text", block_size=4).vocab.size > 3


@pytest.mark.parametrize("kind", ["lines", "text"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"emma\n" * 50, mtime=0), "is compressed with gzip, not a text file"),
        (bz2.compress(b"emma\n" * 50), "is compressed with bzip2, not a text file"),
        (b"PK\x03\x04\x14\0", "is a zip archive, as Word documents are, not a text file"),
        (b"emma\nolivia\0\n" * 20, "text: it has '\\x00'; remove it, or give a text file"),
        (b"emma\n" * 20_000 + b"\0", "text: it has '\\x00'; remove it, or give a text file"),
        ("\n".join(ACCENTS).encode("latin-1"), "at byte 4; name its encoding, as in"),
    ],
    ids=["gzip", "bzip2", "zip", "a few NULs", "one NUL", "latin-1"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_files_that_are_not_text(kind, content, message, encoding, tmp_path):
    if encoding == "latin-1" and "at byte" in message:
        return  # it is text in this encoding
    block_size = 3 if kind == "text" else None
    with pytest.raises(UserError) as error:
        load(write(tmp_path, content), kind=kind, encoding=encoding, block_size=block_size)
    assert message in str(error.value)


def test_surrogates_are_refused(tmp_path):
    """Some encodings of Python can write half a character, which no file of a run can hold."""
    path = write(tmp_path, b"emma\\ud800\nolivia\n" * 20)
    with pytest.raises(UserError, match=r"not unicode_escape text: it has '\\ud800'"):
        load(path, encoding="unicode_escape")


def test_utf8_that_is_read_as_latin1_gives_a_warning(tmp_path):
    path = write(tmp_path, ACCENTS)
    config = DataConfig(path=path, encoding="latin-1")
    (line,) = data_warnings(config, load(path, encoding="latin-1"))
    assert "data.txt is valid UTF-8 but is read as latin-1" in line
    assert not list(data_warnings(DataConfig(path=path), load(path)))
    path = write(tmp_path, "\n".join(ACCENTS).encode("latin-1"))
    assert not list(data_warnings(config, load(path, encoding="latin-1")))


def test_the_encoding_of_the_lines_to_score(tmp_path):
    path = write(tmp_path, "\n".join(NAMES).encode("utf-16"))
    with pytest.raises(UserError) as error:
        sample_output.read_input(path, "utf-8")
    end = "is not utf-8 at byte 0, as the data of the run is; it is utf-16: convert it"
    assert str(error.value) == f"--score: {path} {end}"


# A line that is much longer than all others


def test_a_long_line_is_named(tmp_path):
    path = write(tmp_path, [*NAMES * 10, "x" * 1000])
    (line,) = data_warnings(DataConfig(path=path), load(path))
    assert "data.block_size: is 1001 because of the line 'xxxxxxxxxxxxxxxxxxxx'" in line
    assert "--config.data.block_size=7 --config.data.long_lines=drop (or cut)" in line
    names = DataConfig(path=str(ROOT / "names.txt"))
    assert not list(data_warnings(names, assemble.load_data(names, seed=1)))


def test_removed_indentation_is_reported(tmp_path):
    config = DataConfig(path=write(tmp_path, [*NAMES, "\tif x:", "  y = 1", "", "   "]))
    (line,) = data_warnings(config, load(config.path))
    assert line.startswith("data.path: 2 lines begin with spaces or tabs, which are removed")


@pytest.mark.slow
def test_settings_without_a_use_are_reported(tmp_path, capsys):
    config = small_config("bigram", steps=5, num_samples=0)
    assemble.train(config, str(tmp_path / "default"))
    assert "not used" not in capsys.readouterr().err
    config.data.train_fraction, config.optimizer.min_learning_rate = 0.5, 1e-5
    config.optimizer.schedule, config.optimizer.gamma = "step", 0.5
    config.optimizer.name, config.optimizer.b2 = "sgd", 0.5
    assemble.train(config, str(tmp_path / "changed"))
    unused = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert [line.split(": ", 1)[1] for line in unused] == [
        "data.train_fraction: not used with data.kind=lines",
        "optimizer.b2: not used with optimizer.name=sgd",
        "optimizer.min_learning_rate: not used with optimizer.schedule=step",
    ]


def test_a_rule_for_lines_that_can_not_be_too_long_is_reported(tmp_path):
    config = DataConfig(path=write(tmp_path, NAMES), long_lines="drop")
    (line,) = data_warnings(config, load(config.path))
    assert line.startswith("data.long_lines: not used without data.block_size")


def test_long_lines_are_dropped_or_cut(tmp_path):
    path = write(tmp_path, [*NAMES, "abcdefghijkl"])
    with pytest.raises(UserError, match=r"give 13 or more, or set data.long_lines to drop or cut"):
        load(path, block_size=7)
    dropped, cut = (load(path, block_size=7, long_lines=how) for how in ("drop", "cut"))
    assert words_of(dropped) == sorted(NAMES) and "k" not in dropped.vocab.chars
    assert words_of(cut) == sorted([*NAMES, "abcdef"])
    with pytest.raises(UserError, match="too few"):
        load(path, block_size=2, long_lines="drop")
    config = small_config("bigram")
    config.data.kind, config.data.long_lines, config.data.block_size = "text", "cut", 5
    with pytest.raises(
        UserError, match=r'data.long_lines: "cut" must be refuse for data.kind=text'
    ):
        assemble.train(config, str(tmp_path / "run"))


# Files of a run


def test_samples_keep_every_character_of_a_resumed_run(tmp_path):
    """U+2028 and others end a line for str.splitlines, but not in samples.txt."""
    lines = ["  a\u2028step 9", "  b\x0cstep 9", "  c\x85d", "  e\x1ef"]
    files = RunFiles(tmp_path, 0)
    files.write_samples(1, lines)
    files.write_samples(2, ["  later"])
    files.close()
    with (tmp_path / "samples.txt").open("ab") as file:
        file.write("step 1, é".encode()[:-1])  # a killed process may write half a character
    run_files.cut(tmp_path, 1)
    assert (tmp_path / "samples.txt").read_text("utf-8") == "\n".join(
        ["step 1, samples", *lines, ""]
    )


@pytest.fixture
def project(small_runs, tmp_path):
    """Return a copy of a project in another place: few.txt and runs/bigram."""
    folder = tmp_path / "moved"
    shutil.copytree(small_runs / "bigram", folder / "runs" / "bigram")
    shutil.copy(small_runs / "few.txt", folder)
    file = folder / "runs" / "bigram" / "config.json"
    content = json.loads(file.read_text("utf-8"))
    content["data_file"] = content["config"]["data"]["path"] = "/home/ada/project/few.txt"
    file.write_text(json.dumps(content), "utf-8")
    return folder


def test_the_data_of_a_moved_project_is_found(project, tmp_path, monkeypatch):
    folder = project / "runs" / "bigram"
    run = workdir.read(folder)
    assert assemble.find_data(run, folder).sha256 == run.data_sha256
    elsewhere = (project / "few.txt").rename(tmp_path / "renamed.txt")
    assert assemble.find_data(run, folder) is None
    assert assemble.find_data(run, folder, str(elsewhere)).sha256 == run.data_sha256
    monkeypatch.setenv("MAKEMORE_DATA", str(tmp_path))
    assert assemble.find_data(run, folder, "data/renamed.txt").sha256 == run.data_sha256
    elsewhere.write_text("\n".join(NAMES), "utf-8")
    with pytest.raises(UserError, match=r"--data: .*renamed.txt is not the file that the run was"):
        assemble.find_data(run, folder, str(elsewhere))
    with pytest.raises(UserError, match=r"--data: .*gone.txt does not exist$"):
        assemble.find_data(run, folder, str(tmp_path / "gone.txt"))


def test_a_git_checkout_may_change_the_ends_of_lines(project):
    """With autocrlf, git for Windows writes all files that have no NUL with \\r\\n."""
    for file in project.rglob("*"):
        if file.is_file() and b"\0" not in (content := file.read_bytes()):
            file.write_bytes(content.replace(b"\n", b"\r\n"))
    folder = project / "runs" / "bigram"
    run = workdir.read(folder)
    assert "é" in run.vocab.chars
    assert assemble.find_data(run, folder).sha256 == run.data_sha256
    assemble.load_language_model(folder, run)


def test_the_hash_of_a_text_ignores_the_ends_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(token_file, "BYTES_PER_HASH", 5)  # \r\n is split between two parts
    hashes = set()
    for end in (b"\n", b"\r\n"):
        path = write(tmp_path, end.join([b"abcd", b"ef", b"", b"g" * 20, b"abcd"]) * 2 + b"\r")
        hashes.add(load(path, kind="text", block_size=2).sha256)
        hashes.add(load(path, encoding="latin-1", kind="lines").sha256)
    assert len(hashes) == 1


# Prompts

FORMS = ("NFC", "NFD")


def test_another_normalization_form_is_named():
    composed, decomposed = (Vocab(tuple(sorted({*unicodedata.normalize(f, "aéñ")}))) for f in FORMS)
    check_prompt(composed, "é")
    with pytest.raises(UserError, match=r"never saw 'é'; .*convert the text to NFD or NFKD"):
        check_prompt(decomposed, "aé")
    with pytest.raises(UserError, match=r"never saw .*convert the text to NFC or NFKC"):
        check_prompt(composed, "ae\u0301")
    with pytest.raises(UserError, match=r"never saw 'z'$"):
        check_prompt(composed, "az")


# Output


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "UTF8", "utf-16", "koi8-r"])
def test_json_is_valid_on_every_stdout(encoding, monkeypatch):
    text = "é😀\u2028\x85中\x0c\x7f\x9b"
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace", newline="\n")
    monkeypatch.setattr("sys.stdout", stream)
    sample_output.print_json({"text": text})
    stream.flush()
    (line,) = stream.buffer.getvalue().decode(encoding).splitlines()
    assert json.loads(line) == {"text": text}
    assert ("😀" in line) == (encoding.lower() in ("utf-8", "utf8"))
    assert not any(unicodedata.category(char) == "Cc" for char in line)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_control_characters_as_escapes(monkeypatch):
    """A file or a pipe gets the exact text, also from a training, which outlives its terminal."""
    text = "a\x1b]0;b\x07\r\x7f\x9bc\tdé\u2028中\n"

    def program():
        output.outlive_terminal()
        print(text, end="")

    monkeypatch.setattr("sys.argv", ["train.py"])
    for main in (lambda: print(text, end=""), program):
        for stream in (Terminal(), io.StringIO()):
            monkeypatch.setattr("sys.stdout", stream)
            monkeypatch.setattr("sys.stderr", stream)
            command_line.run(main, "", config_required=False)
            shown = "a\\x1b]0;b\\x07\\x0d\\x7f\\x9bc\tdé\u2028中\n"
            assert stream.getvalue() == (shown if stream.isatty() else text)


def test_an_error_that_quotes_a_file_has_no_control_characters(capsys):
    command_line.warn("\x1b[2Jnames\n.txt is gone")
    assert capsys.readouterr().err.endswith(": \\x1b[2Jnames\\n.txt is gone\n")


def test_json_has_no_infinity(capsys):
    """A model whose logits overflow gives a line the log-probability -inf or nan."""
    sample_output.print_json({"text": "a", "log_prob": -np.inf, "loss": float("nan")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "text": "a",
        "log_prob": None,
        "loss": None,
    }
    sample_output.print_json({"summary": {"loss": np.inf}})
    assert json.loads(capsys.readouterr().out) == {"summary": {"loss": None}}


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-30, 1e-7])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = np.random.RandomState(1).randn(50, 7).astype(np.float32) * 3
    keys = jax.random.split(jax.random.key(0), 50)
    drawn = sample_token(keys, logits, Decoding(temperature))
    assert (drawn == logits.argmax(axis=1)).all()
    tiny_top_p = sample_token(keys, logits, Decoding(top_p=temperature))
    assert (tiny_top_p == logits.argmax(axis=1)).all()


# Figures


def test_classes_of_all_scripts():
    classes = {
        "vowel": "aÉøæıαώΩяыїэ",
        "consonant": "bñßçγςжйЩ",
        "letter": "中한あבأъь",
        "number": "7٣",
        "mark": "\u0301",
        "punctuation": "-'。",
        "other": "$ \n\u200d😀",
    }
    found = {
        kind: "".join(c for c in chars if char_class(char_label(c)) == kind)
        for kind, chars in classes.items()
    }
    assert found == classes
    assert char_class(char_label("")) == "other"


def test_labels_are_visible_and_different():
    chars = ["", *" \n\t\x00\x0c\u00a0\u2028\u200d\u3000\u0301é中"]
    labels = [char_label(char) for char in chars]
    assert len(set(labels)) == len(chars)
    assert all(label.isprintable() and not label.isspace() for label in labels)


def test_thousands_of_characters_have_readable_labels(tmp_path, monkeypatch):
    """Some of them, which do not overlap. To move all labels apart would take minutes."""
    pytest.importorskip("matplotlib")
    from makemore_jax.plots import learned
    from makemore_jax.report.embeddings import Projection

    points = np.random.RandomState(2).randn(1_009, 2)
    kept = points[learned.uncrowded(points, 0.5)]
    gaps = np.linalg.norm(kept[:, None] - kept, axis=-1) + 9 * np.eye(len(kept))
    assert len(kept) > 20 and gaps.min() >= 0.5
    labels = [chr(ord("一") + i) for i in range(len(points))]
    monkeypatch.delattr(learned, "separate")
    learned.characters(Projection(points, np.array([0.5, 0.5])), labels, tmp_path / "all.png")
    assert (tmp_path / "all.png").is_file()


def test_figures_of_characters_without_a_font(tmp_path, capsys):
    """Each missing character shows its number, with one warning."""
    pytest.importorskip("matplotlib")
    from makemore_jax.plots import fonts, learned

    fonts._warn_once.cache_clear()
    private = "\U00100001\U00100002"  # private use: no font has them
    labels = ["a", "я", *private]
    assert fonts.drawable(labels) == ["a", "я", "U+100001", "U+100002"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned.attention(np.ones((1, 4, 4)), labels, tmp_path / "attention.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert "the fonts of this computer lack some of the characters" in line

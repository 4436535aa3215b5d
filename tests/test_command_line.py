"""End-to-end tests of train.py and sample.py, and the one-line errors for mistakes."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FAMILIES, ROOT, assert_one_line, quick_of, run, small_config

from makemore_jax import config as config_lib
from makemore_jax import models
from makemore_jax.assemble import create_model, load_data, open_checkpoints
from makemore_jax.cli import config_flag
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.training.state import TrainState

QUICK = (
    "--config.train.steps=30",
    "--config.train.log_every=10",
    "--config.train.eval_every=20",
    "--config.train.sample_every=20",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder and the output of a short run of train.py."""
    folder = tmp_path_factory.mktemp("cli") / "bigram"
    done = run("train.py", "--config", "configs/bigram.py", *QUICK, "--workdir", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of([k for k in FAMILIES if k != "bigram"], ["mlp"]))
def test_train_and_sample_every_family(kind, tmp_path):
    """Run the README's two commands with the model sizes of the configs, for a few steps."""
    folder = tmp_path / kind
    done = run("train.py", f"--config=configs/{kind}.py", *QUICK, "--workdir", folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"best model \(step \d+\): test loss \d\.\d{4}", done.stdout)
    drawn = run("sample.py", "--workdir", folder, "--num", "7", "--format", "json")
    assert drawn.returncode == 0, drawn.stderr
    assert len(drawn.stdout.splitlines()) == 7


def test_output_of_training(trained):
    folder, printed = trained
    assert re.search(r"bigram, 729 parameters, on \d+ cpu", printed)
    assert "20,242 train, 1,124 dev, 1,124 test lines" in printed
    assert re.search(r"step 20: dev loss \d\.\d{4} \(best\)", printed)
    assert "step 30, samples" in printed
    assert f"everything is in {folder}" in printed


@pytest.mark.slow
def test_default_workdir_is_named_after_the_config(tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(["anna", "bob", "carl", "dora"] * 5), "utf-8")
    done = run(
        *(ROOT / "train.py", "--config", ROOT / "configs" / "bigram.py", *QUICK),
        "--config.data.path=few.txt",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "bigram" / "summary.json").exists()


def test_overrides_before_the_config_and_with_separate_values(tmp_path):
    done = run(
        *("train.py", "--config.seed", "5", "--config.data.block_size=None", *QUICK),
        *("--config.data.dedup", "--config", "configs/bigram.py", "--workdir", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))["config"]
    assert (config["seed"], config["data"]["dedup"]) == (5, True)
    assert config["data"]["block_size"] == 15  # computed from the data


def test_text_samples_are_grouped_by_split(trained):
    done = run("sample.py", "--workdir", trained[0], "--num", "5")
    assert done.returncode == 0
    assert re.match(r"(in (train|dev|test)|new):\n  ", done.stdout)


def test_lines_cut_at_max_len_are_marked(trained):
    flags = ("--workdir", trained[0], "--num", "30", "--max_len", "4")
    done = run("sample.py", *flags, "--format", "json")
    drawn = [json.loads(line) for line in done.stdout.splitlines()]
    cut = [line["text"] for line in drawn if line["found_in"] == "cut"]
    assert cut and all(len(text) == 4 for text in cut)
    done = run("sample.py", *flags)
    assert done.stdout.partition("cut:\n")[2].split() == cut


def test_json_samples_and_their_score(trained, names):
    """Compare log_prob with --score and found_in with the data, and check the prompt."""
    flags = ("--format", "json", "--prompt", "an", "--top_k", "9", "--top_p", "0.9")
    done = run("sample.py", "--workdir", trained[0], "--num", "50", *flags)
    drawn = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(drawn) == 50
    texts = [line["text"] for line in drawn]
    assert all(text.startswith("an") for text in texts)
    assert [line["found_in"] for line in drawn] == load_names(trained[0]).found_in(
        texts, [line["found_in"] == "cut" for line in drawn]
    )

    flags = ("--score", "-", "--format", "json")
    done = run("sample.py", "--workdir", trained[0], *flags, stdin="\n".join(texts) + "\n\n")
    *scored, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in scored] == texts
    for line, known in zip(scored, drawn, strict=True):
        assert line["log_prob"] == pytest.approx(known["log_prob"], abs=1e-4)
        assert line["loss"] == pytest.approx(-line["log_prob"] / (len(line["text"]) + 1))
    tokens = sum(len(text) + 1 for text in texts)
    summary = last["summary"]
    assert (summary["lines"], summary["tokens"]) == (50, tokens)
    assert summary["loss"] == pytest.approx(-sum(s["log_prob"] for s in scored) / tokens)


def load_names(workdir):
    """Load the data of a run."""
    from makemore_jax.config import from_json

    config = from_json(json.loads((workdir / "config.json").read_text("utf-8"))["config"])
    config.data.path = str(ROOT / "names.txt")
    return load_data(config.data, config.seed)


def test_score_of_the_test_split_is_the_test_loss(trained, tmp_path):
    """Scoring the lines of the test split gives the test loss that training printed."""
    summary = json.loads((trained[0] / "summary.json").read_text("utf-8"))
    lines = "\n".join(load_names(trained[0]).words["test"])
    (tmp_path / "test.txt").write_text(lines, "utf-8")
    flags = ("--score", tmp_path / "test.txt", "--format", "json")
    done = run("sample.py", "--workdir", trained[0], *flags)
    last = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert last["loss"] == pytest.approx(summary["test_loss"], abs=1e-5)


@pytest.mark.slow
def test_seeds_and_checkpoints(trained):
    def drawn(*flags):
        done = run("sample.py", "--workdir", trained[0], "--format", "json", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert drawn() == drawn("--num", "20", "--checkpoint", "best")
    assert drawn() != drawn("--seed", "4")
    new = [json.loads(line) for line in drawn("--new_only", "--num", "9").splitlines()]
    assert [line["found_in"] for line in new] == ["new"] * 9


def test_the_latest_checkpoint_can_be_selected(trained, tmp_path):
    """The latest checkpoint is worse than the best here: the rows of its table are reversed."""
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    checkpoints = open_checkpoints(folder)
    template = models.variable_shapes(create_model(small_config("bigram").model, 27, 15), 15)
    table = checkpoints.restore_items("best", template)["params"]["logits"]
    params = {"logits": table[::-1]}
    state = TrainState(jnp.int32(31), params, opt_state={})
    checkpoints.save(state, 9.0)
    scores = {}
    for checkpoint in ("best", "latest"):
        flags = ("--score", "-", "--checkpoint", checkpoint, "--workdir", folder)
        scores[checkpoint] = run("sample.py", *flags, stdin="emma\nolivia\n").stdout
    assert "loss" in scores["best"] and "loss" in scores["latest"]
    assert scores["best"] != scores["latest"]


def test_sampling_without_the_data_prints_a_warning(trained, tmp_path):
    """Sampling works on another machine, but can't report which samples are new."""
    content = json.loads((trained[0] / "config.json").read_text("utf-8"))
    intact = (trained[0] / "config.json").read_text("utf-8")
    content["data_file"] = content["config"]["data"]["path"] = str(tmp_path / "gone.txt")
    (trained[0] / "config.json").write_text(json.dumps(content), "utf-8")
    try:
        done = run("sample.py", "--workdir", trained[0], "--format", "json")
        assert done.returncode == 0
        assert "gone.txt is gone or has changed" in done.stderr
        assert json.loads(done.stdout.splitlines()[0])["found_in"] is None
        (tmp_path / "gone.txt").write_text(
            (ROOT / "names.txt").read_text("utf-8") + "zoe\n", "utf-8"
        )
        done = run("sample.py", "--workdir", trained[0], "--new_only")
        assert "gone.txt is gone or has changed" in done.stderr
        assert (done.returncode, done.stdout) == (2, "")
    finally:
        (trained[0] / "config.json").write_text(intact, "utf-8")


@pytest.mark.versions
@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_help(script):
    done = run(script, "--help")
    assert done.returncode == 0
    assert "--workdir" in done.stdout


def test_help_explains_every_field_and_shows_the_value_of_the_config():
    done = run("train.py", "--help", "--config", "shakespeare_cpu", "--config.train.steps=7")
    assert (done.returncode, done.stderr) == (0, "")
    entries = dict(re.findall(r"^  (\S+)\s+(.*(?:\n {20,}.*)*)", done.stdout, re.MULTILINE))
    entries = {name: " ".join(text.split()) for name, text in entries.items()}
    for name, field in config_lib.fields().items():
        (text,) = (text for entry, text in entries.items() if entry.startswith(f"{name}="))
        assert text.startswith(field.metadata["meaning"])
    meaning = "learning rate schedule [constant, step, cosine, nanogpt]"
    assert entries["optimizer.schedule=cosine"] == meaning
    assert entries["train.steps=7"] == "training steps [int, at least 1]"
    assert list(entries).index("--workdir") < list(entries).index("--distributed")


def test_help_of_a_config_with_a_mistake():
    done = run("train.py", "--help", "--config", "gru", "--config.model.n_emb=3")
    assert_one_line(done, "train.py", "did you mean model.n_embd?")


def test_help_and_mistakes_do_not_import_jax(tmp_path):
    """Help and errors appear quickly because they import no large library."""
    for name in ("jax", "numpy", "orbax", "flax"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')", "utf-8")
    for script in ("train.py", "sample.py"):
        done = run(script, "--help", fresh=True, PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        done = run(script, "--wrkdir", "x", fresh=True, PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1


def test_a_bundled_config_by_its_name(tmp_path):
    """A bundled config and its data, names.txt, are found from any folder."""
    train, folder = ROOT / "train.py", tmp_path / "runs" / "bigram"
    done = run(train, "--config", "bigram", "--config.train.steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((folder / "config.json").read_text("utf-8"))["config"]
    assert (config["model"]["kind"], config["train"]["steps"]) == ("bigram", 1)
    folder = Path("runs/bigram")
    assert f"everything is in {folder}; python sample.py --workdir {folder}" in done.stdout


def test_a_config_in_the_current_folder_is_preferred(tmp_path):
    assert config_flag.find("gru.py") == config_flag.find("gru") == str(ROOT / "configs" / "gru.py")
    (tmp_path / "gru.py").write_text("def get_config():\n    return 3\n", "utf-8")
    done = run(ROOT / "train.py", "--config", "gru.py", cwd=tmp_path)
    assert_one_line(done, "train.py", "get_config() gives int, not a Config")


@pytest.mark.parametrize("command", ["compare --config gru", "convert to-torch x.pt --workdir x"])
def test_parity_without_torch(command, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch', name='torch')", "utf-8")
    program, *flags = command.split()
    module = f"makemore_jax.torch_parity.{program}"
    done = run("-m", module, *flags, fresh=True, PYTHONPATH=str(tmp_path))
    assert_one_line(done, program, "needs torch: pip install torch")


# Bad input: one line on stderr, exit code 2, nothing written.

CONFIG = ("--config", "configs/bigram.py")
BAD_TRAIN = [
    ((), "--config is missing; for example: python train.py --config transformer"),
    (("--config", "transformr"), "transformr does not exist; did you mean transformer?"),
    (("--config", "none/gru.py"), "none/gru.py does not exist; did you mean gru?"),
    (("--config", "xyz"), "xyz does not exist; the bundled configs are best, bigram, bow, "),
    (("gru",), "gru: not a flag; did you mean --config=gru?"),
    (("--config", "configs/bigrm.py"), "does not exist; did you mean configs/bigram.py?"),
    (("configs/bigram.py",), "not a flag; did you mean --config=configs/bigram.py?"),
    ((*CONFIG, "configs/gru.py"), "not a flag; did you mean --config=configs/gru.py?"),
    ((*CONFIG, "--wrkdir=x"), "--wrkdir: no such flag; did you mean --workdir?"),
    ((*CONFIG, "--steps=100"), "--steps: no such flag; did you mean --config.train.steps?"),
    ((*CONFIG, "--config.model.n_emb=3"), "model.n_emb: no such field; did you mean model.n_embd?"),
    ((*CONFIG, "--config.n_layer=3"), "n_layer: no such field; did you mean model.n_layer?"),
    ((*CONFIG, "--config.model=3"), "--config.model: is a group of fields, model.kind, "),
    ((*CONFIG, "--config", "configs/gru.py"), "--config is given twice"),
    (
        (*CONFIG, "--config.data.dedup", "true"),
        "true: not a flag; a boolean flag takes its value after =",
    ),
    ((*CONFIG, "--config.optimizer.warmup_steps=99999999999"), "99999999999 is too large"),
    ((*CONFIG, "--config.data.path=-"), "data.path: - does not exist"),
    ((*CONFIG, "--config.data.encoding=punycode"), "data.encoding"),
    ((*CONFIG, "--config.train.steps=1e3"), "train.steps: '1e3' is not an integer; write 1000"),
    ((*CONFIG, "--config.data.dedup=maybe"), "data.dedup: 'maybe' is neither true nor false"),
    ((*CONFIG, "--config.train.batch_size=0"), "train.batch_size: 0 must be at least 1"),
    ((*CONFIG, "--config.optimizer.learning_rate=nan"), "nan is not a finite number"),
    (("--config", "configs/transformer.py", "--config.model.n_embd=30"), "divisible by"),
    ((*CONFIG, "--config.model.kind=lstmm"), "did you mean lstm?"),
    ((*CONFIG, "--config.data.kind=words"), 'data.kind: "words" is not one of lines'),
    ((*CONFIG, "--config.data.path=name.txt"), "does not exist; did you mean names.txt?"),
    ((*CONFIG, "--config.data.path=configs"), "configs is a folder, not a text file"),
    ((*CONFIG, "--config.data.path="), "data.path is empty"),
    (
        (
            *(*CONFIG, "--config.optimizer.schedule=cosine", "--config.optimizer.decay_steps=2"),
            "--config.optimizer.warmup_steps=4",
        ),
        "optimizer.decay_steps: 2 must be above optimizer.warmup_steps=4",
    ),
    ((*CONFIG, "--workdir="), "--workdir: is empty"),
    ((*CONFIG, "--config.data.path={tmp}/empty"), "is empty"),
    ((*CONFIG, "--config.data.path={tmp}/blank"), "is empty"),
    ((*CONFIG, "--config.data.path={tmp}/one"), "has 1 line, too few: the holdout split"),
    ((*CONFIG, "--config.data.path={tmp}/latin"), "is not utf-8 at byte 3"),
    ((*CONFIG, "--config.data.encoding=utf-99"), 'data.encoding: "utf-99"'),
    ((*CONFIG, "--config.data.block_size=5"), "5 is too short for the line 'elizabethgrace'"),
    ((*CONFIG, "--config.mesh.data=999"), "mesh.data: 999 devices are requested"),
    ((*CONFIG, "--config.mesh.model=64"), "mesh.data x mesh.model: 1 x 64 devices are requested"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of files that are not valid data."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty").write_bytes(b"")
    (folder / "blank").write_bytes(b" \n\n")
    (folder / "one").write_bytes(b"anna\n")
    (folder / "latin").write_bytes("Jos\u00e9\nAna\nEva\nZoe\n".encode("latin-1"))
    return folder


@pytest.mark.parametrize(("flags", "message"), BAD_TRAIN)
def test_bad_input_to_train(flags, message, files, tmp_path):
    workdir = tmp_path / "run"
    flags = [flag.format(tmp=files) for flag in flags]
    assert_one_line(run("train.py", "--workdir", workdir, *flags), "train.py", message)
    assert not workdir.exists()


IMPORT = "from makemore_jax.config import Config\n\n\ndef get_config():\n    c = Config()\n"
MISSPELT = IMPORT + "    c.model.n_embed = 128\n    return c\n"
NO_MODEL = IMPORT + "    c.model = None\n    return c\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", "the file fails with division by zero"),
        ("def get_config(:\n", "the file fails with invalid syntax"),
        ("x = 3\n", "has no attribute 'get_config'"),
        ("def get_config():\n    return {}\n", "get_config() gives dict, not a Config"),
        (MISSPELT, "the file fails with 'ModelConfig' object has no attribute 'n_embed'"),
        (NO_MODEL, "model: None is not a ModelConfig"),
    ],
)
def test_config_files_that_fail(content, message, tmp_path):
    (tmp_path / "broken.py").write_text(content, "utf-8")
    flags = ("--config", tmp_path / "broken.py", "--workdir", tmp_path / "run")
    assert_one_line(run("train.py", *flags), "train.py", message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config", "configs/gru.py"), 'model.kind: {run} holds a run with "bigram", not "gru"'),
        ((*CONFIG, "--config.seed=4"), "seed: {run} holds a run with 3407, not 4"),
        (
            (*CONFIG, "--config.train.eval_examples=3"),
            "train.eval_examples: {run} holds a run with None",
        ),
        ((*CONFIG, "--config.data.dedup=true"), "data.dedup: {run} holds a run with false"),
        ((*CONFIG, "--config.data.path={files}/other"), "is not the file that the run in"),
    ],
)
def test_a_workdir_that_holds_another_run(flags, message, trained, files):
    (files / "other").write_text((ROOT / "names.txt").read_text("utf-8") + "aaaa\n", "utf-8")
    before = {p: p.stat().st_mtime_ns for p in trained[0].rglob("*")}
    flags = [flag.format(files=files) for flag in flags]
    done = run("train.py", *flags, "--workdir", trained[0])
    assert_one_line(done, "train.py", message.format(run=trained[0]))
    assert {p: p.stat().st_mtime_ns for p in trained[0].rglob("*")} == before


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


@pytest.mark.parametrize(
    "workdir",
    [
        pytest.param("/proc/run", marks=needs_proc),
        "{files}/one",
        "{files}/one/run",
    ],
)
def test_a_workdir_that_cannot_be_written(workdir, files):
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    done = run("train.py", *CONFIG, "--workdir", workdir.format(files=files))
    assert_one_line(done, "train.py", "can't be written")
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before


BAD_SAMPLE = [
    (("--prompt", "anZé"), "--prompt: training never saw 'Z', 'é'"),
    (("--prompt", "a" * 15), "--prompt: 15 characters are too many"),
    (("--temperature", "-0.1"), "--temperature: -0.1 must be a number from 0 to 1e+30"),
    (("--temperature", "nan"), "--temperature: nan must be a number from 0 to 1e+30"),
    (("--temperature", "1e39"), "--temperature: 1e+39 must be a number from 0 to 1e+30"),
    (("--temperature", "inf"), "--temperature: inf must be a number from 0 to 1e+30"),
    (("--top_p", "0"), "--top_p: 0.0 must be above 0 and at most 1"),
    (("--top_p", "1.5"), "--top_p: 1.5 must be above 0 and at most 1"),
    (("--top_k", "0"), "--top_k: 0 must be at least 1"),
    (("--num", "0"), "--num: 0 must be at least 1"),
    (("--num", "2147483648"), "--num: 2147483648 must be at least 1, below 2**31"),
    (("--num", "many"), "--num=many: not an integer: 'many'"),
    (("--temperature", "hot"), "--temperature=hot: not a number: 'hot'"),
    (("--seed", "-1"), "--seed: -1 must be between 0 and 4294967295"),
    (("--checkpoint", "first"), "--checkpoint"),
    (("--score", "{files}/none"), "--score: {files}/none does not exist"),
    (("--score=",), "--score: is empty"),
    (("--score", "{files}/blank"), "--score: {files}/blank has no lines"),
    (("--score", "{files}/latin"), "--score: {files}/latin is not utf-8 at byte 3"),
    (("--score", "-", "--prompt", "a"), "--prompt: can't be combined with --score"),
    (("--score", "-", "--data", "names.txt"), "--data: can't be combined with --score"),
    (("--score", "-", "--num", "3"), "--num: can't be combined with --score"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_SAMPLE)
def test_bad_input_to_sample(flags, message, trained, files):
    flags = [flag.format(files=files) for flag in flags]
    done = run("sample.py", "--workdir", trained[0], *flags)
    assert_one_line(done, "sample.py", message.format(files=files))


def test_sample_without_a_run(trained, tmp_path):
    assert_one_line(run("sample.py"), "sample.py", "--workdir is missing")
    done = run("sample.py", "--workdir", tmp_path / "none")
    assert_one_line(done, "sample.py", f"--workdir: {tmp_path / 'none'} has no run")
    done = run("sample.py", trained[0])
    assert_one_line(done, "sample.py", f"not a flag; did you mean --workdir={trained[0]}?")
    done = run("sample.py", "--workdir", str(trained[0]) + "s")
    assert_one_line(done, "sample.py", f"did you mean {trained[0]}?")
    shutil.copytree(trained[0], tmp_path / "sweep" / "best")
    done = run("sample.py", "--workdir", tmp_path / "sweep")
    assert_one_line(done, "sample.py", f"whose best run is in {tmp_path / 'sweep' / 'best'}")
    assert not (tmp_path / "none").exists()


def test_sample_of_a_run_without_a_checkpoint(trained, tmp_path):
    for name in ("config.json", "vocab.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    done = run("sample.py", "--workdir", tmp_path)
    assert_one_line(done, "sample.py", "no checkpoint has been saved yet")


def test_sample_of_damaged_files(trained, tmp_path):
    content = (trained[0] / "config.json").read_bytes()
    (tmp_path / "vocab.json").write_text(json.dumps(list("abc")), "utf-8")
    (tmp_path / "config.json").write_bytes(content[:100])
    done = run("sample.py", "--workdir", tmp_path)
    assert_one_line(done, "sample.py", "has a damaged run")
    (tmp_path / "config.json").write_bytes(content)
    done = run("sample.py", "--workdir", tmp_path)
    assert_one_line(done, "sample.py", "vocab.json is not the one of its config.json")
    (tmp_path / "vocab.json").unlink()
    done = run("sample.py", "--workdir", tmp_path)
    assert_one_line(done, "sample.py", f"{tmp_path} has no vocab.json")
    (tmp_path / "config.json").unlink()
    (tmp_path / "checkpoints").mkdir()
    done = run("sample.py", "--workdir", tmp_path)
    assert_one_line(done, "sample.py", f"{tmp_path} has checkpoints but no config.json")


def test_a_vocabulary_decodes_what_it_encodes():
    vocab = Vocab(tuple("añb"))
    assert vocab.decode_rows(np.array([[*vocab.encode("bañ"), 0, 0]])) == ["bañ"]
    assert vocab.unknown("bxax") == ["x"]

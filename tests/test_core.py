"""The core: which files it has, how long they are, what they import, and that it works alone."""

import ast
import io
import json
import re
import shutil
import tokenize

import jax
import pytest
from conftest import ROOT, assert_close, read_metrics, run, small_config
from test_structure import find_imports, find_modules

from makemore_jax import assemble, workdir
from makemore_jax.config import to_json
from makemore_jax.errors import UserError
from makemore_jax.training.run import train

PROGRAMS = ["train.py", "sample.py"]
MODULES = [
    "config",
    "errors",
    "losses",
    "decoding",
    "sampling",
    "checkpoint",
    "workdir",
    "metrics",
]
FOLDERS = ["data", "models", "training"]
# What the programs may import besides the core: they are the command line of all parts.
USED_BY_PROGRAMS = ("makemore_jax.assemble", "makemore_jax.cli")
MAX_LINES = 1_669
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
    *(tokenize.DEDENT, tokenize.ENDMARKER),
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def core_files():
    package = ROOT / "makemore_jax"
    files = [ROOT / name for name in PROGRAMS] + [package / f"{name}.py" for name in MODULES]
    return files + [file for name in FOLDERS for file in sorted((package / name).glob("*.py"))]


def code_lines(file):
    """Return the numbers of the lines that hold more than comments and docstrings."""
    source, numbers = file.read_text("utf-8"), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            numbers |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


def functions(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_the_core_is_small():
    lines = {file.relative_to(ROOT).as_posix(): len(code_lines(file)) for file in core_files()}
    total = sum(lines.values())
    assert total <= MAX_LINES, f"{total} lines of code, at most {MAX_LINES}: {lines}"


def test_the_readme_lists_the_core():
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("<!-- core -->")[2].partition("<!-- end of core -->")[0]
    listed = {name: int(num) for name, num in re.findall(r"\| `([\w/.]+\.py)` \| (\d+) \|", table)}
    lines = {file.relative_to(ROOT).as_posix(): len(code_lines(file)) for file in core_files()}
    assert listed == {name: num for name, num in lines.items() if num}
    assert f"{sum(lines.values()):,}" in table


def test_functions_of_the_core_are_short():
    for file in core_files():
        numbers = code_lines(file)
        for node in functions(file):
            name = f"{file.relative_to(ROOT)}: {node.name}"
            length = len(numbers & set(range(node.lineno, node.end_lineno + 1)))
            assert length <= MAX_FUNCTION_LINES, f"{name} has {length} lines"
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            num = len([p for p in parameters if p.arg != "self"])
            assert num <= MAX_PARAMETERS, f"{name} has {num} parameters"


def test_the_core_imports_no_extension():
    modules, core = find_modules(), set(core_files())
    names = {name for name, file in modules.items() if file in core} | {"makemore_jax"}
    for name in names - {"makemore_jax"}:
        found = find_imports(name, modules) - names
        if name == "makemore_jax.models.layers":
            found -= {"makemore_jax.kernels"}
        if name in ("train", "sample"):
            found = {other for other in found if not other.startswith(USED_BY_PROGRAMS)}
        assert not found, f"{name} imports {found}"


ALONE = """
import sys

import jax
from makemore_jax import config, data, models, sampling, workdir
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.decoding import LanguageModel
from makemore_jax.training.run import train
import json, pathlib

settings = config.from_json(json.loads(sys.argv[1]))
train(settings, sys.argv[2])
run = workdir.read(pathlib.Path(sys.argv[2]))
model = models.create(run.config.model, run.vocab.size, run.config.data.block_size)
shapes = models.variable_shapes(model, run.config.data.block_size)
variables = Checkpoints(sys.argv[2]).restore_items("best", shapes)
lm = LanguageModel(model, variables, run.vocab, run.max_len, run.config.data.block_size)
samples = sampling.sample(lm, jax.random.key(1), 20)
print(json.dumps([sample.text for sample in samples]))
extensions = [name for name in sys.modules if name.startswith("makemore_jax.assemble")]
assert not extensions, extensions
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.split", "makemore", 'data.split: "makemore" is not one of holdout'),
        ("data.kind", "text", 'data.kind: "text" must be "lines" without extensions'),
        ("model.kind", "window_mlp", 'model.kind: "window_mlp" is not one of bigram, '),
        ("model.n_embd", 7, "model.n_embd: 7 must be divisible by model.n_head=2"),
        ("model.remat", True, "model.remat: true must be false: transformer models do not have it"),
        ("train.accumulate", 5, "train.accumulate: 5 must be 1 without extensions"),
        ("train.diagnose_every", 5, "train.diagnose_every: 5 must be None without extensions"),
        ("mesh.data", 2, "mesh.data: 2 must be 1 without extensions"),
        ("mesh.model", 2, "mesh.model: 2 must be 1 without extensions"),
        ("mesh.fsdp", True, "mesh.fsdp: true must be false without extensions"),
    ],
)
def test_the_core_alone_refuses_what_only_extensions_do(name, value, message, tmp_path):
    """This process has imported all extensions, which must not change the core."""
    config = small_config("transformer")
    group, leaf = name.split(".")
    setattr(getattr(config, group), leaf, value)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["bigram", pytest.param("transformer", marks=pytest.mark.slow)])
def test_the_core_works_alone(kind, tmp_path):
    """A copy of the core with the plain kernels gets the losses and samples of the whole."""
    package = tmp_path / "makemore_jax"
    for file in core_files():
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    (package / "__init__.py").touch()
    (package / "kernels").mkdir()
    for source, target in (("plain", "__init__"), ("packing",) * 2, ("precision",) * 2):
        shutil.copy(ROOT / f"makemore_jax/kernels/{source}.py", package / f"kernels/{target}.py")
    config = small_config(kind, steps=30, log_every=10, eval_every=30)
    config.mesh.data = 1
    settings = json.dumps(to_json(config))
    done = run("-c", ALONE, settings, "run", cwd=tmp_path, fresh=True, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    alone, samples = read_metrics(tmp_path / "run"), json.loads(done.stdout.splitlines()[-1])

    summary = assemble.train(config, str(tmp_path / "whole"))
    lm = assemble.load_language_model(tmp_path / "whole", workdir.read(tmp_path / "whole"))
    assert summary["steps"] == 30
    whole = read_metrics(tmp_path / "whole")
    assert [line["step"] for line in alone] == [line["step"] for line in whole] == [10, 20, 30, 30]
    for mine, theirs in zip(alone, whole, strict=True):
        for name in {"train_loss", "dev_loss"} & mine.keys():
            assert_close(mine[name], theirs[name], 1e-5)

    drawn = assemble.sample(lm, jax.random.key(1), 20)
    assert [sample.text for sample in drawn] == samples

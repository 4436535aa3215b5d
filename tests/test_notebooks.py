"""The notebooks equal the output of notebooks/build.py, and they run from top to bottom."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # notebooks/ is not part of the package
from notebooks import build

NOTEBOOKS = [file.with_suffix(".ipynb") for file in build.sources()]
LONGEST_FIRST = sorted(NOTEBOOKS, key=lambda file: len(file.parts))  # to balance the workers
# Parameters that tests override. A notebook without an entry but with a parameter `steps` uses
# STEPS.
STEPS = 20
PARAMETERS = {"notebooks/makemore.ipynb": {"steps": 60, "tensorboard": False}}
# Texts that a notebook must print.
EXPECTED = {
    "notebooks/makemore.ipynb": (
        "the same result twice: True",
        "everything is in runs/bigram",
        "SIGINT: saved at step",
        "runs/transformer: resuming from step",
        "everything is in runs/transformer",
    )
}
TIMEOUT = 300  # seconds per cell, enough for a slow and busy machine


def read(notebook: Path) -> dict:
    return json.loads((ROOT / notebook).read_text("utf-8"))


def tagged(notebook: dict, tag: str) -> list[str]:
    """Return the contents of the cells with a tag."""
    cells = [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", ())]
    return ["".join(cell["source"]) for cell in cells]


def parameter_names(notebook: dict) -> list[str]:
    """Return the variables that the cells with the tag `parameters` set."""
    source = "\n".join(tagged(notebook, "parameters"))
    return re.findall(r"^(\w+) = ", source, re.MULTILINE)


def test_every_notebook_has_a_source():
    assert Path("notebooks/makemore.ipynb") in NOTEBOOKS
    assert {Path(name) for name in PARAMETERS} <= set(NOTEBOOKS)
    on_disk = {file.relative_to(ROOT) for file in (ROOT / "notebooks").rglob("*.ipynb")}
    assert {file for file in on_disk if "-checkpoint" not in file.name} == set(NOTEBOOKS)


@pytest.mark.parametrize("file", sorted(build.outputs()), ids=str)
def test_every_derived_file_is_up_to_date(file):
    made = build.outputs()[file]
    assert (ROOT / file).read_text("utf-8") == made, "run python -m notebooks.build"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=str)
def test_the_parts_of_every_notebook(file):
    notebook = read(file)
    if file.name == "makemore.ipynb":
        assert notebook["metadata"]["accelerator"] == "TPU"
        assert notebook["metadata"]["colab"]["gpuType"] == "V5E1"
    else:
        assert "accelerator" not in notebook["metadata"]  # Colab's default: a CPU
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert "".join(notebook["cells"][0]["source"]).count(f"/blob/main/{file.as_posix()}") == 3
    assert "".join(notebook["cells"][1]["source"]).startswith("# ")
    (setup,) = tagged(notebook, "setup")
    assert f'"{build.repository()}"' in setup
    assert set(PARAMETERS.get(file.as_posix(), {})) <= set(parameter_names(notebook))


def test_the_address_is_in_no_other_file():
    """The address comes only from pyproject.toml; notebooks/build.py copies it."""
    name = build.repository().removeprefix("https://github.com/")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    derived = {"pyproject.toml", *(file.as_posix() for file in build.outputs())}
    files = [file for file in listed.stdout.split("\0") if file and (ROOT / file).is_file()]
    assert derived <= set(files)
    contain = {file for file in files if name.encode() in (ROOT / file).read_bytes()}
    assert contain - derived == set()


def test_another_address_changes_all_derived_files(tmp_path):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/lectures.md", tmp_path / "docs")
    old = build.repository()
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(old, "https://github.com/a/b"), "utf-8")
    for file, text in build.outputs(tmp_path).items():
        assert old not in text, file
        assert "https://colab.research.google.com/github/a/b/blob/main/notebooks" in text
        if file != build.LECTURES_PAGE:
            assert "https://kaggle.com/kernels/welcome?src=https://github.com/a/b/blob/main" in text
        if file.name == "README.md":
            assert "git clone https://github.com/a/b makemore_jax\n" in text


@pytest.fixture
def find_project(monkeypatch, tmp_path):
    """Return find_project of the set-up cell, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    source = (ROOT / build.SETUP).read_text("utf-8").partition("\nproject = ")[0]
    scope = {}
    exec(source, scope)
    return scope["find_project"]


def make_project(folder: Path) -> None:
    (folder / "makemore_jax").mkdir(parents=True)
    (folder / "makemore_jax/__init__.py").touch()


def test_the_set_up_finds_a_checkout(find_project, tmp_path, monkeypatch):
    make_project(tmp_path)
    (tmp_path / "notebooks/lectures").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "notebooks/lectures"):
        monkeypatch.chdir(folder)
        assert find_project() == tmp_path


@pytest.mark.parametrize("suffix", ["zip", "gztar"])
def test_the_set_up_unpacks_an_uploaded_archive(find_project, tmp_path, suffix):
    make_project(tmp_path / "source/makemore_jax-main")
    name = str(tmp_path / "makemore_jax-main")
    shutil.make_archive(name, suffix, tmp_path / "source", "makemore_jax-main")
    shutil.rmtree(tmp_path / "source")
    assert find_project() == tmp_path / "unpacked/makemore_jax-main"


def test_the_set_up_skips_other_archives_and_finds_a_kaggle_data_set(find_project, tmp_path):
    (tmp_path / "results").mkdir()
    shutil.make_archive(str(tmp_path / "makemore_jax_runs"), "zip", tmp_path / "results")
    make_project(tmp_path / "input/datasets/someone/makemore-jax")
    assert find_project(tmp_path / "input") == tmp_path / "makemore_jax"
    assert find_project() == tmp_path / "makemore_jax"


def test_the_set_up_clones_once(find_project, tmp_path, monkeypatch):
    commands = []

    def clone(command: list[str], check: bool) -> None:
        commands.append(command)
        make_project(tmp_path / command[-1])

    monkeypatch.setattr(subprocess, "run", clone)
    assert find_project() == find_project() == tmp_path / "makemore_jax"
    assert commands == [["git", "clone", "--depth=1", "{repository}", "makemore_jax"]]


SOURCE = """\
# %% [markdown]
# # Title
#
# A line.

# %% tags=["setup"]
# replaced

# %%
# A comment stays, % and ! too.
# %run train.py
x = 1

# %%
x = 1
"""


def test_percent_cells_become_cells():
    notebook = json.loads(build.as_ipynb(SOURCE, "badges", "set_up()\n"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == [
        ("markdown", "badges"),
        ("markdown", "# Title\n\nA line."),
        ("code", "set_up()"),
        ("code", "# A comment stays, % and ! too.\n%run train.py\nx = 1"),
        ("code", "x = 1"),
    ]
    assert notebook["cells"][2]["metadata"] == {"tags": ["setup"], "cellView": "form"}
    assert build.as_ipynb(SOURCE, "badges", "set_up()\n") == build.as_ipynb(
        SOURCE, "badges", "set_up()\n"
    )
    equal = json.loads(build.as_ipynb(SOURCE + "\n# %%\nx = 1\n", "badges", ""))["cells"]
    assert equal[-1]["source"] == equal[-2]["source"]
    assert equal[-1]["id"] != equal[-2]["id"]


def test_mentions_of_a_lecture_are_links_to_colab():
    text = build.with_links(
        "# Notebook 3 follows notebook 2.", "https://github.com/a/b", build.sources()
    )
    folder = "https://colab.research.google.com/github/a/b/blob/main/notebooks/lectures"
    mlp, autograd = f"{folder}/3_mlp.ipynb", f"{folder}/2_autograd.ipynb"
    assert text == f"# [Notebook 3]({mlp}) follows [notebook 2]({autograd})."


def test_an_unknown_cell_marker_is_refused():
    with pytest.raises(ValueError, match="unknown form of cell: # %% Title"):
        build.as_ipynb("# %% Title\nx = 1\n", "", "")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=str)
def test_the_notebooks_conform_to_the_format(file):
    nbformat = pytest.importorskip("nbformat", reason='needs nbformat: pip install -e ".[test]"')
    nbformat.validate(nbformat.read(ROOT / file, as_version=nbformat.NO_CONVERT))


@pytest.mark.notebooks
@pytest.mark.parametrize("file", LONGEST_FIRST, ids=str)
def test_executes_from_top_to_bottom(file, tmp_path):
    """Run a copy of the project with few steps. An error in a %run cell also fails the test."""
    reason = 'needs nbclient and ipykernel: pip install -e ".[test]"'
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    for name in ("makemore_jax", "configs", "benchmarks", "notebooks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)  # with the compiled modules, which saves time
    for name in ("names.txt", "pyproject.toml", "sample.py", "train.py"):
        shutil.copy(ROOT / name, tmp_path)
    notebook = nbformat.read(tmp_path / file, as_version=4)
    values = {"steps": STEPS} if "steps" in parameter_names(notebook) else {}
    values |= PARAMETERS.get(file.as_posix(), {})
    override = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    for i, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", ()):
            notebook.cells.insert(i + 1, nbformat.v4.new_code_cell(override))
            break
    # No test uses the network: a connection to this proxy is refused at once.
    env = os.environ | {"PYTHONPATH": "", "https_proxy": "http://127.0.0.1:9"}
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, resources={"metadata": {"path": tmp_path / file.parent}}
    )
    client.execute(env=env)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    printed = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    assert "Traceback" not in printed
    assert f"project: {tmp_path}\n" in printed  # not another, installed copy
    for text in EXPECTED.get(file.as_posix(), ()):
        assert text in printed

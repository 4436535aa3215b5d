"""The README and the pages of docs/: their examples work, their files and flags exist."""

import json
import re
import shlex
import shutil

import jax.numpy as jnp
import pytest
import test_models
from conftest import ROOT, run

from makemore_jax import models

README = (ROOT / "README.md").read_text("utf-8")
USAGE = (ROOT / "docs/usage.md").read_text("utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))


def test_the_tenth_model_passes_the_tests_that_the_readme_names(monkeypatch):
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {"__name__": "trigram"}
    exec(source, scope)
    monkeypatch.setitem(models.MODELS, "trigram", scope["Trigram"])
    test_models.test_no_logit_depends_on_a_later_token("trigram")
    test_models.test_step_equals_call("trigram")
    test_models.test_one_batch_can_be_learned_by_heart("trigram")


@pytest.mark.slow
def test_the_tenth_model_as_the_readme_adds_it(tmp_path):
    """Follow "Add a tenth model" in a copy of the project: its file, two lines, its commands."""
    for folder in ("configs", "makemore_jax", "tests"):
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=no_caches)
    for file in ("names.txt", "pyproject.toml", "sample.py", "train.py"):
        shutil.copy(ROOT / file, tmp_path)
    section = README.partition("## Add a tenth model\n")[2].partition("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "makemore_jax/models/trigram.py").write_text(source, "utf-8")
    import_line, entry = re.search(
        r"`(from .* import \w+)`.*`(.*,)` in `MODELS`", section, re.S
    ).groups()
    register = tmp_path / "makemore_jax/models/__init__.py"
    before = register.read_text("utf-8")
    after = before.replace("\nMODELS = {\n", f"{import_line}\n\nMODELS = {{\n    {entry}\n")
    assert after != before
    register.write_text(after, "utf-8")

    (commands,) = re.findall(r"\n\n```\n(.*?)```", section, re.DOTALL)
    train, sample, test = map(shlex.split, commands.replace("\\\n", "").splitlines())
    quick = ("--config.train.steps=300", "--config.train.eval_every=100")
    done = run(*train[1:], *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/trigram/summary.json").read_text("utf-8"))
    assert summary["num_params"] == 27**3
    assert summary["test_loss"] < jnp.log(27) - 0.1
    done = run(*sample[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run("-m", *test, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 3


@pytest.mark.slow
def test_the_python_example_of_the_usage_page(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", USAGE, re.DOTALL)
    shutil.copy(ROOT / "names.txt", tmp_path)
    done = run("-c", source, cwd=tmp_path, fresh=True, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/gru-200/summary.json").is_file()
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{f.name}" for f in DOCS)])
def test_every_file_that_a_page_names_is_there(page):
    """Paths from the root of the project, paths in makemore_jax/, and links from the page."""
    file = ROOT / page
    text = file.read_text("utf-8")
    code = re.findall(r"`([\w.]+(?:/[\w.]+)*/?)`", text)
    roots = r"(?:makemore_jax|configs|docs|tests|benchmarks|notebooks)/"
    paths = [ROOT / path for path in code if re.match(roots, path)]
    folders = {folder.name for folder in (ROOT / "makemore_jax").iterdir() if folder.is_dir()}
    in_package = [path for path in code if path.endswith(".py") and path.split("/")[0] in folders]
    paths += [ROOT / "makemore_jax" / path for path in in_package]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paths += [file.parent / link for link in re.findall(r"\]\(([\w/.]+)\)", prose)]
    invented = {ROOT / "makemore_jax/models/trigram.py", ROOT / "configs/trigram.py"}
    for path in set(paths) - invented:
        assert path.exists(), path


@pytest.mark.parametrize("page", [README, USAGE], ids=["README", "usage"])
def test_every_flag_that_a_page_names_is_known(page):
    flags = set(re.findall(r"--(\w+)", page.replace("--config.", "--config ")))
    known = set(
        re.findall(r'"(\w+)"', (ROOT / "makemore_jax/cli/sample_flags.py").read_text("utf-8"))
    )
    known |= {"names", "out", "config", "workdir", "help", "logdir", "times", "steps", "over"}
    known |= {"seeds", "all", "data", "extra"}  # the last one is a flag of uv
    assert flags - known == set()


def test_the_example_run_is_the_one_that_reproduce_measured():
    """Its numbers must be replaced when `python -m benchmarks.reproduce` gives other ones."""
    run = json.loads((ROOT / "docs/results.json").read_text("utf-8"))["names"]["transformer"]
    summary = run["summary"]
    assert f"transformer, {summary['num_params']:,} parameters" in README
    assert f"step 500: dev loss {run['losses']['500']:.4f} (best)" in README
    losses = [f"{name} {summary[f'{name}_loss']:.4f}" for name in ("dev", "train")]
    best = f"best model (step {summary['best_step']}): test loss {summary['test_loss']:.4f}"
    assert f"{best}, {', '.join(losses)}\n" in README


def test_the_results_page_is_the_one_that_reproduce_wrote(monkeypatch):
    """benchmarks.reproduce, benchmarks.modern and benchmarks.traps write it again."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.reproduce import as_markdown

    results = json.loads((ROOT / "docs/results.json").read_text("utf-8"))
    assert as_markdown(results) == (ROOT / "docs/results.md").read_text("utf-8")


def test_losses_are_within_the_stated_difference_from_pytorch(monkeypatch):
    """The README says 0.01. benchmarks.reproduce and benchmarks.pytorch_losses measured both."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import reproduce

    runs = json.loads((ROOT / "docs/results.json").read_text("utf-8"))["makemore"]
    assert "the losses of makemore's six models are within 0.01 of PyTorch's" in README
    pytorch = reproduce.pytorch_losses()
    assert set(pytorch) == set(runs) == set(reproduce.MODELS)
    for model in set(runs) - {"lstm", "cnn", "modern"}:
        for step in map(str, reproduce.COLUMNS):
            difference = runs[model]["losses"][step] - pytorch[model][step]
            assert abs(difference) < 0.01, (model, step)


def test_the_times_are_the_ones_that_reproduce_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.reproduce import times_table

    times = json.loads((ROOT / "docs/times.json").read_text("utf-8"))
    table = (ROOT / "docs/times.md").read_text("utf-8")
    assert times_table(times) == table
    assert table in README, "python -m benchmarks.reproduce --times writes it into the README"


def test_new_times_replace_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import reproduce

    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "measure_times", lambda model: {"first": 11.2, "later": 7.8})
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(ROOT / "README.md", tmp_path)
    reproduce.write_times(["bigram"])
    table = (tmp_path / "docs/times.md").read_text("utf-8")
    assert "| first run, seconds | 11 | " in table
    assert "| later runs, seconds | 8 | " in table
    assert table in (tmp_path / "README.md").read_text("utf-8")


def test_the_five_files_to_read_are_as_long_as_stated():
    section = README.partition("## Read the code\n")[2].partition("|")[0]
    files = re.findall(r"`([\w/]+\.py)`", section)
    (stated,) = re.findall(r"about (\d+) lines", section)
    assert len(files) == 5
    lines = sum(len((ROOT / file).read_text("utf-8").splitlines()) for file in files)
    assert abs(lines - int(stated)) < 100


def test_the_shakespeare_page_shows_what_the_benchmark_wrote(monkeypatch):
    """`python -m benchmarks.shakespeare` measures the losses; `--check` compares new ones."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.shakespeare import as_table

    page = (ROOT / "docs/shakespeare.md").read_text("utf-8")
    results = json.loads((ROOT / "docs/shakespeare/results.json").read_text("utf-8"))
    table = (ROOT / "docs/shakespeare/results.md").read_text("utf-8").strip()
    assert as_table(results["dev_losses"]) == table
    assert table in page
    losses = results["dev_losses"]["4e-3"]
    below = min(int(step) for step, loss in losses.items() if loss <= 1.88)
    assert f"The published 1.88 is reached by step {below:,}." in page
    doc = (ROOT / "configs/shakespeare_cpu.py").read_text("utf-8")
    assert f"dev loss {losses['2000']:.4f} after 2,000 steps" in doc
    lockstep = json.loads((ROOT / "docs/shakespeare/lockstep.json").read_text("utf-8"))
    curves = lockstep["results"][0]["curves"]
    for step, (ours, theirs) in enumerate(zip(curves["jax"], curves["torch"], strict=True), 1):
        assert f"| {step} | {ours:.7f} | {theirs:.7f} | {ours - theirs:+.1e} |" in page


@pytest.mark.parametrize("name", ["recipes", "time", "choices"])
def test_the_shakespeare_page_shows_a_table(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import shakespeare_choices, shakespeare_recipes, shakespeare_time

    file = ROOT / f"docs/shakespeare/{name}.json"
    if not file.exists():
        pytest.skip(f"python -m benchmarks.shakespeare_{name} has not run")
    results = json.loads(file.read_text("utf-8"))["results"]
    modules = {"recipes": shakespeare_recipes, "time": shakespeare_time}
    module = modules.get(name, shakespeare_choices)
    if name == "recipes":
        best = min(results, key=lambda recipe: results[recipe]["dev_loss"])
        assert best == shakespeare_recipes.FASTEST, "set it to the recipe with the lowest loss"
    block = f"<!-- {name} -->\n{module.as_table(results)}\n<!-- end of {name} -->\n"
    assert block in (ROOT / "docs/shakespeare.md").read_text("utf-8")


def test_the_pages_show_what_the_benchmarks_wrote():
    pages = {"accelerator": "accelerator.md", "tpu_compile": "tpu.md", "microgpt": "lectures.md"}
    pages |= {
        "modern": "results.md",
        "pytorch_losses": "results.md",
        "best_choices": "leaderboard.md",
        "traps": "results.md",
        "any_text": "reliability.md",
        "soak": "reliability.md",
    }
    tables = list((ROOT / "docs/benchmarks").glob("*.md"))
    assert len(tables) >= 8
    for table in tables:
        page = (ROOT / "docs" / pages.get(table.stem, "performance.md")).read_text("utf-8")
        assert table.read_text("utf-8").strip() in page, table
        assert f"`python -m benchmarks.{table.stem}`" in page


def test_the_tpu_page_shows_what_the_benchmark_wrote(monkeypatch):
    """For the configs as they are. `python -m benchmarks.tpu_compile` writes new results."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import tpu_compile

    content = json.loads((ROOT / "docs/benchmarks/tpu_compile.json").read_text("utf-8"))
    results = content["results"]
    table = (ROOT / "docs/benchmarks/tpu_compile.md").read_text("utf-8").strip()
    assert tpu_compile.as_table(results) == table
    assert table in (ROOT / "docs/tpu.md").read_text("utf-8")
    assert sorted(results) == tpu_compile.NAMES
    for name, found in results.items():
        assert tpu_compile.sizes(tpu_compile.configure(name)[0]) == found["config"], name
        assert found["memory"] < 16 * 2**30, name
        assert found["host_transfers"] == [], name
    assert set(results["gpt2_small"]["collectives"]) == {"all-gather", "all-reduce"}


def test_the_leaderboard_shows_what_was_measured(monkeypatch):
    """`python -m benchmarks.leaderboard --page` writes the page and the README's rows again."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import leaderboard_page

    file = ROOT / "docs/leaderboard/results.json"
    if not file.exists():
        pytest.skip("python -m benchmarks.leaderboard has not run")
    content = json.loads(file.read_text("utf-8"))
    assert (ROOT / "docs/leaderboard.md").read_text("utf-8") == leaderboard_page.as_page(content)
    rows = leaderboard_page.as_readme_rows(content["results"])
    assert rows.count("\n") == 2 + leaderboard_page.README_ROWS
    assert f"<!-- leaderboard -->\n{rows}<!-- end of leaderboard -->\n" in README
    best = content["results"]["best/names.txt/3407"]
    doc = " ".join((ROOT / "configs/best.py").read_text("utf-8").split())
    assert f"On names.txt it is {best['test_loss']:.3f}," in doc
    assert f"steps take {best['seconds'] / 60:.0f} minutes" in doc


def test_the_lectures_page_shows_what_the_benchmark_wrote():
    """And the losses of each config are those beside it; every picture is there."""
    page = (ROOT / "docs/lectures.md").read_text("utf-8")
    assert (ROOT / "docs/lectures/results.md").read_text("utf-8").strip() in page
    pictures = re.findall(r"\]\((lectures/[\w.]+)\)", page)
    assert len(pictures) == 15
    assert all((ROOT / "docs" / picture).stat().st_size > 5_000 for picture in pictures)
    results = json.loads((ROOT / "docs/lectures/results.json").read_text("utf-8"))["results"]
    for name in ("mlp", "mlp_scaled", "mlp_batchnorm", "deep_batchnorm", "wavenet"):
        doc = (ROOT / "configs" / f"lecture_{name}.py").read_text("utf-8")
        found = results[name]
        assert f"train loss {found['train_loss']:.4f}, dev {found['dev_loss']:.4f};" in doc
        assert f"{found['seconds']:.0f} seconds" in doc

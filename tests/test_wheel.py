"""The console commands of the wheel, in an empty folder without the checkout."""

import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, TIMEOUT, run

from makemore_jax.cli import resources

PROGRAM = (
    "import sys; from makemore_jax.cli.commands import {name}; sys.argv[0] = 'makemore-{name}'; "
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the contents of the wheel."""
    pytest.importorskip("hatchling", reason='needs hatchling: pip install -e ".[test]"')
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=TIMEOUT)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run_installed(installed, name: str, *args: str, cwd):
    """Run a console command of the installed package as its script does."""
    code = PROGRAM.format(name=name) + f"{name}()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )


@pytest.mark.slow
def test_the_wheel_trains_and_samples_in_an_empty_folder(installed, tmp_path):
    done = run_installed(
        *(installed, "train", "--config", "bigram", "--config.train.steps=3"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert f"makemore-sample --workdir {Path('runs/bigram')} samples from it" in done.stdout
    assert "20,242 train, 1,124 dev, 1,124 test lines" in done.stdout
    done = run_installed(
        *(installed, "sample", "--workdir", "runs/bigram", "--num", "3", "--new_only"), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_messages_and_contents_of_the_wheel(installed, tmp_path):
    done = run_installed(installed, "train", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    message = "--config is missing; for example: makemore-train --config transformer"
    assert done.stderr == f"makemore-train: {message}\n"
    done = run_installed(installed, "train", "--config", "configs/gru.py", cwd=tmp_path)
    assert done.stderr == (
        "makemore-train: --config: configs/gru.py does not exist; did you mean gru?\n"
    )
    done = run_installed(installed, "sample", "--help", cwd=tmp_path)
    assert "makemore-sample --workdir runs/transformer --num 50" in done.stdout
    assert "sample.py" not in done.stdout
    bundled = installed / "makemore_jax" / "_resources"
    files = [path for path in bundled.rglob("*.*") if path.suffix != ".pyc"]  # Python wrote those
    names = {path.relative_to(bundled).as_posix() for path in files}
    configs = {f"configs/{name}.py" for name in resources.config_names()}
    assert names == {"train.py", "sample.py", "names.txt"} | configs
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "makemore-train = makemore_jax.cli.commands:train" in entry_points.read_text("utf-8")
    assert "makemore-sample = makemore_jax.cli.commands:sample" in entry_points.read_text("utf-8")


@pytest.mark.parametrize("name", ["train", "sample"])
def test_the_console_commands_of_a_checkout(name):
    done = run("-c", PROGRAM.format(name=name) + f"{name}()", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  makemore-{name} --" in done.stdout
    assert "\n  --workdir  " in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="the quotes are those of a POSIX shell")
def test_the_arguments_of_a_command_are_quoted_for_the_shell():
    words = shlex.split(resources.command("sample", "--workdir", "my runs/it's"))
    assert words[-2:] == ["--workdir", "my runs/it's"]


def test_help_of_the_installed_package_names_its_commands(monkeypatch):
    monkeypatch.setattr(resources, "IS_WHEEL", True)
    text = "python train.py --config configs/gru.py; python sample.py --workdir runs/gru"
    assert resources.adapt(text) == (
        "makemore-train --config gru; makemore-sample --workdir runs/gru"
    )

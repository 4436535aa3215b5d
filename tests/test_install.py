"""Extras, the citation and changelog files, and the workflow of continuous integration."""

import importlib.metadata
import re
import tomllib

import pytest
import yaml
from conftest import ROOT

import makemore_jax

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.versions
def test_the_accelerator_extras_equal_those_of_jax():
    """pip only warns about an extra that a package does not have, and installs nothing for it."""
    known = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    for name in ("cuda12", "cuda13", "tpu"):
        assert EXTRAS[name] == [f"jax[{name}]"]
        assert name in known


def test_the_readme_lists_every_extra():
    section = README.partition("## Install\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(EXTRAS)
    mentioned = re.findall(r"\.\[(\w+)\]", README.replace(".[EXTRA]", ""))
    assert set(mentioned) <= set(EXTRAS)


def test_citation_and_changelog_have_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] == makemore_jax.__version__
    assert citation["title"] == PROJECT["name"]
    assert citation["abstract"] == PROJECT["description"]
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heading[1] == PROJECT["version"]


def test_the_workflow_covers_every_system_and_python_version():
    file = ROOT / ".github" / "workflows" / "test.yml"
    jobs = yaml.safe_load(file.read_text("utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"] == [oldest, "3.12", "3.13"]
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert set(re.findall(r"\.\[(\w+)\]", commands)) <= set(EXTRAS)
    files = re.findall(r"(?:configs/)?\w+\.py", commands)
    assert files and all((ROOT / name).is_file() for name in files)

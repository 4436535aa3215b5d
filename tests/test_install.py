"""Extras, the files beside the code, and what an installation needs on every platform."""

import importlib.metadata
import re
import tomllib

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.versions
def test_the_accelerator_extras_are_those_of_jax():
    """pip only warns about an extra that a package does not have, and installs nothing for it."""
    known = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    for name in ("cuda12", "cuda13", "tpu"):
        assert EXTRAS[name] == [f"jax[{name}]"]
        assert name in known


def test_the_readme_lists_every_extra():
    section = README.partition("## Install\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(EXTRAS)
    everywhere = re.findall(r"\.\[(\w+)\]", README.replace(".[EXTRA]", ""))
    assert set(everywhere) <= set(EXTRAS)

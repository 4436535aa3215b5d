"""The page that shows JAX beside PyTorch."""

import html
import re

import conftest
import numpy as np
import pytest
from conftest import ROOT, on_devices, run

from makemore_jax.torch_parity import page_html, page_markdown, source
from makemore_jax.torch_parity.difference import Difference, worst_relative
from makemore_jax.torch_parity.family_pairs import FAMILIES
from makemore_jax.torch_parity.page_content import code_of, parameter_names, sections

MARKDOWN = ROOT / "docs/jax-beside-pytorch.md"
FIRST_GRADIENT = "bigram-all-positions"


def test_the_markdown_page_shows_the_present_code():
    update = "python -m makemore_jax.torch_parity.page_markdown docs/jax-beside-pytorch.md"
    assert MARKDOWN.read_text("utf-8") == page_markdown.as_markdown(), f"write it anew: {update}"


def test_the_links_of_the_markdown_page_have_a_heading():
    text = MARKDOWN.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
    links = re.findall(r"\]\(#(.*?)\)", text)
    assert len(links) > len(FAMILIES)
    assert set(links) <= anchors


def test_the_html_page_shows_the_present_code_and_marks_large_differences():
    pairs = [(section, pair) for section in sections() for pair in section.pairs]
    differences = {section.anchor(pair): Difference(0.0, 0.0) for section, pair in pairs}
    page = page_html.as_html(differences, {"versions": "", "sizes": ""})
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for section, pair in pairs:
        for side in (pair.torch, pair.jax):
            assert code_of(side)
            assert all(code in text for _, code in code_of(side)), section.anchor(pair)
    assert 'exceeded"' not in page
    differences[FIRST_GRADIENT] = Difference(0.0, 1.0)
    page = page_html.as_html(differences, {"versions": "", "sizes": ""})
    assert page.count('class="exceeded">1.0e+00<') == 2  # in the overview and beside the code


def test_every_family_with_a_config_is_on_the_page():
    assert set(conftest.FAMILIES) <= FAMILIES.keys()


def test_code_is_read_without_importing_it():
    code = source.read("models/bigram.py", ("Bigram.setup", "Bigram.step"))
    lines = [line for line in code.splitlines() if line.strip()]
    assert lines[:3] == ["class Bigram(nn.Module):", "    vocab_size: int", "    def setup(self):"]
    assert lines[-1] == "        return carry, self.logits[token]"
    assert code.count("class Bigram") == 1
    with pytest.raises(AssertionError, match=r"models/bigram.py has no Trigram"):
        source.read("models/bigram.py", ("Trigram",))


def test_a_missing_or_large_difference_exceeds_the_bounds():
    bounds = (1e-12, None)
    assert not Difference(1e-12, 5.0).exceeds(bounds)
    assert Difference(2e-12).exceeds(bounds)
    assert Difference(float("nan")).exceeds(bounds)
    assert Difference(None, 0.0).exceeds(bounds)
    zero, nan = np.zeros(2), np.array([0.0, np.nan])
    both = {"a": zero, "b": nan}, {"a": zero, "b": zero}
    assert Difference(0.0, worst_relative(*both)).exceeds((None, 1e-12))


def test_parameters_have_the_names_of_both_sides():
    rows = parameter_names()
    expected = ("transformer.h.0.attn.c_attn.weight", "(30, 10)")
    assert (*expected, "h_0 / attn / c_attn / kernel", "(10, 30)") in rows


PAGE = ("-m", "makemore_jax.torch_parity.page", "--html")


@pytest.mark.slow
def test_the_page_is_written_and_all_differences_are_within_their_bounds(tmp_path):
    pytest.importorskip("torch", reason='needs torch: pip install -e ".[parity]"')
    done = run(*PAGE, tmp_path / "page.html", **on_devices(2))
    assert done.returncode == 0, done.stdout + done.stderr
    from makemore_jax.torch_parity.models import MODELS

    assert FAMILIES.keys() == MODELS.keys()
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "http" not in page and 'exceeded"' not in page  # self-contained, within bounds
    for section in sections():
        assert f'<section id="{section.anchor()}">' in page
        for pair in section.pairs:
            anchor = section.anchor(pair)
            assert page.count(f'id="{anchor}"') == 1
    for target in re.findall(r'href="#(.*?)"', page):
        assert f'id="{target}"' in page


BROKEN = """
import sys

import jax
from makemore_jax.torch_parity import measure, models
from makemore_jax.torch_parity.family_pairs import FAMILIES

jax.config.update("jax_enable_x64", True)
pair = next(pair for pair in FAMILIES["gru"].pairs if pair.title == sys.argv[1])
print(measure.measure(pair, "gru").exceeds(pair.bounds))
models.torch.tanh = lambda x: x * 0.999
measure.both.cache_clear()
print(measure.measure(pair, "gru").exceeds(pair.bounds))
"""


@pytest.mark.slow
def test_a_difference_is_measured():
    pytest.importorskip("torch", reason='needs torch: pip install -e ".[parity]"')
    done = run("-c", BROKEN, "Cell")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True"]

"""The page as Markdown, without measured numbers, so that it only changes with the code.

This command does not need torch:

    python -m makemore_jax.torch_parity.page_markdown docs/jax-beside-pytorch.md
"""

import argparse
from pathlib import Path

from makemore_jax.torch_parity import page_content as content
from makemore_jax.torch_parity.pairs import Pair


def as_markdown() -> str:
    """Return the page."""
    links = " · ".join(f"[{s.title}](#{s.anchor()})" for s in content.sections())
    about = (
        f"`{content.COMMAND} --markdown FILE` writes this page. It also writes an HTML page, which "
        "has the code side by side and the measured differences. It fails if a difference is "
        "larger than allowed here."
    )
    words = ["| in JAX and Flax | what it does |", "|---|---|"]
    words += [f"| {name} | {text} |" for name, text in content.WORDS]
    blocks = [f"# {content.TITLE}", *content.INTRODUCTION, about, links]
    blocks += [f"## {content.WORDS_TITLE}", "\n".join(words), content.DIMENSIONS]
    for section in content.sections():
        blocks += [f"## {section.title}", section.about]
        for pair in section.pairs:
            blocks += _pair(section, pair)
        if section.title == "Weights":
            blocks.append(_names())
    return "\n\n".join(blocks) + "\n"


def _pair(section: content.Section, pair: Pair) -> list[str]:
    blocks = [f"### {section.heading(pair)}"]
    if pair.about:
        blocks.append(pair.about)
    blocks.append(_bounds(pair))
    if shown := content.first_shown(section, pair):
        other, earlier = shown
        title = other.heading(earlier)
        return [*blocks, f"The code is that of [{title}](#{_github_anchor(title)})."]
    for side, codes in (("PyTorch", pair.torch), ("JAX", pair.jax)):
        for file, code in content.code_of(codes):
            blocks.append(f"{side}, `{file}`:\n\n```python\n{code}\n```")
    return blocks


def _bounds(pair: Pair) -> str:
    output, gradient = pair.bounds
    if pair.measured_as == "nothing":
        return "Not compared."
    allowed = f"at most {output:g}" if output else "none"
    gradients = "" if gradient is None else f"; of the gradient: at most {gradient:g}"
    return f"Difference of the {pair.value}: {allowed}{gradients}."


def _github_anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return title.lower().replace(":", "").replace(",", "").replace(" ", "-")


def _names() -> str:
    rows = ["| in the `state_dict` | shape | in the tree | shape |", "|---|---|---|---|"]
    rows += [f"| `{a}` | {b} | `{c}` | {d} |" for a, b, c, d in content.parameter_names()]
    return "The parameters of a transformer with one layer:\n\n" + "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="file to write: docs/jax-beside-pytorch.md")
    parser.parse_args().file.write_text(as_markdown(), "utf-8")

"""Generate all notebooks from their sources, and update the project's address in two pages.

    python -m notebooks.build

The source of a notebook is a Python file in jupytext's percent format, which is easy to read, lint
and diff. Cells start with `# %%` or `# %% [markdown]`, and may have tags, as in
`# %% tags=["parameters"]`. Magics are comments, such as `# %run train.py`. Cells with the tag
`setup` get the content of setup_cell.py. A cell with the tag `parameters` sets `steps` and other
variables that a reader may change; tests override them. Notebooks have no outputs, since outputs
change with every run. The words "notebook 3" become a link that opens this lecture on Colab, where
relative links do not work.

The address of the project is `Repository` in pyproject.toml. Each notebook gets a row of badges,
and `{repository}` in its source is replaced by the address. The README gets the badges of
makemore.ipynb between two HTML comments, and the address after `git clone`. docs/lectures.md gets
it in its links to Colab.
"""

import argparse
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = Path("notebooks")
SETUP = FOLDER / "setup_cell.py"
LECTURES_PAGE = Path("docs/lectures.md")
METADATA = {
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Colab opens makemore.ipynb on a TPU. The lectures need only a CPU, Colab's default.
TPU = {"accelerator": "TPU", "colab": {"gpuType": "V5E1", "provenance": []}}
CELL = re.compile(r"^# %%(?: \[(?P<type>markdown)\])?(?: tags=(?P<tags>\[.*\]))?$")
MAGIC = re.compile(r"^(\s*)# ([%!]\S)", re.MULTILINE)
BADGES = re.compile(r"(?<=<!-- badges -->\n).*?(?=\n<!-- end of badges -->)", re.DOTALL)
CLONE = re.compile(r"(?<=^git clone )\S+", re.MULTILINE)
COLAB_LINK = re.compile(r"https://colab\.research\.google\.com/github/\S*?/(?=notebooks/)")
LECTURE = re.compile(r"\b[Nn]otebook (\d)\b")


def repository(root: Path = ROOT) -> str:
    """Return the public address of the project."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Repository"]


def sources(root: Path = ROOT) -> list[Path]:
    """Return the sources of all notebooks, relative to `root`: the .py files with cells."""
    files = sorted((root / FOLDER).rglob("*.py"))
    return [file.relative_to(root) for file in files if file.read_text("utf-8").startswith("# %%")]


def outputs(root: Path = ROOT) -> dict[Path, str]:
    """Return the generated files, relative to `root`, with their contents."""
    address = repository(root)
    setup = (root / SETUP).read_text("utf-8")
    page = f"{address}/blob/main/{LECTURES_PAGE.as_posix()}"
    about_page = f"\n\n[All lectures]({page}), with their pictures and losses."
    files, all_sources = {}, sources(root)
    for source in all_sources:
        target, is_lecture = source.with_suffix(".ipynb"), source.parent.name == "lectures"
        text = with_links((root / source).read_text("utf-8"), address, all_sources)
        row = badges(address, target) + (about_page if is_lecture else "")
        notebook = as_ipynb(text, row, setup, METADATA if is_lecture else METADATA | TPU)
        files[target] = notebook.replace("{repository}", address)
    readme = (root / "README.md").read_text("utf-8")
    row = badges(address, FOLDER / "makemore.ipynb")
    readme = BADGES.sub(lambda _: row, readme)
    files[Path("README.md")] = CLONE.sub(lambda _: address, readme)
    page = (root / LECTURES_PAGE).read_text("utf-8")
    files[LECTURES_PAGE] = COLAB_LINK.sub(lambda _: on_colab(f"{address}/blob/main/"), page)
    return files


def on_colab(file: str) -> str:
    """Return the address at which Colab opens a file on GitHub."""
    return file.replace("https://github.com/", "https://colab.research.google.com/github/")


def with_links(source: str, address: str, files: list[Path]) -> str:
    """Link each "notebook 3" in a percent file to that lecture, one of `files`, on Colab."""
    lectures = {file.name[0]: file for file in files if file.parent.name == "lectures"}

    def link(match: re.Match) -> str:
        notebook = lectures[match[1]].with_suffix(".ipynb").as_posix()
        return f"[{match[0]}]({on_colab(f'{address}/blob/main/{notebook}')})"

    return LECTURE.sub(link, source)


def badges(address: str, notebook: Path) -> str:
    """Return a Markdown row of badges that open a notebook in Colab, in Kaggle and on GitHub."""
    file = f"{address}/blob/main/{notebook.as_posix()}"
    return "\n".join(
        f"[![{text}]({image})]({target})"
        for text, image, target in (
            (
                "Open in Colab",
                "https://colab.research.google.com/assets/colab-badge.svg",
                on_colab(file),
            ),
            (
                "Open in Kaggle",
                "https://kaggle.com/static/images/open-in-kaggle.svg",
                f"https://kaggle.com/kernels/welcome?src={file}",
            ),
            (
                "View on GitHub",
                "https://img.shields.io/badge/GitHub-view-181717?logo=github",
                file,
            ),
        )
    )


def as_ipynb(source: str, badge_row: str, setup: str, metadata: dict[str, Any] = METADATA) -> str:
    """Return the .ipynb of a percent file, with a row of badges as its first cell.

    `setup` is the content of the cells with the tag `setup`. Raise ValueError if a cell marker has
    an unknown form.
    """
    cells = [_markdown_cell(badge_row)]
    marker, lines = None, []
    for line in [*source.splitlines(), "# %%"]:
        if not re.match(r"# %%(\s|$)", line):
            lines.append(line)
            continue
        if marker is not None:
            cells.append(_cell(marker, "\n".join(lines).strip("\n"), setup))
        marker, lines = CELL.match(line), []
        if marker is None:
            raise ValueError(f"unknown form of cell: {line}")
    ids: set[str] = set()
    for cell in cells:
        cell["id"] = _unique_id(cell, ids)
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(marker: re.Match, text: str, setup: str) -> dict[str, Any]:
    if marker["type"] == "markdown":
        return _markdown_cell(re.sub(r"^# ?", "", text, flags=re.MULTILINE))
    metadata = {"tags": json.loads(marker["tags"])} if marker["tags"] else {}
    if "setup" in metadata.get("tags", ()):
        metadata["cellView"] = "form"  # Colab shows the title and hides the code
        text = setup.strip()
    code = {"execution_count": None, "outputs": [], "metadata": metadata}
    return {"cell_type": "code", "source": _lines(MAGIC.sub(r"\1\2", text)), **code}


def _markdown_cell(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _unique_id(cell: dict[str, Any], ids: set[str]) -> str:
    """Return a hash of the text of a cell. Equal cells get different ids."""
    text, number = "".join(cell["source"]), 0
    while (name := hashlib.sha256(f"{number}{text}".encode()).hexdigest()[:8]) in ids:
        number += 1
    ids.add(name)
    return name


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for file, text in outputs().items():
        (ROOT / file).write_text(text, "utf-8")
        print(file)


if __name__ == "__main__":
    main()

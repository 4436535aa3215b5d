"""The source code of functions, methods and classes, read from their files.

Nothing is imported, so the source of PyTorch modules can be read without torch.
"""

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def read(file: str, names: Sequence[str]) -> str:
    """Return the code of functions, classes ("GRU") and methods ("GRU.step") of a file.

    `file` is relative to the package. Methods appear below the first line of their class. With the
    method `setup` come the annotated fields of the class, which are the arguments of a Flax module.
    AssertionError if the file has no such name.
    """
    lines, tree = _parse(file)
    blocks: list[str] = []
    owner = ""
    for name in names:
        outer, _, method = name.partition(".")
        node = _find(tree, outer, file)
        if not method:
            blocks.append(_text(lines, node))
            owner = ""
            continue
        block = _text(lines, _find(node, method, file))
        if outer != owner:
            head = lines[node.lineno - 1 : node.body[0].lineno - 1]
            head = [line for line in head if line.strip() and not line.lstrip().startswith("#")]
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and method == "setup"]
            head += [lines[field.lineno - 1] for field in fields]
            block = "\n".join([*head, *([""] if fields else []), block])
        owner = outer
        blocks.append(block)
    return "\n\n".join(blocks)


@cache
def _parse(file: str) -> tuple[list[str], ast.Module]:
    text = (PACKAGE / file).read_text("utf-8")
    return text.splitlines(), ast.parse(text)


def _find(node: ast.Module | ast.ClassDef, name: str, file: str) -> ast.ClassDef | ast.FunctionDef:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and child.name == name:
            return child
    raise AssertionError(f"{file} has no {name}; update its pair in torch_parity")


def _text(lines: list[str], node: ast.ClassDef | ast.FunctionDef) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(lines[first - 1 : node.end_lineno])

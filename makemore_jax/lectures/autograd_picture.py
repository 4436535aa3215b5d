"""Draw a graph of numbers and their gradients as SVG, or write it in Graphviz's language.

All functions take a dict of gradients by node with parents first, as `autograd.grads` returns it.
The dict contains the whole graph, so this module does not import the engine.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol


class Node(Protocol):
    """The attributes of a node that a picture shows. Nodes are hashable."""

    data: float
    label: str
    op: str  # "" for a leaf
    parents: Sequence["Node"]


def _cells(node: Node, gradient: float) -> list[str]:
    """Return the texts in the box of a node."""
    label = [" ".join(node.label.split())] if node.label.strip() else []
    return [*label, f"data {node.data:.4g}", f"grad {gradient:.4g}"]


def dot(gradients: Mapping[Node, float]) -> str:
    """Return a graph of any size in Graphviz's language; `dot -Tpng` draws it."""
    number = {node: i for i, node in enumerate(gradients)}
    lines = ["digraph {", "  rankdir=LR;"]
    for node, i in number.items():
        cells = [re.sub(r'([\\"{}|<>])', r"\\\1", cell) for cell in _cells(node, gradients[node])]
        lines.append(f'  n{i} [shape=record, label="{" | ".join(cells)}"];')
        if node.op:
            lines.append(f'  op{i} [label="{node.op}"];')
            lines.append(f"  op{i} -> n{i};")
            lines += [f"  n{number[parent]} -> op{i};" for parent in node.parents]
    return "\n".join([*lines, "}", ""])


MAX_NODES = 1000
# Sizes in pixels.
ROW = 44  # distance between rows
GAP = 60  # between columns
STEM = 14  # between an operator and its box
MARGIN = 20
HEIGHT = 26  # of boxes and operators
CHAR = 7.5  # upper bound of the width of a character
PAD = 8  # to the left and right of a text
MIN_SCALE = 0.7  # pictures wider than the page shrink to this scale, so that text stays legible

_Rows = dict[Node, float]  # the y position of each node in a column
_Point = tuple[float, float]  # x, y


def draw(gradients: Mapping[Node, float], file: str | Path) -> None:
    """Write the graph to an SVG file. ValueError above MAX_NODES nodes."""
    Path(file).write_text(svg(gradients), "utf-8")


def svg(gradients: Mapping[Node, float]) -> str:
    """Return the graph as SVG. ValueError above MAX_NODES nodes.

    The column of a node is its longest distance from a leaf. Its box shows label | data | grad. The
    operator that computed it is to the left. A value that is used more than one column later
    occupies a row in the columns between, so that its line crosses no box.
    """
    if len(gradients) > MAX_NODES:
        raise ValueError(
            f"{len(gradients)} nodes: at most {MAX_NODES} are drawn; dot() has no limit"
        )
    cells = {node: _cells(node, gradients[node]) for node in gradients}
    columns = _place(list(gradients))
    ys = [y for rows in columns for y in rows.values()]
    shapes: list[str] = []
    starts: dict[Node, _Point] = {}
    right = MARGIN - GAP
    for rows in columns:
        column_shapes, starts, right = _draw_column(rows, cells, right + GAP, starts)
        shapes += column_shapes
    top, bottom = min(ys) - HEIGHT / 2 - MARGIN, max(ys) + HEIGHT / 2 + MARGIN
    width, height = right + MARGIN, bottom - top
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 {top:.1f} {width:.1f} {height:.1f}" '
        f'style="max-width: max(100%, {MIN_SCALE * width:.0f}px); height: auto">\n'
        f'<path d="M0 {top:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z" fill="white"/>'
    )
    return "\n".join([head, *shapes, "</svg>", ""])


def _place(order: list[Node]) -> list[_Rows]:
    """Return the rows of each column: of its own nodes, and of lines that cross it."""
    column: dict[Node, int] = {}
    last: dict[Node, int] = {}  # the last column that the lines of a node cross
    for node in order:
        column[node] = last[node] = 1 + max((column[parent] for parent in node.parents), default=-1)
        for parent in node.parents:
            last[parent] = max(last[parent], column[node] - 1)
    first = [node for node in order if column[node] == 0]
    columns = [{node: float(i * ROW) for i, node in enumerate(first)}]
    for c in range(1, max(column.values()) + 1):
        members = [node for node in order if column[node] <= c <= last[node]]
        columns.append(_separate({node: _preferred_y(node, columns[-1]) for node in members}))
    return columns


def _preferred_y(node: Node, previous: _Rows) -> float:
    """Return the y of a node in the previous column, or the mean y of its parents."""
    if node in previous:
        return previous[node]
    return sum(previous[parent] for parent in node.parents) / len(node.parents)


def _separate(preferred: _Rows) -> _Rows:
    """Return y positions at least ROW apart, in the order of the preferred ones.

    They minimize the sum of squared distances from the preferred positions: neighbors that are too
    close move as a group (isotonic regression by pooling adjacent violators).
    """
    nodes_down = sorted(preferred, key=lambda node: preferred[node])
    groups: list[tuple[float, int]] = []  # mean y of the first node, number of nodes
    for i, node in enumerate(nodes_down):
        mean, count = preferred[node] - i * ROW, 1
        while groups and groups[-1][0] > mean:
            other_mean, other_count = groups.pop()
            mean = (mean * count + other_mean * other_count) / (count + other_count)
            count += other_count
        groups.append((mean, count))
    starts = [mean for mean, count in groups for _ in range(count)]
    return {node: starts[i] + i * ROW for i, node in enumerate(nodes_down)}


def _draw_column(
    rows: _Rows, cells: dict[Node, list[str]], left: float, starts: dict[Node, _Point]
) -> tuple[list[str], dict[Node, _Point], float]:
    """Return the shapes of a column, the start points of lines to the next, and its right edge.

    `starts` are the start points of lines from the previous column. The lines of these nodes only
    cross this column.
    """
    boxed = [node for node in rows if node not in starts]
    op_width = max(_op_width(node) for node in boxed)
    box_left = left + op_width + (STEM if op_width else 0)
    right = box_left + max(sum(map(_cell_width, cells[node])) for node in boxed)
    shapes: list[str] = []
    new_starts: dict[Node, _Point] = {}
    for node, y in rows.items():
        if node in starts:
            shapes.append(_line(starts[node], left, y, right))
            new_starts[node] = (right, y)
            continue
        op_left = left + (op_width - _op_width(node)) / 2
        shapes += [_line(starts[p], left, y, op_left) for p in dict.fromkeys(node.parents)]
        if node.op:
            shapes += _op(node, op_left, y, box_left)
        shapes += _box(cells[node], box_left, y)
        new_starts[node] = (box_left + sum(map(_cell_width, cells[node])), y)
    return shapes, new_starts, right


def _op_width(node: Node) -> float:
    return max(HEIGHT, len(node.op) * CHAR + PAD) if node.op else 0.0


def _cell_width(text: str) -> float:
    return len(text) * CHAR + 2 * PAD


def _line(start: _Point, left: float, y: float, end: float) -> str:
    """Draw a line from the previous column to `end` in this one. It bends between the columns."""
    middle = left - GAP / 2
    bend = f"C{middle:.1f} {start[1]:.1f} {middle:.1f} {y:.1f} {left:.1f} {y:.1f}"
    path = f"M{start[0]:.1f} {start[1]:.1f}H{left - GAP:.1f}{bend}H{end:.1f}"
    return f'<path d="{path}" fill="none" stroke="#888"/>'


def _text(text: str, x: float, y: float) -> str:
    style = 'font-family="monospace" font-size="12" text-anchor="middle"'
    baseline = y + 4  # half the height of a letter below the center
    return f'<text x="{x:.1f}" y="{baseline:.1f}" {style}>{escape(text)}</text>'


def _op(node: Node, left: float, y: float, box_left: float) -> list[str]:
    """Draw an ellipse as wide as the text of an operator, and a line to its box."""
    radius = _op_width(node) / 2
    return [
        f'<path d="M{left + 2 * radius:.1f} {y:.1f}H{box_left:.1f}" stroke="#888"/>',
        f'<ellipse cx="{left + radius:.1f}" cy="{y:.1f}" rx="{radius:.1f}" ry="{HEIGHT / 2}" '
        'fill="#fff3d6" stroke="#888"/>',
        _text(node.op, left + radius, y),
    ]


def _box(cells: list[str], left: float, y: float) -> list[str]:
    """Draw a row of rectangles, one per cell."""
    shapes = []
    for text in cells:
        width = _cell_width(text)
        shapes.append(
            f'<rect x="{left:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width:.1f}" '
            f'height="{HEIGHT}" fill="#eef4fb" stroke="#333"/>'
        )
        shapes.append(_text(text, left + width / 2, y))
        left += width
    return shapes

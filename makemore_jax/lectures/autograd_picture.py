"""Draw a graph of numbers with their gradients: as SVG, which needs no other program, or as text
for Graphviz.

All functions take the gradients by node, each node after its parents, as `autograd.grads` returns
them. The dict holds the whole graph, so nothing here depends on the engine.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol


class Node(Protocol):
    """The attributes of a node that are drawn. Nodes are hashable."""

    data: float
    label: str
    op: str  # "" for a leaf
    parents: Sequence["Node"]


def _cells(node: Node, gradient: float) -> list[str]:
    """The texts in the box of a node."""
    label = [" ".join(node.label.split())] if node.label.strip() else []
    return [*label, f"data {node.data:.4g}", f"grad {gradient:.4g}"]


def dot(gradients: Mapping[Node, float]) -> str:
    """Return the graph, of any size, in Graphviz's language, as `dot -Tpng` reads it."""
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


MOST_DRAWN = 1000  # nodes; nobody looks at more
# In pixels: from row to row, between columns, between an op and its box, around the whole; the
# height of a box and of an op; and at most the width of a character, and what is left beside text.
ROW, GAP, STEM, MARGIN = 44, 60, 14, 20
HEIGHT, CHAR, PAD = 26, 7.5, 8
SMALLEST = 0.7  # scale of a picture that is wider than the page, so that its text stays legible

_Rows = dict[Node, float]  # the height of each node that has a place in a column
_Spot = tuple[float, float]  # x, y


def draw(gradients: Mapping[Node, float], file: str | Path) -> None:
    """Write the graph to an SVG file. ValueError above MOST_DRAWN nodes."""
    Path(file).write_text(svg(gradients), "utf-8")


def svg(gradients: Mapping[Node, float]) -> str:
    """Return the graph as SVG. ValueError above MOST_DRAWN nodes.

    The column of a node is its longest distance from a leaf. Its box shows label | data | grad,
    with the operator that computed it to the left. A value that is used more than one column later
    reserves a row in the columns between, so that its line crosses no box.
    """
    if len(gradients) > MOST_DRAWN:
        raise ValueError(f"{len(gradients)} nodes: a picture holds {MOST_DRAWN}, dot() any number")
    cells = {node: _cells(node, gradients[node]) for node in gradients}
    columns = _place(list(gradients))
    heights = [y for rows in columns for y in rows.values()]
    shapes: list[str] = []
    starts: dict[Node, _Spot] = {}
    right = MARGIN - GAP
    for rows in columns:
        shapes_here, starts, right = _draw_column(rows, cells, right + GAP, starts)
        shapes += shapes_here
    top, bottom = min(heights) - HEIGHT / 2 - MARGIN, max(heights) + HEIGHT / 2 + MARGIN
    width, height = right + MARGIN, bottom - top
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 {top:.1f} {width:.1f} {height:.1f}" '
        f'style="max-width: max(100%, {SMALLEST * width:.0f}px); height: auto">\n'
        f'<path d="M0 {top:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z" fill="white"/>'
    )
    return "\n".join([head, *shapes, "</svg>", ""])


def _place(order: list[Node]) -> list[_Rows]:
    """For each column the heights of its nodes, and of those whose lines only pass."""
    column: dict[Node, int] = {}
    last: dict[Node, int] = {}  # the column in which the lines to all uses of a node end
    for node in order:
        column[node] = last[node] = 1 + max((column[parent] for parent in node.parents), default=-1)
        for parent in node.parents:
            last[parent] = max(last[parent], column[node] - 1)
    first = [node for node in order if column[node] == 0]
    columns = [{node: float(i * ROW) for i, node in enumerate(first)}]
    for c in range(1, max(column.values()) + 1):
        here = [node for node in order if column[node] <= c <= last[node]]
        columns.append(_spread({node: _wanted_height(node, columns[-1]) for node in here}))
    return columns


def _wanted_height(node: Node, before: _Rows) -> float:
    """Straight on, or in the middle of the parents."""
    if node in before:
        return before[node]
    return sum(before[parent] for parent in node.parents) / len(node.parents)


def _spread(wanted: _Rows) -> _Rows:
    """Heights in the order of those wanted, at least ROW apart, and else as near as can be.

    Nearest in the sum of squares: neighbours that would meet are moved as one (isotonic regression
    by pooling).
    """
    nodes_down = sorted(wanted, key=lambda node: wanted[node])
    groups: list[tuple[float, int]] = []  # mean height of the first node, number of nodes
    for i, node in enumerate(nodes_down):
        mean, count = wanted[node] - i * ROW, 1
        while groups and groups[-1][0] > mean:
            mean_before, count_before = groups.pop()
            mean = (mean * count + mean_before * count_before) / (count + count_before)
            count += count_before
        groups.append((mean, count))
    starts = [mean for mean, count in groups for _ in range(count)]
    return {node: starts[i] + i * ROW for i, node in enumerate(nodes_down)}


def _draw_column(
    rows: _Rows, cells: dict[Node, list[str]], left: float, starts: dict[Node, _Spot]
) -> tuple[list[str], dict[Node, _Spot], float]:
    """The shapes of a column, where lines start from it, and its right edge.

    `starts`: where lines start from the column before; a node that is there only passes here.
    """
    boxed = [node for node in rows if node not in starts]
    op_width = max(_op_width(node) for node in boxed)
    box_left = left + op_width + (STEM if op_width else 0)
    right = box_left + max(sum(map(_cell_width, cells[node])) for node in boxed)
    shapes: list[str] = []
    starts_here: dict[Node, _Spot] = {}
    for node, y in rows.items():
        if node in starts:
            shapes.append(_line(starts[node], left, y, right))
            starts_here[node] = (right, y)
            continue
        op_left = left + (op_width - _op_width(node)) / 2
        shapes += [_line(starts[p], left, y, op_left) for p in dict.fromkeys(node.parents)]
        if node.op:
            shapes += _op(node, op_left, y, box_left)
        shapes += _box(cells[node], box_left, y)
        starts_here[node] = (box_left + sum(map(_cell_width, cells[node])), y)
    return shapes, starts_here, right


def _op_width(node: Node) -> float:
    return max(HEIGHT, len(node.op) * CHAR + PAD) if node.op else 0.0


def _cell_width(text: str) -> float:
    return len(text) * CHAR + 2 * PAD


def _line(start: _Spot, left: float, y: float, end: float) -> str:
    """From the column before into this one, bent only between the two."""
    middle = left - GAP / 2
    bend = f"C{middle:.1f} {start[1]:.1f} {middle:.1f} {y:.1f} {left:.1f} {y:.1f}"
    path = f"M{start[0]:.1f} {start[1]:.1f}H{left - GAP:.1f}{bend}H{end:.1f}"
    return f'<path d="{path}" fill="none" stroke="#888"/>'


def _text(text: str, x: float, y: float) -> str:
    style = 'font-family="monospace" font-size="12" text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" {style}>{escape(text)}</text>'  # 4: half a letter


def _op(node: Node, left: float, y: float, box_left: float) -> list[str]:
    """A circle, or what is as wide as its text, and the line to its box."""
    radius = _op_width(node) / 2
    return [
        f'<path d="M{left + 2 * radius:.1f} {y:.1f}H{box_left:.1f}" stroke="#888"/>',
        f'<ellipse cx="{left + radius:.1f}" cy="{y:.1f}" rx="{radius:.1f}" ry="{HEIGHT / 2}" '
        'fill="#fff3d6" stroke="#888"/>',
        _text(node.op, left + radius, y),
    ]


def _box(cells: list[str], left: float, y: float) -> list[str]:
    """A rectangle for each cell, side by side."""
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

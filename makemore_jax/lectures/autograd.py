"""Lecture 1, a scalar autograd engine: python -m makemore_jax.lectures.autograd --out DIR

The course's Value (https://youtu.be/VMj-3S1tku0) in functional form. A node never changes, so it
holds no gradient: `grads` maps an output to the gradients of all that it was computed from, as
jax.grad maps a function. The command prints the lecture's neuron, trains its perceptron on four
points, and writes the neuron's graph as neuron.svg and, for Graphviz, neuron.dot.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from numbers import Real
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
from jax import Array

from makemore_jax.errors import UserError

# What a formula gives for two numbers: the result, and its derivatives by the first and the second.
_Formula = Callable[[float, float], tuple[float, float, float]]


def _operator(op: str, formula: _Formula) -> tuple[Callable, Callable]:
    """The two methods of an operator, for a Value on its left and for one on its right."""

    def apply(left: "Value", right: "Value") -> "Value":
        data, *derivatives = formula(left.data, right.data)
        return Value(data, "", op, (left, right), tuple(derivatives))

    def on_the_left(self: "Value", other: "Value | float") -> "Value":
        return apply(self, as_value(other)) if isinstance(other, Value | Real) else NotImplemented

    def on_the_right(self: "Value", other: float) -> "Value":
        return apply(as_value(other), self) if isinstance(other, Real) else NotImplemented

    return on_the_left, on_the_right


def _divide(a: float, b: float) -> tuple[float, float, float]:
    if b == 0:
        raise ZeroDivisionError(f"{a} / {b}: the divisor must not be 0")
    return a / b, 1 / b, -(a / b) / b  # b * b may underflow to 0


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A number, and how it was computed. Equal only to itself, so it can be a key of a dict.

    Mixes with Python numbers on either side. What is no real number is an error: ValueError for
    the log of a number that is not above 0 and for a root of a negative one, ZeroDivisionError
    for x / 0 and 0 ** -1. What is too large for a float is inf, and nan stays nan.
    """

    data: float
    label: str = ""  # only for pictures
    op: str = ""  # none for a leaf
    parents: tuple["Value", ...] = field(default=(), repr=False)
    derivatives: tuple[float, ...] = field(default=(), repr=False)  # of data by each parent's

    def __post_init__(self):
        object.__setattr__(self, "data", float(self.data))

    def named(self, label: str) -> "Value":
        """The same number, computed in the same way, as a new node with this label."""
        return replace(self, label=label)

    __add__, __radd__ = _operator("+", lambda a, b: (a + b, 1.0, 1.0))
    __sub__, __rsub__ = _operator("-", lambda a, b: (a - b, 1.0, -1.0))
    __mul__, __rmul__ = _operator("*", lambda a, b: (a * b, b, a))
    __truediv__, __rtruediv__ = _operator("/", _divide)

    def __neg__(self) -> "Value":
        return Value(-self.data, "", "-", (self,), (-1.0,))

    def __pow__(self, exponent: "Value | float") -> "Value":
        """A base of 0 or below is for exponents that are plain numbers: by an exponent that is a
        Value there is a derivative only where the base is above 0. ValueError otherwise."""
        if isinstance(exponent, Value):
            return _power_of_values(self, exponent)
        if not isinstance(exponent, Real):
            return NotImplemented
        exponent = float(exponent)
        data = _power(self.data, exponent)
        by_base = _power_derivative(self.data, exponent)
        return Value(data, "", f"**{exponent:g}", (self,), (by_base,))

    def __rpow__(self, base: float) -> "Value":
        return as_value(base) ** self if isinstance(base, Real) else NotImplemented

    def exp(self) -> "Value":
        try:
            data = math.exp(self.data)
        except OverflowError:
            data = math.inf
        return Value(data, "", "exp", (self,), (data,))

    def log(self) -> "Value":
        """Natural."""
        if self.data <= 0:
            raise ValueError(f"log({self.data}): only numbers above 0 have a logarithm")
        return Value(math.log(self.data), "", "log", (self,), (1 / self.data,))

    def tanh(self) -> "Value":
        data = math.tanh(self.data)
        return Value(data, "", "tanh", (self,), (1 - data * data,))

    def relu(self) -> "Value":
        """At 0 the derivative is 0, as that of jax.nn.relu."""
        is_cut = self.data <= 0
        return Value(0.0 if is_cut else self.data, "", "relu", (self,), (0.0 if is_cut else 1.0,))


def as_value(number: Value | float) -> Value:
    """A Value as it is, and a number as a leaf."""
    return number if isinstance(number, Value) else Value(number)


def _power(base: float, exponent: float) -> float:
    """base ** exponent, where Python would give a complex number or an error of few words."""
    if base < 0 and exponent % 1:
        raise ValueError(f"{base} ** {exponent}: a negative base needs a whole exponent")
    if base == 0 and exponent < 0:
        raise ZeroDivisionError(f"{base} ** {exponent}: a base of 0 needs an exponent of 0 or more")
    try:
        return base**exponent
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 else math.inf


def _power_derivative(base: float, exponent: float) -> float:
    """The derivative of base ** exponent by the base."""
    if exponent == 0:
        return 0.0
    if base == 0 and exponent < 1:
        return math.inf  # the slope of a root where it begins
    return exponent * _power(base, exponent - 1)


def _power_of_values(base: Value, exponent: Value) -> Value:
    if base.data <= 0:
        raise ValueError(
            f"{base.data} ** Value({exponent.data}): under an exponent that is a Value the base "
            "must be above 0; a plain number as exponent has no such bound"
        )
    data = _power(base.data, exponent.data)
    derivatives = (_power_derivative(base.data, exponent.data), data * math.log(base.data))
    return Value(data, "", "**", (base, exponent), derivatives)


def nodes(output: Value) -> list[Value]:
    """Every node of the graph once, each after its parents; the output is the last."""
    order: list[Value] = []
    seen: set[Value] = set()
    stack = [(output, False)]  # of our own: Python's ends at some 1,000 calls
    while stack:
        node, parents_are_listed = stack.pop()
        if parents_are_listed:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents)]
    return order


def grads(output: Value) -> dict[Value, float]:
    """The derivative of the output by each node of its graph, the leaves and itself included."""
    order = nodes(output)
    found = dict.fromkeys(order, 0.0)
    found[output] = 1.0
    for node in reversed(order):  # all that uses a node comes before it
        for parent, derivative in zip(node.parents, node.derivatives, strict=True):
            found[parent] += derivative * found[node]
    return found


class Neuron(NamedTuple):
    """The parameters of one neuron: Values where gradients are wanted, numbers elsewhere."""

    weights: Sequence[Value | float]
    bias: Value | float


Layer = list[Neuron]
Point = Sequence[Value | float]


def init_mlp(key: Array, sizes: Sequence[int]) -> list[Layer]:
    """Parameters, as numbers in -1..1, of layers with so many inputs, neurons, ..., outputs."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [_init_layer(*given) for given in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def _init_layer(key: Array, num_inputs: int, num_neurons: int) -> Layer:
    rows = jax.random.uniform(key, (num_neurons, num_inputs + 1), minval=-1.0).tolist()
    return [Neuron(weights, bias) for *weights, bias in rows]


def neuron(params: Neuron, x: Point) -> Value:
    """tanh(w x + b). ValueError unless there is an input for each weight."""
    if len(x) != len(params.weights):
        raise ValueError(f"{len(x)} inputs for a neuron with {len(params.weights)} weights")
    total = as_value(params.bias)
    for weight, number in zip(params.weights, x, strict=True):
        total = total + weight * number
    return total.tanh()


def layer(params: Layer, x: Point) -> list[Value]:
    """The outputs of all neurons, each of which sees the whole input."""
    return [neuron(each, x) for each in params]


def mlp(params: list[Layer], x: Point) -> list[Value]:
    """The outputs of the last layer; tanh follows every layer, the last one too."""
    for each in params:
        x = layer(each, x)
    return list(x)


def squared_error(params: list[Layer], xs: Sequence[Point], ys: Sequence[float]) -> Value:
    """The sum over all points of (output - y) ** 2, for an MLP with one output."""
    loss = Value(0.0)
    for x, y in zip(xs, ys, strict=True):
        (output,) = mlp(params, x)
        loss = loss + (output - y) ** 2
    return loss


def train_step(
    params: list[Layer], xs: Sequence[Point], ys: Sequence[float], learning_rate: float
) -> tuple[list[Layer], float]:
    """One step of gradient descent over all points: new parameters, and the loss of the old."""
    leaves = jax.tree.map(Value, params)
    loss = squared_error(leaves, xs, ys)
    gradients = grads(loss)
    new = jax.tree.map(lambda leaf: leaf.data - learning_rate * gradients[leaf], leaves)
    return new, loss.data


def train(
    params: list[Layer],
    xs: Sequence[Point],
    ys: Sequence[float],
    num_steps: int,
    learning_rate: float,
) -> tuple[list[Layer], list[float]]:
    """The parameters after so many steps, and the loss before each of them."""
    losses = []
    for _ in range(num_steps):
        params, loss = train_step(params, xs, ys, learning_rate)
        losses.append(loss)
    return params, losses


# The lecture's four points, and what its perceptron is to say of each.
XS = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
YS = [1.0, -1.0, -1.0, 1.0]


def lecture_neuron(tanh_by_exp: bool = False) -> Value:
    """The lecture's neuron of two inputs, its bias chosen so that the numbers come out round.

    With `tanh_by_exp`, tanh n = (e - 1) / (e + 1), e = exp 2n: other nodes, the same gradients.
    """
    x1, x2 = Value(2.0, "x1"), Value(0.0, "x2")
    w1, w2 = Value(-3.0, "w1"), Value(1.0, "w2")
    b = Value(6.8813735870195432, "b")
    xw = ((x1 * w1).named("x1 w1") + (x2 * w2).named("x2 w2")).named("x w")
    n = (xw + b).named("n")
    if not tanh_by_exp:
        return n.tanh().named("o")
    e = (2 * n).exp().named("e")
    return ((e - 1) / (e + 1)).named("o")


def _cells(node: Value, gradient: float) -> list[str]:
    """What the box of a node says."""
    label = [" ".join(node.label.split())] if node.label.strip() else []
    return [*label, f"data {node.data:.4g}", f"grad {gradient:.4g}"]


def dot(output: Value) -> str:
    """The graph in Graphviz's language, as `dot -Tpng` reads it; of any size."""
    gradients = grads(output)
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

_Rows = dict[Value, float]  # the height of each node that has a place in a column
_Spot = tuple[float, float]  # x, y


def draw(output: Value, file: str | Path) -> None:
    """Draw the graph into an SVG file that needs no other program.

    The column of a node is its longest distance from a leaf. Its box says label | data | grad,
    and the op that computed it stands before the box. A value that is used some columns later has
    a place in those between, so that its line meets no box. ValueError above MOST_DRAWN nodes.
    """
    gradients = grads(output)
    if len(gradients) > MOST_DRAWN:
        raise ValueError(f"{len(gradients)} nodes: a picture holds {MOST_DRAWN}, dot() any number")
    cells = {node: _cells(node, gradients[node]) for node in gradients}
    columns = _place(list(gradients))
    heights = [y for rows in columns for y in rows.values()]
    shapes: list[str] = []
    starts: dict[Value, _Spot] = {}
    right = MARGIN - GAP
    for rows in columns:
        shapes_here, starts, right = _draw_column(rows, cells, right + GAP, starts)
        shapes += shapes_here
    top, bottom = min(heights) - HEIGHT / 2 - MARGIN, max(heights) + HEIGHT / 2 + MARGIN
    width, height = right + MARGIN, bottom - top
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 {top:.1f} {width:.1f} {height:.1f}">\n'
        f'<path d="M0 {top:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z" fill="white"/>'
    )
    Path(file).write_text("\n".join([head, *shapes, "</svg>", ""]), "utf-8")


def _place(order: list[Value]) -> list[_Rows]:
    """For each column the heights of its nodes, and of those whose lines only pass."""
    column: dict[Value, int] = {}
    last: dict[Value, int] = {}  # the column in which the lines to all uses of a node end
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


def _wanted_height(node: Value, before: _Rows) -> float:
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
    rows: _Rows, cells: dict[Value, list[str]], left: float, starts: dict[Value, _Spot]
) -> tuple[list[str], dict[Value, _Spot], float]:
    """The shapes of a column, where lines start from it, and its right edge.

    `starts`: where lines start from the column before; a node that is there only passes here.
    """
    boxed = [node for node in rows if node not in starts]
    op_width = max(_op_width(node) for node in boxed)
    box_left = left + op_width + (STEM if op_width else 0)
    right = box_left + max(sum(map(_cell_width, cells[node])) for node in boxed)
    shapes: list[str] = []
    starts_here: dict[Value, _Spot] = {}
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


def _op_width(node: Value) -> float:
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


def _op(node: Value, left: float, y: float, box_left: float) -> list[str]:
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"autograd: {message}\n")  # one line, where argparse adds its usage


def main(argv: Sequence[str] | None = None) -> None:
    parser = _Parser(
        prog="python -m makemore_jax.lectures.autograd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", default="runs/autograd", help="where files go (runs/autograd)")
    folder = Path(parser.parse_args(argv).out)
    try:
        _write_pictures(folder)
        _print_neuron()
        _print_perceptron()
        print(f"{folder / 'neuron.svg'} and {folder / 'neuron.dot'} hold the neuron's graph")
    except UserError as error:
        print(f"autograd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def _print_neuron() -> None:
    print("the neuron, with its gradients by tanh and by exp")
    by_tanh, by_exp = (
        {node.label: (node, gradient) for node, gradient in grads(output).items()}
        for output in (lecture_neuron(), lecture_neuron(tanh_by_exp=True))
    )
    for label, (node, gradient) in by_tanh.items():
        print(f"{label:>5} = {node.data:9.6f}  {gradient:9.6f}  {by_exp[label][1]:9.6f}")


def _print_perceptron() -> None:
    print("the perceptron: the loss of each tenth step")
    params, losses = train(init_mlp(jax.random.key(0), [3, 4, 4, 1]), XS, YS, 201, 0.1)
    for step in range(0, 201, 10):
        print(f"{step:5} {losses[step]:.6f}")
    for x, y in zip(XS, YS, strict=True):
        print(f"{x} is to give {y:4.1f}, gives {mlp(params, x)[0].data:9.6f}")


def _write_pictures(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw(lecture_neuron(), folder / "neuron.svg")
        (folder / "neuron.dot").write_text(dot(lecture_neuron()), "utf-8")
    except OSError as error:
        raise UserError(f"--out: {folder} can't be written: {error.strerror}") from None


if __name__ == "__main__":
    main()

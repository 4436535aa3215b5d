"""Lecture 1, a scalar autograd engine: python -m makemore_jax.lectures.autograd --out DIR

The course's Value (https://youtu.be/VMj-3S1tku0) in functional form. A node is immutable and has no
gradient. `grads` returns the gradients of an output with respect to all nodes of its graph. The
command prints the lecture's neuron, trains its perceptron on four points, and writes the graph of
the neuron to neuron.svg and, for Graphviz, to neuron.dot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import jax
from jax import Array

from makemore_jax.cli.arguments import Parser
from makemore_jax.lectures import autograd_picture, command

# (a, b) -> the result, its derivative with respect to a, and with respect to b.
_Formula = Callable[[float, float], tuple[float, float, float]]


def _operator(op: str, formula: _Formula) -> tuple[Callable, Callable]:
    """Return the two methods of an operator: with self as left and as right operand."""

    def apply(left: "Value", right: "Value") -> "Value":
        data, *derivatives = formula(left.data, right.data)
        return Value(data, "", op, (left, right), tuple(derivatives))

    def method(self: "Value", other: "Value | float") -> "Value":
        return apply(self, as_value(other)) if isinstance(other, Value | Real) else NotImplemented

    def reflected_method(self: "Value", other: float) -> "Value":
        return apply(as_value(other), self) if isinstance(other, Real) else NotImplemented

    return method, reflected_method


def _divide(a: float, b: float) -> tuple[float, float, float]:
    if b == 0:
        raise ZeroDivisionError(f"{a} / {b}: the divisor must not be 0")
    return a / b, 1 / b, -(a / b) / b  # b * b may underflow to 0


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A number and the operation that computed it. Compared by identity, so it can be a dict key.

    Either operand may be a Python number. Raise ValueError for the log of a number <= 0 and the
    root of a negative number, ZeroDivisionError for x / 0 and 0 ** -1. An overflow gives inf. nan
    stays nan.
    """

    data: float
    label: str = ""  # for pictures
    op: str = ""  # empty for a leaf
    parents: tuple["Value", ...] = field(default=(), repr=False)
    derivatives: tuple[float, ...] = field(default=(), repr=False)  # d data / d parent

    def __post_init__(self):
        object.__setattr__(self, "data", float(self.data))

    def named(self, label: str) -> "Value":
        """Return a copy of this node with a label."""
        return replace(self, label=label)

    __add__, __radd__ = _operator("+", lambda a, b: (a + b, 1.0, 1.0))
    __sub__, __rsub__ = _operator("-", lambda a, b: (a - b, 1.0, -1.0))
    __mul__, __rmul__ = _operator("*", lambda a, b: (a * b, b, a))
    __truediv__, __rtruediv__ = _operator("/", _divide)

    def __neg__(self) -> "Value":
        return Value(-self.data, "", "-", (self,), (-1.0,))

    def __pow__(self, exponent: "Value | float") -> "Value":
        """Return the power with a number or a Value as exponent.

        Raise ValueError for a Value if the base is <= 0: there the derivative with respect to the
        exponent does not exist.
        """
        if isinstance(exponent, Value):
            return _power_of_values(self, exponent)
        if not isinstance(exponent, Real):
            return NotImplemented
        exponent = float(exponent)
        data = _power(self.data, exponent)
        derivative = _power_derivative(self.data, exponent)
        return Value(data, "", f"**{exponent:g}", (self,), (derivative,))

    def __rpow__(self, base: float) -> "Value":
        return as_value(base) ** self if isinstance(base, Real) else NotImplemented

    def exp(self) -> "Value":
        try:
            data = math.exp(self.data)
        except OverflowError:
            data = math.inf
        return Value(data, "", "exp", (self,), (data,))

    def log(self) -> "Value":
        """Return the natural logarithm."""
        if self.data <= 0:
            raise ValueError(f"log({self.data}): the number must be above 0")
        return Value(math.log(self.data), "", "log", (self,), (1 / self.data,))

    def tanh(self) -> "Value":
        data = math.tanh(self.data)
        return Value(data, "", "tanh", (self,), (1 - data * data,))

    def relu(self) -> "Value":
        """Return max(self, 0). The derivative at 0 is 0, as in jax.nn.relu."""
        is_off = self.data <= 0
        return Value(0.0 if is_off else self.data, "", "relu", (self,), (0.0 if is_off else 1.0,))


def as_value(number: Value | float) -> Value:
    """Return a Value unchanged, and a number as a leaf."""
    return number if isinstance(number, Value) else Value(number)


def _power(base: float, exponent: float) -> float:
    """Return base ** exponent as a float: never complex, and inf on overflow."""
    if base < 0 and exponent % 1:
        raise ValueError(f"{base} ** {exponent}: a negative base needs a whole exponent")
    if base == 0 and exponent < 0:
        raise ZeroDivisionError(f"{base} ** {exponent}: a base of 0 needs an exponent of 0 or more")
    try:
        return base**exponent
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 else math.inf


def _power_derivative(base: float, exponent: float) -> float:
    """Return the derivative of base ** exponent with respect to the base."""
    if exponent == 0:
        return 0.0
    if base == 0 and exponent < 1:
        return math.inf  # the slope of a root at 0
    return exponent * _power(base, exponent - 1)


def _power_of_values(base: Value, exponent: Value) -> Value:
    if base.data <= 0:
        raise ValueError(
            f"{base.data} ** Value({exponent.data}): with a Value as exponent the base must be "
            "above 0; use a plain number as exponent"
        )
    data = _power(base.data, exponent.data)
    derivatives = (_power_derivative(base.data, exponent.data), data * math.log(base.data))
    return Value(data, "", "**", (base, exponent), derivatives)


def nodes(output: Value) -> list[Value]:
    """Return all nodes of the graph in topological order: parents first, the output last."""
    order: list[Value] = []
    seen: set[Value] = set()
    stack = [(output, False)]  # explicit, since Python's recursion limit is 1,000 calls
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
    """Return the gradient of the output with respect to each node of its graph."""
    order = nodes(output)
    gradients = dict.fromkeys(order, 0.0)
    gradients[output] = 1.0
    for node in reversed(order):  # all uses of a node come before the node
        for parent, derivative in zip(node.parents, node.derivatives, strict=True):
            gradients[parent] += derivative * gradients[node]
    return gradients


class Neuron(NamedTuple):
    """The parameters of one neuron: Values to compute gradients, numbers otherwise."""

    weights: Sequence[Value | float]
    bias: Value | float


Layer = list[Neuron]
Point = Sequence[Value | float]


def init_mlp(key: Array, sizes: Sequence[int]) -> list[Layer]:
    """Draw the parameters of an MLP from -1..1. `sizes` are inputs, neurons per layer, outputs."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [_init_layer(*layer) for layer in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def _init_layer(key: Array, num_inputs: int, num_neurons: int) -> Layer:
    rows = jax.random.uniform(key, (num_neurons, num_inputs + 1), minval=-1.0).tolist()
    return [Neuron(weights, bias) for *weights, bias in rows]


def neuron(params: Neuron, x: Point) -> Value:
    """Return tanh(w x + b). ValueError unless there is an input for each weight."""
    if len(x) != len(params.weights):
        raise ValueError(f"{len(x)} inputs for a neuron with {len(params.weights)} weights")
    total = as_value(params.bias)
    for weight, number in zip(params.weights, x, strict=True):
        total = total + weight * number
    return total.tanh()


def layer(params: Layer, x: Point) -> list[Value]:
    """Return the outputs of all neurons of a layer."""
    return [neuron(each, x) for each in params]


def mlp(params: list[Layer], x: Point) -> list[Value]:
    """Return the outputs of the last layer. Every layer ends with tanh, including the last."""
    for each in params:
        x = layer(each, x)
    return list(x)


def squared_error(params: list[Layer], xs: Sequence[Point], ys: Sequence[float]) -> Value:
    """Return the sum of (output - y) ** 2 over all points, for an MLP with one output."""
    loss = Value(0.0)
    for x, y in zip(xs, ys, strict=True):
        (output,) = mlp(params, x)
        loss = loss + (output - y) ** 2
    return loss


def train_step(
    params: list[Layer], xs: Sequence[Point], ys: Sequence[float], learning_rate: float
) -> tuple[list[Layer], float]:
    """Take one step of gradient descent on all points. -> new parameters, loss before the step"""
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
    """Take `num_steps` steps. -> new parameters, loss before each step"""
    losses = []
    for _ in range(num_steps):
        params, loss = train_step(params, xs, ys, learning_rate)
        losses.append(loss)
    return params, losses


# The lecture's four points, and the target of each.
XS = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
YS = [1.0, -1.0, -1.0, 1.0]


def lecture_neuron(tanh_by_exp: bool = False) -> Value:
    """Return the output of the lecture's neuron of two inputs. Its bias makes the gradients round.

    With `tanh_by_exp`, tanh n is computed as (e - 1) / (e + 1) with e = exp(2n). The graph then has
    other nodes, but the same gradients.
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.autograd", __doc__)
    parser.add_argument("--out", default="runs/autograd", help="folder (runs/autograd)")
    folder = Path(parser.parse_args(argv).out)
    command.run("autograd", lambda: _run(folder))


def _run(folder: Path) -> None:
    """Draw the pictures, then print the results."""
    gradients = grads(lecture_neuron())
    with command.writing(folder):
        autograd_picture.draw(gradients, folder / "neuron.svg")
        (folder / "neuron.dot").write_text(autograd_picture.dot(gradients), "utf-8")
    _print_neuron()
    _print_perceptron()
    print(f"{folder / 'neuron.svg'} and {folder / 'neuron.dot'} show the neuron's graph")


def _print_neuron() -> None:
    print("the neuron: values, gradients with tanh, gradients with exp")
    by_tanh, by_exp = (
        {node.label: (node, gradient) for node, gradient in grads(output).items()}
        for output in (lecture_neuron(), lecture_neuron(tanh_by_exp=True))
    )
    for label, (node, gradient) in by_tanh.items():
        print(f"{label:>5} = {node.data:9.6f}  {gradient:9.6f}  {by_exp[label][1]:9.6f}")


def _print_perceptron() -> None:
    print("the perceptron: loss at every tenth step")
    params, losses = train(init_mlp(jax.random.key(0), [3, 4, 4, 1]), XS, YS, 201, 0.1)
    for step in range(0, 201, 10):
        print(f"{step:5} {losses[step]:.6f}")
    for x, y in zip(XS, YS, strict=True):
        print(f"{x}: target {y:4.1f}, output {mlp(params, x)[0].data:9.6f}")


if __name__ == "__main__":
    main()

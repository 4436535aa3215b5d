"""Lecture 1, a scalar autograd engine: python -m makemore_jax.lectures.autograd --out DIR

The course's Value (https://youtu.be/VMj-3S1tku0) in functional form. A node never changes, so it
holds no gradient: `grads` maps an output to the gradients of all that it was computed from, as
jax.grad maps a function. The command prints the lecture's neuron, trains its perceptron on four
points, and writes the neuron's graph as neuron.svg and, for Graphviz, neuron.dot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import jax
from jax import Array

from makemore_jax.lectures import autograd_picture, command

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
    """Return the gradient of the output with respect to each node of its graph, leaves included."""
    order = nodes(output)
    gradients = dict.fromkeys(order, 0.0)
    gradients[output] = 1.0
    for node in reversed(order):  # every use of a node comes before the node itself
        for parent, derivative in zip(node.parents, node.derivatives, strict=True):
            gradients[parent] += derivative * gradients[node]
    return gradients


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser("autograd", __doc__)
    parser.add_argument("--out", default="runs/autograd", help="where files go (runs/autograd)")
    folder = Path(parser.parse_args(argv).out)
    command.run("autograd", lambda: _tell(folder))


def _tell(folder: Path) -> None:
    """Draw the pictures, then print."""
    gradients = grads(lecture_neuron())
    with command.writing(folder):
        autograd_picture.draw(gradients, folder / "neuron.svg")
        (folder / "neuron.dot").write_text(autograd_picture.dot(gradients), "utf-8")
    _print_neuron()
    _print_perceptron()
    print(f"{folder / 'neuron.svg'} and {folder / 'neuron.dot'} hold the neuron's graph")


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


if __name__ == "__main__":
    main()

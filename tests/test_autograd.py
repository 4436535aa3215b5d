"""The scalar autograd engine compared with jax.grad and the lecture, and its pictures."""

import dataclasses
import itertools
import math
import os
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close, assert_same, enable_x64, run
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore_jax.cli import command_line
from makemore_jax.lectures import autograd, autograd_picture
from makemore_jax.lectures.autograd import XS, YS, Value, grads, init_mlp, lecture_neuron
from makemore_jax.lectures.command import run as run_command

KEY = jax.random.key(0)
UNDER_A_FILE = ROOT / "names.txt" / "x"
# Use the same examples in every run, so that a test fails only if the code changes.
SAME_EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=50)

JAX = SimpleNamespace(exp=jnp.exp, log=jnp.log, tanh=jnp.tanh, relu=jax.nn.relu)


def anywhere(a, b):
    return True


def a_is_positive(a, b):
    return a >= 0.1


def a_is_not_0(a, b):
    return abs(a) >= 0.1


# Each op for Values and jax arrays (f provides tanh, exp, ... for either type), and a condition
# under which it is smooth: near a pole or a kink, rounding errors dominate.
OPS = {
    "a + b": (lambda f, a, b: a + b, anywhere),
    "a - b": (lambda f, a, b: a - b, anywhere),
    "a * b": (lambda f, a, b: a * b, anywhere),
    "a / b": (lambda f, a, b: a / b, lambda a, b: abs(b) >= 0.1),
    "a ** b": (lambda f, a, b: a**b, a_is_positive),
    "a + 2": (lambda f, a, b: a + 2, anywhere),
    "a - 2": (lambda f, a, b: a - 2, anywhere),
    "a * 0.7": (lambda f, a, b: a * 0.7, anywhere),
    "a / 3": (lambda f, a, b: a / 3, anywhere),
    "2 + a": (lambda f, a, b: 2 + a, anywhere),
    "1 - a": (lambda f, a, b: 1 - a, anywhere),
    "0.7 * a": (lambda f, a, b: 0.7 * a, anywhere),
    "1 / a": (lambda f, a, b: 1 / a, a_is_not_0),
    "2 ** a": (lambda f, a, b: 2**a, anywhere),
    "a ** 0": (lambda f, a, b: a**0, anywhere),
    "a ** 1": (lambda f, a, b: a**1, anywhere),
    "a ** 2": (lambda f, a, b: a**2, anywhere),
    "a ** 3.0": (lambda f, a, b: a**3.0, anywhere),
    "a ** -2": (lambda f, a, b: a**-2, a_is_not_0),
    "a ** 0.5": (lambda f, a, b: a**0.5, a_is_positive),
    "-a": (lambda f, a, b: -a, anywhere),
    "tanh a": (lambda f, a, b: f.tanh(a), anywhere),
    "exp a": (lambda f, a, b: f.exp(a), anywhere),
    "relu a": (lambda f, a, b: f.relu(a), lambda a, b: abs(a) >= 1e-3),
    "log a": (lambda f, a, b: f.log(a), a_is_positive),
}


def compute(program, leaves, f):
    """Return the sum of all numbers of a program, so that each step has a gradient."""
    numbers = list(leaves)
    for name, i, j in program:
        numbers.append(OPS[name][0](f, numbers[i], numbers[j]))
    return sum(numbers[1:], numbers[0])


@st.composite
def programs(draw):
    """Draw a random graph: some leaves and up to 8 ops, each on two earlier numbers."""
    leaves = draw(st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=1, max_size=4))
    numbers, program = [Value(x) for x in leaves], []
    for _ in range(draw(st.integers(1, 8))):
        i, j = (draw(st.integers(0, len(numbers) - 1)) for _ in range(2))
        results = {}
        for name, (op, is_smooth) in OPS.items():
            if is_smooth(numbers[i].data, numbers[j].data):
                result = op(Value, numbers[i], numbers[j])
                if abs(result.data) < 30:
                    results[name] = result
        name = draw(st.sampled_from(list(results)))
        program.append((name, i, j))
        numbers.append(results[name])
    return program, leaves


def assert_matches_jax(program, numbers):
    """Compare the output and the gradients of all leaves with JAX, in float64."""
    leaves = [Value(x) for x in numbers]
    output = compute(program, leaves, Value)
    result = grads(output)
    with enable_x64(True):
        arrays = [jnp.array(x) for x in numbers]
        data, expected = jax.value_and_grad(lambda arrays: compute(program, arrays, JAX))(arrays)
        assert data.dtype == np.float64
        assert_close(output.data, data, 1e-12)
        assert_close([result[leaf] for leaf in leaves], np.array(expected), 1e-9)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("numbers", [(0.7, 1.3), (-1.1, -0.4)])
def test_each_op_has_the_gradient_of_jax(name, numbers):
    if OPS[name][1](*numbers):
        assert_matches_jax([(name, 0, 1)], numbers)
        assert_matches_jax([(name, 0, 0)], [abs(numbers[0])])  # both operands are the same node


@SAME_EXAMPLES
@given(programs())
def test_random_expressions_have_the_gradients_of_jax(example):
    assert_matches_jax(*example)


@pytest.mark.parametrize("tanh_by_exp", [False, True])
def test_the_neuron_of_the_lecture(tanh_by_exp):
    output = lecture_neuron(tanh_by_exp)
    result = {node.label: gradient for node, gradient in grads(output).items()}
    assert round(output.data, 5) == 0.70711
    expected = {"x2": 0.5, "w2": 0.0, "x1": -1.5, "w1": 1.0, "b": 0.5, "n": 0.5, "o": 1.0}
    assert {label: round(result[label], 9) for label in expected} == expected
    ops = {node.op for node in autograd.nodes(output)}
    assert ("exp" in ops, "tanh" in ops) == (tanh_by_exp, not tanh_by_exp)


def test_nodes_are_never_changed():
    x = Value(3.0, "x")
    y = x * x
    for name in ("data", "label", "parents"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(y, name, 1.0)
    first, second = grads(y), grads(y)
    assert first == second == {x: 6.0, y: 1.0}
    renamed = y.named("y")
    assert (y.label, renamed.label, renamed.data) == ("", "y", 9.0)
    assert grads(renamed) == {x: 6.0, renamed: 1.0}


def test_equal_numbers_are_different_nodes():
    x, y = Value(2), Value(2)
    assert x != y
    assert type(x.data) is float
    assert grads(3 * x - y)[x] == 3
    assert grads(3 * x - y)[y] == -1
    assert grads(x) == {x: 1.0}
    assert repr(x * y) == "Value(data=4.0, label='', op='*')"


def test_nodes_are_unique_and_follow_their_parents():
    x = Value(2.0)
    square = x * x
    output = square.tanh() + square + x
    order = autograd.nodes(output)
    assert len(order) == len(set(order)) == 5
    assert order[-1] is output
    for i, node in enumerate(order):
        assert set(node.parents) <= set(order[:i])


def test_deep_graphs_and_graphs_with_many_paths():
    """Backpropagation uses no recursion and visits each node once."""
    depth = 30 * sys.getrecursionlimit()
    x = Value(0.0)
    deep = x
    for _ in range(depth):
        deep = deep + 1
    assert deep.data == depth
    assert grads(deep)[x] == 1
    wide = x
    for _ in range(100):
        wide = wide + wide
    assert grads(wide)[x] == 2.0**100


def test_operations_without_a_real_result_raise():
    x, zero = Value(-2.0), Value(0.0)
    for number in (x, zero):
        with pytest.raises(ValueError, match=r"log\(.*\): the number must be above 0"):
            number.log()
    for divide in (lambda: x / zero, lambda: x / 0, lambda: 1 / zero):
        with pytest.raises(ZeroDivisionError, match="the divisor must not be 0"):
            divide()
    with pytest.raises(ZeroDivisionError, match=r"0.0 \*\* -1.0: a base of 0 needs"):
        zero**-1
    with pytest.raises(ValueError, match=r"-2.0 \*\* 0.5: a negative base needs a whole exponent"):
        x**0.5
    for power in (lambda: x ** Value(2.0), lambda: zero**x, lambda: (-2) ** x):
        with pytest.raises(ValueError, match="the base must be above 0"):
            power()


def test_overflow_gives_inf_and_nan_propagates():
    assert Value(1000.0).exp().data == math.inf
    assert (Value(-10.0) ** 401).data == -math.inf
    assert (Value(-10.0) ** 400).data == math.inf
    assert (1 / Value(1e-200)).derivatives[1] == -math.inf
    for op in (Value.exp, Value.log, Value.tanh, Value.relu, lambda a: a**2, lambda a: 2**a):
        assert math.isnan(op(Value(math.nan)).data)


@pytest.mark.parametrize(
    ("base", "exponent", "expected"),
    [(0, 0, 0), (0, 1, 1), (0, 2, 0), (0, 0.5, math.inf), (-2, 3, 12), (-2, -1, -0.25)],
)
def test_gradients_of_special_powers(base, exponent, expected):
    x = Value(base)
    assert grads(x**exponent)[x] == expected


def test_relu_gradient_at_0_is_that_of_jax():
    x = Value(0.0)
    assert grads(x.relu())[x] == jax.grad(jax.nn.relu)(0.0) == 0


def test_values_mix_with_python_and_numpy_numbers():
    x = Value(3.0)
    for number in (2, 2.0, np.float32(2), np.float64(2), np.int64(2)):
        result = [x + number, x - number, x * number, x / number, x**number]
        result += [number + x, number - x, number * x, number / x, number**x]
        assert all(type(value) is Value for value in result)
        assert [v.data for v in result] == [5, 1, 6, 1.5, 9, 5, -1, 6, 2 / 3, 8]
        assert grads(number * x)[x] == 2
    for other in ("2", None, [2], 2j):
        for op in (lambda s: x + s, lambda s: s - x, lambda s: x**s, lambda s: s**x):
            with pytest.raises(TypeError):
                op(other)


def test_init_mlp():
    params = init_mlp(KEY, [2, 5, 3])
    assert [[len(neuron.weights) for neuron in layer] for layer in params] == [[2] * 5, [5] * 3]
    numbers = jax.tree.leaves(params)
    assert len(numbers) == 5 * 3 + 3 * 6
    assert len(set(numbers)) == len(numbers)
    assert all(type(x) is float and -1 <= x <= 1 for x in numbers)
    assert_same(init_mlp(KEY, [2, 5, 3]), params)
    assert jax.tree.leaves(init_mlp(jax.random.key(1), [2, 5, 3])) != numbers


def test_perceptron_has_the_gradients_of_jax():
    params = init_mlp(KEY, [3, 4, 4, 1])

    def as_arrays(tree):
        return [np.array([[*neuron.weights, neuron.bias] for neuron in layer]) for layer in tree]

    def loss_fn(arrays):
        x = jnp.array(XS)
        for array in arrays:
            x = jnp.tanh(x @ array[:, :-1].T + array[:, -1])
        return ((x[:, 0] - jnp.array(YS)) ** 2).sum()

    leaves = jax.tree.map(Value, params)
    result = grads(autograd.squared_error(leaves, XS, YS))
    new, old_loss = autograd.train_step(params, XS, YS, 0.1)
    with enable_x64(True):
        arrays = as_arrays(params)
        data, expected = jax.jit(jax.value_and_grad(loss_fn))(arrays)
        assert_close(old_loss, data, 1e-12)
        assert_close(autograd.squared_error(params, XS, YS).data, data, 1e-12)  # also with numbers
        by_leaf = as_arrays(jax.tree.map(lambda leaf: result[leaf], leaves))
        jax.tree.map(lambda ours, theirs: assert_close(ours, theirs, 1e-12), by_leaf, expected)
        stepped = jax.tree.map(lambda w, g: w - 0.1 * g, arrays, expected)
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), as_arrays(new), stepped)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_perceptron_learns_the_four_points(seed):
    params = init_mlp(jax.random.key(seed), [3, 4, 4, 1])
    before = jax.tree.leaves(params)
    trained, losses = autograd.train(params, XS, YS, 100, 0.1)
    assert jax.tree.leaves(params) == before
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    assert len(losses) == 100
    assert losses[0] > 1
    assert losses[-1] < 0.01
    assert autograd.squared_error(trained, XS, YS).data < losses[-1]
    for x, y in zip(XS, YS, strict=True):
        assert abs(autograd.mlp(trained, x)[0].data - y) < 0.1


def test_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="2 inputs for a neuron with 3 weights"):
        autograd.mlp([[autograd.Neuron([1.0, 2.0, 3.0], 0.5)]], [1.0, 2.0])


def test_dot():
    x = Value(-1.5, 'a "b" {c|d}\n<\\')
    text = autograd_picture.dot(grads((x * x).tanh()))
    assert text.startswith("digraph {\n") and text.endswith("}\n")
    label = r"a \"b\" \{c\|d\} \<\\ | data -1.5 | grad -0.1304"
    assert f'n0 [shape=record, label="{label}"];' in text
    assert re.findall(r"\w+ -> \w+", text) == [
        *("op1 -> n1", "n0 -> op1", "n0 -> op1"),  # both inputs of x * x
        *("op2 -> n2", "n1 -> op2"),
    ]
    assert 'op2 [label="tanh"];' in text


def shapes(file):
    """Return boxes and ellipses (left, top, right, bottom), paths, texts, and the view box."""
    root = ElementTree.parse(file).getroot()
    result = {"rect": [], "ellipse": [], "path": [], "text": []}
    for element in root:
        kind = element.tag.partition("}")[2]
        if kind == "path":
            result[kind].append(points_of(element.get("d")))
        elif kind == "text":
            x, y = float(element.get("x")), float(element.get("y")) - 4
            result[kind].append((element.text, x, y))
        elif kind == "rect":
            x, y, width, height = (float(element.get(k)) for k in ("x", "y", "width", "height"))
            result[kind].append((x, y, x + width, y + height))
        else:
            x, y, rx, ry = (float(element.get(k)) for k in ("cx", "cy", "rx", "ry"))
            result[kind].append((x - rx, y - ry, x + rx, y + ry))
    left, top, width, height = map(float, root.get("viewBox").split())
    return result, (left, top, left + width, top + height)


def points_of(path):
    """Return points along lines and cubic curves, dense enough to detect overlaps."""
    points = []
    for command, text in re.findall(r"([MHChvz])([^MHChvz]*)", path):
        numbers = [float(number) for number in text.split()]
        if command == "M":
            points.append(tuple(numbers))
        elif command == "H":
            x, y = points[-1]
            points += [(x + (numbers[0] - x) * i / 50, y) for i in range(1, 51)]
        elif command == "C":
            ends = np.array([*points[-1], *numbers]).reshape(4, 2)
            for t in np.linspace(0, 1, 21)[1:]:
                weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
                points.append(tuple(weights @ ends))
    return points


def assert_readable(file):
    """Check that shapes do not overlap and are inside the view box."""
    result, (left, top, right, bottom) = shapes(file)
    solid = result["rect"] + result["ellipse"]
    for a, b in itertools.combinations(solid, 2):
        apart = a[2] <= b[0] + 0.2 or b[2] <= a[0] + 0.2 or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{a} and {b} overlap"
    for box in solid:
        assert left < box[0] and box[2] < right and top < box[1] and box[3] < bottom
    lines = [point for line in result["path"][1:] for point in line]  # the first is the background
    x, y = np.array(lines).reshape(-1, 2).T
    for a in solid:
        assert not ((a[0] + 1 < x) & (x < a[2] - 1) & (a[1] < y) & (y < a[3])).any()
    assert len(result["text"]) == len(solid)
    for text, x, y in result["text"]:
        width = 7.3 * len(text)  # monospaced letters of 12 pixels
        assert any(a[0] < x - width / 2 and x + width / 2 < a[2] and a[1] < y < a[3] for a in solid)


def test_draw_shows_every_node(tmp_path):
    file = tmp_path / "neuron.svg"
    autograd_picture.draw(grads(lecture_neuron()), file)
    assert file.read_text("utf-8") == autograd_picture.svg(grads(lecture_neuron()))
    width, smallest = re.search(
        r'width="(\d+)".* max\(100%, (\d+)px\)', file.read_text("utf-8")
    ).groups()
    assert int(smallest) == pytest.approx(0.7 * int(width), abs=1)
    result, _ = shapes(file)
    texts = [text for text, _, _ in result["text"]]
    assert sorted(text for text in texts if text in ("*", "+", "tanh")) == [*"**++", "tanh"]
    for cells in (["x1", "data 2", "grad -1.5"], ["o", "data 0.7071", "grad 1"]):
        assert texts[texts.index(cells[0]) :][:3] == cells
    assert len(result["rect"]) == 3 * 10
    assert len(result["path"]) == 1 + 9 + 5 + 2  # background, inputs, outputs, b in two columns
    assert_readable(file)


def test_draw_connects_each_line(tmp_path):
    """Each line starts and ends at a box, an op or another line."""
    file = tmp_path / "neuron.svg"
    autograd_picture.draw(grads(lecture_neuron(tanh_by_exp=True)), file)
    result, _ = shapes(file)
    solid, lines = result["rect"] + result["ellipse"], result["path"][1:]
    sources = [(a[2], (a[1] + a[3]) / 2) for a in solid] + [line[-1] for line in lines]
    targets = [(a[0], (a[1] + a[3]) / 2) for a in solid] + [line[0] for line in lines]
    for line in lines:
        assert min(math.dist(line[0], source) for source in sources) < 0.3
        assert min(math.dist(line[-1], target) for target in targets) < 0.3


@settings(SAME_EXAMPLES, max_examples=15)
@given(programs())
def test_draw_is_readable_for_random_graphs(tmp_path_factory, example):
    file = tmp_path_factory.mktemp("draw") / "graph.svg"
    program, leaves = example
    named = [Value(x, f'<leaf & "{i}">') for i, x in enumerate(leaves)]
    autograd_picture.draw(grads(compute(program, named, Value)), file)
    assert_readable(file)


def test_draw_a_leaf_large_numbers_and_too_many_nodes(tmp_path):
    file = tmp_path / "graph.svg"
    autograd_picture.draw(grads(Value(2.0)), file)
    assert_readable(file)
    autograd_picture.draw(grads((Value(1e300, "large") * 1e-299) ** (1 / 3)), file)
    assert_readable(file)
    deep = Value(0.0)
    for _ in range(600):
        deep = deep + 1
    with pytest.raises(
        ValueError, match=r"1201 nodes: at most 1000 are drawn; dot\(\) has no limit"
    ):
        autograd_picture.draw(grads(deep), file)
    assert autograd_picture.dot(grads(deep)).count("shape=record") == 1201


def test_command(tmp_path):
    done = run("-m", "makemore_jax.lectures.autograd", "--out", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    assert re.search(r"o += +0\.707107 +1\.000000 +1\.000000\n", done.stdout)
    assert re.search(r"x1 += +2\.000000 +-1\.500000 +-1\.500000\n", done.stdout)
    losses = [float(x) for x in re.findall(r"^ +\d+ (\d+\.\d+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 21
    assert losses[-1] < 0.01 < losses[0]
    files = {file.name for file in (tmp_path / "new" / "folder").iterdir()}
    assert files == {"neuron.svg", "neuron.dot"}
    assert_readable(tmp_path / "new" / "folder" / "neuron.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "unrecognized arguments: --stepz 3"),
        (["extra"], "unrecognized arguments: extra"),
        (["--out"], "argument --out: expected one argument"),
        (["--out", str(UNDER_A_FILE)], f"--out: {UNDER_A_FILE} can't be written"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        autograd.main(arguments)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"autograd: {message}")


def test_an_interrupt_prints_nothing(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        run_command("autograd", interrupted)
    assert exit_.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_options_of_jax_are_restored_after_a_program():
    """In IPython, the next program must not compute in float64."""

    def program():
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_default_matmul_precision", "highest")
        assert jnp.zeros(1).dtype == jnp.float64

    command_line.call("program", program)
    assert jnp.zeros(1).dtype == jnp.float32
    assert jax.config.jax_default_matmul_precision is None


def test_a_closed_output_pipe_prints_no_error(monkeypatch, capsys):
    """As with `| head -1`: print fills a buffer, and only flushing it fails."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as exit_:
            run_command("autograd", lambda: print("text"))
        assert exit_.value.code == 130
    assert capsys.readouterr() == ("", "")  # closing the pipe raised nothing

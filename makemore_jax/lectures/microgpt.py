"""microgpt, a GPT from scalars to one compiled program: python -m makemore_jax.lectures.microgpt

Andrej Karpathy's microgpt is a GPT in plain Python with its own scalar autograd. This module
computes the same numbers, digit by digit, in three forms:

1. scalars: `scalar_loss` builds a graph of `autograd.Value`, one node per multiplication or sum;
2. arrays: `loss` is a pure function of arrays, and jax.grad replaces the graph;
3. one program: `train` compiles the step once and loops over all documents on the device.

The initial values, the order of the documents and the samples come from Python's `random`. The
command prints the loss of every step, then twenty samples. On makemore's list the first loss is
3.3659669476 and the last is 2.6496944697.

T time (at most 16), C 16 channels, nh 4 heads, hs 4 numbers per head, V vocabulary.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax.cli.arguments import Parser
from makemore_jax.lectures import command
from makemore_jax.lectures.autograd import Value, grads
from makemore_jax.losses import mean_loss

BLOCK_SIZE, N_EMBD, N_HEAD = 16, 16, 4
HEAD_SIZE = N_EMBD // N_HEAD
NUM_STEPS, LEARNING_RATE = 1_000, 0.01  # the learning rate decreases linearly to 0
B1, B2, EPSILON = 0.85, 0.99, 1e-8  # of Adam
NORM_EPSILON = 1e-5  # added to the mean square
SEED, NUM_SAMPLES, TEMPERATURE = 42, 20, 0.5

Matrix = Any  # rows of Values, or an array


class Params(NamedTuple):
    """The weights of one layer, embeddings and head: 4,192 numbers for 27 tokens.

    The rows of a matrix are its outputs. The order of the fields is the order of the draws.
    """

    wte: Matrix  # (V, C)
    wpe: Matrix  # (T, C)
    lm_head: Matrix  # (V, C)
    wq: Matrix  # (C, C)
    wk: Matrix  # (C, C)
    wv: Matrix  # (C, C)
    wo: Matrix  # (C, C)
    fc1: Matrix  # (4 C, C)
    fc2: Matrix  # (C, 4 C)


# Data and initial values


class Documents(NamedTuple):
    """The lines in the order of training. Character i is token i; the last token is BOS."""

    lines: list[str]
    chars: str  # sorted

    @property
    def bos(self) -> int:
        """The token before and after each line."""
        return len(self.chars)


def shuffle(lines: Sequence[str], generator: random.Random) -> Documents:
    """Return the lines in a random order, and their characters."""
    lines = list(lines)
    generator.shuffle(lines)
    return Documents(lines, "".join(sorted(set("".join(lines)))))


def transitions(documents: Documents, step: int) -> tuple[list[int], list[int]]:
    """Return the inputs and the targets of a step: at most BLOCK_SIZE each."""
    line = documents.lines[step % len(documents.lines)]
    tokens = [documents.bos, *map(documents.chars.index, line), documents.bos]
    return tokens[:-1][:BLOCK_SIZE], tokens[1:][:BLOCK_SIZE]


def batches(documents: Documents, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of all steps as (num_steps, T). Padding is 0, and -1 in targets."""
    inputs = np.zeros((num_steps, BLOCK_SIZE), np.int32)
    targets = np.full((num_steps, BLOCK_SIZE), -1, np.int32)
    for step in range(num_steps):
        x, y = transitions(documents, step)
        inputs[step, : len(x)], targets[step, : len(y)] = x, y
    return inputs, targets


def init(generator: random.Random, vocab_size: int) -> Params:
    """Draw all weights with mean 0 and standard deviation 0.08, as nested lists of numbers."""
    C = N_EMBD
    tables = [(vocab_size, C), (BLOCK_SIZE, C), (vocab_size, C)]
    shapes = [*tables, (C, C), (C, C), (C, C), (C, C), (4 * C, C), (C, 4 * C)]
    return Params(
        *([[generator.gauss(0, 0.08) for _ in range(n)] for _ in range(m)] for m, n in shapes)
    )


def as_arrays(params: Params) -> Params:
    """Return nested lists as arrays, in float64 if jax_enable_x64 is set."""
    return Params(*map(jnp.asarray, params))


# Scalars

Vector = list[Value]


def scalar_loss(params: Params, inputs: Sequence[int], targets: Sequence[int]) -> Value:
    """Return the mean negative log likelihood of the targets. `params` are lists of Values."""
    losses, keys, values = [], [], []
    for position, (token, target) in enumerate(zip(inputs, targets, strict=True)):
        logits = scalar_logits(params, token, position, keys, values)
        losses.append(-_softmax(logits)[target].log())
    return _add(losses) / len(losses)


def scalar_logits(
    params: Params, token: int, position: int, keys: list[Vector], values: list[Vector]
) -> Vector:
    """Compute the logits after one token, and append its key and value to the lists.

    A position sees only the keys and values before it, so no mask is needed.
    """
    x = _norm(_sum_vectors(params.wte[token], params.wpe[position]))
    h = _norm(x)
    query = _linear(params.wq, h)
    keys.append(_linear(params.wk, h))
    values.append(_linear(params.wv, h))
    y = []
    for start in range(0, N_EMBD, HEAD_SIZE):
        head = slice(start, start + HEAD_SIZE)
        scores = [_dot(query[head], key[head]) / HEAD_SIZE**0.5 for key in keys]
        weights = _softmax(scores)
        y += [_dot(weights, column) for column in zip(*(v[head] for v in values), strict=True)]
    x = _sum_vectors(x, _linear(params.wo, y))
    h = [each.relu() for each in _linear(params.fc1, _norm(x))]
    x = _sum_vectors(x, _linear(params.fc2, h))
    return _linear(params.lm_head, x)


def _add(numbers: Sequence[Value]) -> Value:
    total = numbers[0]
    for number in numbers[1:]:
        total = total + number
    return total


def _dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    return _add([x * y for x, y in zip(a, b, strict=True)])


def _linear(weights: Sequence[Vector], x: Vector) -> Vector:
    return [_dot(row, x) for row in weights]


def _sum_vectors(a: Vector, b: Vector) -> Vector:
    return [x + y for x, y in zip(a, b, strict=True)]


def _norm(x: Vector) -> Vector:
    scale = (_dot(x, x) / len(x) + NORM_EPSILON) ** -0.5
    return [each * scale for each in x]


def _softmax(x: Vector) -> Vector:
    largest = max(each.data for each in x)  # exp can't overflow
    powers = [(each - largest).exp() for each in x]
    total = _add(powers)
    return [each / total for each in powers]


def scalar_loss_and_grads(
    params: Params, inputs: Sequence[int], targets: Sequence[int]
) -> tuple[float, Params]:
    """Return the loss and its gradients. `params` are nested lists of numbers."""
    leaves = jax.tree.map(Value, params)
    output = scalar_loss(leaves, inputs, targets)
    gradients = grads(output)
    # A weight that the line does not use, such as that of another token, is not in the graph.
    return output.data, jax.tree.map(lambda leaf: gradients.get(leaf, 0.0), leaves)


# Arrays


def forward(params: Params, tokens: Array) -> Array:
    """Compute the logits after each token of one line. (T,) -> (T, V)"""
    T = len(tokens)
    x = _rms_norm(params.wte[tokens] + params.wpe[:T])  # (T, C)
    h = _rms_norm(x)
    q, k, v = ((h @ w.T).reshape(T, N_HEAD, HEAD_SIZE) for w in (params.wq, params.wk, params.wv))
    scores = jnp.einsum("tnh,snh->nts", q, k) / HEAD_SIZE**0.5
    mask = jnp.tril(jnp.ones((T, T), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
    y = jnp.einsum("nts,snh->tnh", weights, v).reshape(T, N_EMBD)
    x = x + y @ params.wo.T
    h = jax.nn.relu(_rms_norm(x) @ params.fc1.T)  # (T, 4 C)
    x = x + h @ params.fc2.T
    return x @ params.lm_head.T


def _rms_norm(x: Array) -> Array:
    """Divide by the root mean square (Zhang and Sennrich 2019), without a gain. (T, C)"""
    return x * (jnp.mean(x * x, axis=-1, keepdims=True) + NORM_EPSILON) ** -0.5


def loss(params: Params, inputs: Array, targets: Array) -> Array:
    """Return the mean negative log likelihood of the targets that are not -1. (T,), (T,) -> ()"""
    return mean_loss(forward(params, inputs), targets)


# The step


class State(NamedTuple):
    """What a step changes: the weights, and Adam's moments of their gradients."""

    params: Params
    first: Params
    second: Params


def init_state(params: Params) -> State:
    """Return the state before the first step."""
    zeros = jax.tree.map(lambda p: 0.0 * p, params)
    return State(params, zeros, zeros)


def adam(state: State, gradients: Params, step: float | Array) -> State:
    """Apply Adam (Kingma and Ba 2015) at a step, counted from 0. Leaves are numbers or arrays."""
    first = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, state.first, gradients)
    second = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, state.second, gradients)
    rate = LEARNING_RATE * (1 - step / NUM_STEPS)
    correction1, correction2 = 1 - B1 ** (step + 1), 1 - B2 ** (step + 1)

    def update(p: Any, m: Any, v: Any) -> Any:
        return p - rate * (m / correction1) / ((v / correction2) ** 0.5 + EPSILON)

    return State(jax.tree.map(update, state.params, first, second), first, second)


def scalar_step(
    state: State, step: int, inputs: Sequence[int], targets: Sequence[int]
) -> tuple[State, float]:
    """Take a step with the scalar engine. The state has nested lists of numbers."""
    value, gradients = scalar_loss_and_grads(state.params, inputs, targets)
    return adam(state, gradients, step), value


def array_step(state: State, step: Array, inputs: Array, targets: Array) -> tuple[State, Array]:
    """Take a step with jax.grad. `step` has the dtype of the weights."""
    value, gradients = jax.value_and_grad(loss)(state.params, inputs, targets)
    return adam(state, gradients, step), value


@jax.jit
def train(params: Params, inputs: Array, targets: Array) -> tuple[Params, Array]:
    """Take one step per line in one compiled loop. (N, T), (N, T) -> new weights, losses (N,)"""

    def body(state: State, batch: tuple[Array, Array, Array]) -> tuple[State, Array]:
        return array_step(state, *batch)

    steps = jnp.arange(len(inputs), dtype=params.wte.dtype)
    state, losses = jax.lax.scan(body, init_state(params), (steps, inputs, targets))
    return state.params, losses


# Samples


@jax.jit
def next_token_probabilities(params: Params, tokens: Array, length: Array) -> Array:
    """Return the distribution of the token that follows the first `length` tokens. (T,) -> (V,)"""
    return jax.nn.softmax(forward(params, tokens)[length - 1] / TEMPERATURE)


def sample(params: Params, documents: Documents, generator: random.Random) -> str:
    """Sample one line of at most BLOCK_SIZE characters."""
    tokens, bos = [documents.bos], documents.bos
    while len(tokens) <= BLOCK_SIZE:
        context = np.array(tokens + [0] * (BLOCK_SIZE - len(tokens)), np.int32)
        weights = next_token_probabilities(params, context, len(tokens))
        (token,) = generator.choices(range(bos + 1), weights=np.asarray(weights).tolist())
        if token == bos:
            break
        tokens.append(token)
    return "".join(documents.chars[token] for token in tokens[1:])


# The command


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.microgpt", __doc__)
    parser.add_argument("--data", default="names.txt", help="one word per line (names.txt)")
    arguments = parser.parse_args(argv)
    command.run("microgpt", partial(_run, arguments.data))


def _run(path: str) -> None:
    jax.config.update("jax_enable_x64", True)
    generator = random.Random(SEED)
    documents = shuffle(command.read_words(path), generator)
    params = as_arrays(init(generator, documents.bos + 1))
    params, losses = train(params, *batches(documents, NUM_STEPS))
    for step, value in enumerate(losses.tolist(), start=1):
        print(f"step {step:4} loss {value:.10f}")
    print()
    for _ in range(NUM_SAMPLES):
        print(sample(params, documents, generator))


if __name__ == "__main__":
    main()

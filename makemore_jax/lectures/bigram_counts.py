"""Lecture 2, counting bigrams: python -m makemore_jax.lectures.bigram_counts --data names.txt

The course's first language model (https://youtu.be/PaCmpygFfXo), in two forms: a table that counts
how often one character follows another, and one layer of a neural network, which gradient descent
brings to the same table. Token 0 is the start and the end of each line and is shown as a dot. The
command prints the counts, the losses of both models and samples from the table, and draws the
count matrix as counts.png.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax import sampling
from makemore_jax.cli.arguments import Parser
from makemore_jax.cli.fields import NUM_SAMPLES, check_flag
from makemore_jax.config import SEED
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.lectures import command
from makemore_jax.models.bigram import Bigram
from makemore_jax.original_splits import lecture

MAX_SMOOTHING = 1e300  # sums of larger numbers overflow


class Statistics(NamedTuple):
    """Summary of a list of words."""

    num_lines: int
    shortest: int  # characters
    longest: int
    chars: tuple[str, ...]  # sorted


def statistics(words: Sequence[str]) -> Statistics:
    """Summarize a list of at least one word."""
    lengths = [len(word) for word in words]
    return Statistics(len(words), min(lengths), max(lengths), tuple(sorted(set("".join(words)))))


# The table


def count(words: Sequence[str], vocab: Vocab) -> np.ndarray:
    """Count how often each token (column) follows each other (row). -> (V, V) int64

    A word of n characters has n + 1 pairs, since a 0 is added at both ends. All characters must be
    in the vocabulary.
    """
    tokens = [0]
    for word in words:
        tokens += [*vocab.encode(word), 0]
    counts = np.zeros((vocab.size, vocab.size), np.int64)
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts


def count_splits(words: Sequence[str], vocab: Vocab) -> dict[str, np.ndarray]:
    """Return the count matrices of train, dev and test in the split that lectures 3 to 6 use."""
    indices = lecture(len(words), seed=42)
    return {name: count([words[i] for i in part], vocab) for name, part in indices.items()}


def most_frequent(counts: np.ndarray, num: int) -> list[tuple[int, int, int]]:
    """Return the `num` most frequent pairs in order: first token, second token, count."""
    order = np.argsort(-counts, axis=None, kind="stable")[:num]
    firsts, seconds = np.unravel_index(order, counts.shape)
    pairs = zip(firsts.tolist(), seconds.tolist(), counts[firsts, seconds].tolist(), strict=True)
    return [pair for pair in pairs if pair[2] > 0]


def probabilities(counts: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """Return P(second | first) after adding `smoothing` to each count. (V, V) float64

    Rows add up to 1. A row without counts is uniform, the limit for small smoothing. UserError
    unless 0 <= smoothing <= MAX_SMOOTHING.
    """
    if not 0 <= smoothing <= MAX_SMOOTHING:
        raise UserError(f"--smoothing: {smoothing} must be between 0 and {MAX_SMOOTHING}")
    added = counts + float(smoothing)
    totals = added.sum(axis=1, keepdims=True)
    return np.where(totals > 0, added / np.where(totals > 0, totals, 1), 1 / len(counts))


def nll(probs: np.ndarray, counts: np.ndarray) -> float:
    """Return the mean negative log likelihood of all pairs in `counts` (V, V), in nats.

    It is infinite if one of the pairs has probability 0. The log likelihood of the text is minus
    this mean times the number of pairs.
    """
    occurs = counts > 0
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs[occurs])
    return float(-(counts[occurs] * log_probs).sum() / counts.sum())


def language_model(probs: np.ndarray, vocab: Vocab, block_size: int) -> LanguageModel:
    """Return the table as a model for `sampling`. Lines have up to `block_size` - 1 characters."""
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(probs), jnp.float32)
    return LanguageModel(Bigram(vocab.size), {"params": {"logits": logits}}, vocab, block_size)


def sample(key: Array, probs: np.ndarray, vocab: Vocab, num: int, longest: int = 1000) -> list[str]:
    """Sample `num` lines. Each token is drawn from the row of the previous token, up to a 0.

    The table does not know its position in the line, so lines can have any length. They are cut at
    `longest` characters.
    """
    lines = sampling.sample(language_model(probs, vocab, longest + 1), key, num)
    return [line.text for line in lines]


# The network


def init_weights(key: Array, vocab_size: int) -> Array:
    """Draw the weights from the standard normal distribution, as in the lecture. -> W (V, V)"""
    return jax.random.normal(key, (vocab_size, vocab_size))


def network(W: Array, inputs: Array) -> Array:
    """Compute the logits of one layer without bias on one-hot inputs. W (V, V), (n,) -> (n, V)

    A one-hot vector selects a row of W. The row acts as the logarithm of counts.
    """
    one_hot = jax.nn.one_hot(inputs, len(W), dtype=W.dtype)
    return jnp.matmul(one_hot, W, precision="highest")  # the default of a GPU may round W


def network_nll(W: Array, counts: Array) -> Array:
    """Return the network's mean negative log likelihood of all pairs in `counts`, in nats.

    Equal inputs have equal logits, so the network runs once per token instead of once per pair: 27
    rows instead of the 228,146 pairs of makemore's list, with the same loss.
    """
    log_probs = jax.nn.log_softmax(network(W, jnp.arange(len(W))))
    return -(counts * log_probs).sum() / counts.sum()


def l2(W: Array) -> Array:
    """Return the lecture's regularizer, the mean square of the weights.

    At the minimum of the loss its gradient is 0, so P(j | i) = (count[i, j] - s W[i, j]) / (total
    of row i) with s = `l2_smoothing(strength, counts)`. Pairs with W < 0 gain counts, pairs with
    W > 0 lose counts. For a large strength W is near 0, and the effect is to first order that of
    adding s to each count.
    """
    return jnp.mean(W**2)


def l2_smoothing(strength: float, counts: np.ndarray) -> float:
    """Return the s of `l2` in counts: 2 strength N / V**2 for N pairs."""
    return 2 * strength * float(counts.sum()) / counts.size


def kl(W: Array) -> Array:
    """Return the regularizer that is smoothing: the sum over rows i of KL(uniform || P( . | i)).

    Up to a constant it is the sum of -log P(j | i) over all pairs, divided by V. With the strength
    `kl_strength(s, counts)` the whole loss is the negative log likelihood of the text with s added
    to the count of each pair. Its minimum is softmax(W) = `probabilities(counts, s)`.
    """
    return (-jax.nn.log_softmax(W).mean(axis=1) - math.log(len(W))).sum()


def kl_strength(smoothing: float, counts: np.ndarray) -> float:
    """Return the strength at which `kl` adds `smoothing` to each count: smoothing V / N."""
    return smoothing * len(counts) / float(counts.sum())


def steady_rate(counts: np.ndarray) -> float:
    """Return a learning rate with which no step can raise the loss without a regularizer.

    It is 1 / L for a gradient with Lipschitz constant L. Cross-entropy has L = 1/2 for its logits,
    weighted by a row's share of all pairs.
    """
    return 2 * float(counts.sum() / counts.sum(axis=1).max())


@partial(jax.jit, static_argnames=("num_steps", "regularizer"))
def train(
    W: Array,
    counts: np.ndarray | Array,
    num_steps: int,
    learning_rate: float,
    strength: float = 0.0,
    regularizer: Callable[[Array], Array] = l2,
) -> tuple[Array, Array]:
    """Minimize network_nll + strength * regularizer with gradient descent over all pairs.

    -> the new W, the negative log likelihood without the regularizer before each step (num_steps,)
    """
    counts = jnp.asarray(counts, W.dtype)  # the sum of int32 counts could overflow

    def loss(W: Array) -> tuple[Array, Array]:
        nll = network_nll(W, counts)
        return nll + strength * regularizer(W), nll

    def step(W: Array, _: None) -> tuple[Array, Array]:
        gradient, nll = jax.grad(loss, has_aux=True)(W)
        return W - learning_rate * gradient, nll

    return jax.lax.scan(step, W, length=num_steps)


# The command

STEPS = 10_000
L2 = 0.01  # the lecture's


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.bigram_counts", __doc__)
    parser.add_argument("--data", default="names.txt", help="one word per line (names.txt)")
    parser.add_argument("--out", default="runs/bigram_counts", help="folder (runs/bigram_counts)")
    parser.add_argument("--smoothing", type=float, default=1.0, help="added to each count (1)")
    parser.add_argument("--seed", type=int, default=3407, help="random seed (3407)")
    parser.add_argument("--num", type=int, default=10, help="number of samples (10)")
    arguments = parser.parse_args(argv)
    command.run("bigram_counts", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Check the arguments, draw the picture, then print the results."""
    command.need_matplotlib("counts.png")
    from makemore_jax.lectures import pictures

    words = command.read_words(arguments.data)
    check_flag("seed", arguments.seed, SEED)
    check_flag("num", arguments.num, NUM_SAMPLES)
    summary = statistics(words)
    vocab = Vocab(summary.chars)
    counts = count(words, vocab)
    probs = probabilities(counts, arguments.smoothing)
    with command.writing(Path(arguments.out), "counts.png") as file:
        pictures.bigram_table(counts, symbols(vocab), file)
    init_key, sample_key = jax.random.split(jax.random.key(arguments.seed))
    print(
        f"{arguments.data}: {summary.num_lines:,} lines of {summary.shortest} to {summary.longest} "
        f"characters, {len(vocab.chars)} different: {''.join(vocab.chars)}"
    )
    _print_table(counts, probs, symbols(vocab), arguments.smoothing)
    _print_splits(count_splits(words, vocab), arguments.smoothing)
    _print_network(counts, init_key)
    print("\nsamples from the table:")
    print("\n".join(sample(sample_key, probs, vocab, arguments.num)))
    print(f"\n{file} shows the count matrix")


def symbols(vocab: Vocab) -> list[str]:
    """Return a label for each token. Token 0 is a dot, or <> if the text contains dots."""
    return ["<>" if "." in vocab.chars else ".", *vocab.chars]


def _print_table(
    counts: np.ndarray, probs: np.ndarray, symbols: list[str], smoothing: float
) -> None:
    frequent = [f"{symbols[i]}{symbols[j]} {n:,}" for i, j, n in most_frequent(counts, 10)]
    print(f"{counts.sum():,} pairs, {(counts > 0).sum()} different; {', '.join(frequent)}")
    plain = nll(probabilities(counts, 0.0), counts)
    print(f"\nnegative log likelihood, nats per character\ncounted{plain:16.6f}")
    smoothed = nll(probs, counts)
    print(f"{f'{smoothing:g} added':14}{smoothed:9.6f}")
    print(f"log likelihood of the text: {-plain * counts.sum():,.0f} and ", end="")
    print(f"{-smoothed * counts.sum():,.0f}")


def _print_splits(counts: dict[str, np.ndarray], smoothing: float) -> None:
    if not all(table.any() for table in counts.values()):
        return  # too few lines
    probs = probabilities(counts["train"], smoothing)
    losses = [f"{name} {nll(probs, table):.6f}" for name, table in counts.items()]
    print(f"counted on 80% of the lines, {smoothing:g} added: {', '.join(losses)}")


def _print_network(counts: np.ndarray, key: Array) -> None:
    rate = steady_rate(counts)
    W = init_weights(key, len(counts))
    _, plain = train(W, counts, STEPS + 1, rate)
    _, regularized = train(W, counts, STEPS + 1, rate, L2)
    print(f"\none layer of a network, gradient descent with learning rate {rate:.3g}")
    print(f"  step            with {L2:g} L2")
    for step in (0, 10, 100, 1000, STEPS):
        print(f"{step:6,} {plain[step]:9.6f} {regularized[step]:9.6f}")


if __name__ == "__main__":
    main()

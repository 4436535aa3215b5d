"""Lecture 2, counting bigrams: python -m makemore_jax.lectures.bigram_counts --data names.txt

The course's first language model (https://youtu.be/PaCmpygFfXo), twice: as a table of how often
one character follows another, and as one layer of a neural network that gradient descent brings
to the same table. Token 0 stands before and after each line and is shown as a dot. The command
prints what it counts, the loss of both models and lines drawn from the table, and draws the
matrix as counts.png.
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
from makemore_jax.cli import missing_file
from makemore_jax.data import files
from makemore_jax.data.lines import split_lines
from makemore_jax.data.splits import SPLITS
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.lectures import command
from makemore_jax.models.bigram import Bigram


class Statistics(NamedTuple):
    """What a list of words looks like from afar."""

    num_lines: int
    shortest: int  # characters
    longest: int
    chars: tuple[str, ...]  # those that occur, sorted


def statistics(words: Sequence[str]) -> Statistics:
    """The statistics of a list of at least one word."""
    lengths = [len(word) for word in words]
    return Statistics(len(words), min(lengths), max(lengths), tuple(sorted(set("".join(words)))))


# The table


def count(words: Sequence[str], vocab: Vocab) -> np.ndarray:
    """How often the second token follows the first, over all lines. -> (V, V) int64

    A word of n characters, all of them known, has n + 1 pairs: a 0 stands at both of its ends.
    """
    tokens = [0]
    for word in words:
        tokens += [*vocab.encode(word), 0]
    counts = np.zeros((vocab.size, vocab.size), np.int64)
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts


def count_splits(words: Sequence[str], vocab: Vocab) -> dict[str, np.ndarray]:
    """The count matrices of train, dev and test, as the lectures from part 3 on split the list."""
    indices = SPLITS["lecture"](len(words), seed=42)
    return {name: count([words[i] for i in chosen], vocab) for name, chosen in indices.items()}


def most_frequent(counts: np.ndarray, num: int) -> list[tuple[int, int, int]]:
    """At most `num` pairs that occur: first token, second token, count; the most frequent leads."""
    order = np.argsort(-counts, axis=None, kind="stable")[:num]
    firsts, seconds = np.unravel_index(order, counts.shape)
    found = zip(firsts.tolist(), seconds.tolist(), counts[firsts, seconds].tolist(), strict=True)
    return [pair for pair in found if pair[2] > 0]


def probabilities(counts: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """P(second | first) after `smoothing` is added to each count; rows add up to 1. (V, V) float64

    A row without any count is uniform: with smoothing it is, and without it that is the limit.
    UserError unless the smoothing is a number, 0 or above.
    """
    if not 0 <= smoothing < math.inf:
        raise UserError(f"--smoothing: {smoothing} must be a number, 0 or above")
    added = counts + float(smoothing)
    totals = added.sum(axis=1, keepdims=True)
    return np.where(totals > 0, added / np.where(totals > 0, totals, 1), 1 / len(counts))


def nll(probs: np.ndarray, counts: np.ndarray) -> float:
    """The mean negative log likelihood, in nats, of all the pairs that `counts` holds (V, V).

    Infinite where one of them has probability 0. Times the number of pairs and with its sign
    turned it is the log likelihood of the text.
    """
    occurs = counts > 0
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs[occurs])
    return float(-(counts[occurs] * log_probs).sum() / counts.sum())


def language_model(probs: np.ndarray, vocab: Vocab, block_size: int) -> LanguageModel:
    """The table as the model that `sampling` draws from and scores with.

    Drawn lines are cut at `block_size` - 1 characters.
    """
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(probs), jnp.float32)
    return LanguageModel(Bigram(vocab.size), {"params": {"logits": logits}}, vocab, block_size)


def sample(key: Array, probs: np.ndarray, vocab: Vocab, num: int, longest: int = 1000) -> list[str]:
    """Draw `num` lines, each token from the row of the one before, up to a 0.

    The table forgets where it is in a line, so that no length is out of the question: what has
    more than `longest` characters is cut there.
    """
    lines = sampling.sample(language_model(probs, vocab, longest + 1), key, num)
    return [line.text for line in lines]


# The network


def init_weights(key: Array, vocab_size: int) -> Array:
    """As the lecture starts: from the standard normal distribution. -> W (V, V)"""
    return jax.random.normal(key, (vocab_size, vocab_size))


def network(W: Array, inputs: Array) -> Array:
    """The logits of one layer without a bias, on one-hot inputs. W (V, V), (n,) -> (n, V)

    A one-hot vector picks a row of W, which is therefore the log counts that the layer believes in.
    """
    one_hot = jax.nn.one_hot(inputs, len(W), dtype=W.dtype)
    return jnp.matmul(one_hot, W, precision="highest")  # else a GPU may round W to fewer bits


def network_nll(W: Array, counts: Array) -> Array:
    """The mean negative log likelihood in nats of all the pairs that `counts` holds. -> ()

    The network sees each token once and not once for each pair, since equal inputs have equal
    logits: 27 rows for the 228,146 pairs of makemore's list, and the same loss.
    """
    log_probs = jax.nn.log_softmax(network(W, jnp.arange(len(W))))
    return -(counts * log_probs).sum() / counts.sum()


def l2(W: Array) -> Array:
    """The lecture's regulariser: the mean square of the weights. -> ()

    Where the loss is smallest, its gradient of 0 says that P(j | i) = (count[i, j] - s W[i, j]) /
    row total, with s = `l2_smoothing` of its strength: a pair below the mean of its row in W is
    lent counts by those above it. Under a large strength, that is near W = 0, this is to first
    order the same as s added to each count.
    """
    return jnp.mean(W**2)


def l2_smoothing(strength: float, counts: np.ndarray) -> float:
    """The s of `l2`, in counts: 2 strength N / V**2 for N pairs."""
    return 2 * strength * float(counts.sum()) / counts.size


def kl(W: Array) -> Array:
    """The regulariser that is smoothing: KL(uniform || P( . | i)), added up over the rows i. -> ()

    Up to a constant it is the sum of -log P(j | i) over all pairs, divided by V. Under a strength
    of `kl_strength` the whole loss is therefore the likelihood of the text with s more of each
    pair, and smallest exactly where softmax(W) is `probabilities(counts, s)`.
    """
    return (-jax.nn.log_softmax(W).mean(axis=1) - math.log(len(W))).sum()


def kl_strength(smoothing: float, counts: np.ndarray) -> float:
    """The strength under which `kl` adds `smoothing` to each count: smoothing V / N."""
    return smoothing * len(counts) / float(counts.sum())


def steady_rate(counts: np.ndarray) -> float:
    """A learning rate with which, without a regulariser, no step can raise the loss.

    It is 1 / L for a gradient that changes by no more than L times the way: that of a softmax has
    L = 1/2, and a row has its part of all pairs as weight.
    """
    return 2 * float(counts.sum() / counts.sum(axis=1).max())


@partial(jax.jit, static_argnames=("num_steps", "regulariser"))
def train(
    W: Array,
    counts: np.ndarray | Array,
    num_steps: int,
    learning_rate: float,
    strength: float = 0.0,
    regulariser: Callable[[Array], Array] = l2,
) -> tuple[Array, Array]:
    """Gradient descent on network_nll + strength * regulariser, over all pairs at each step.

    -> the new W, and the negative log likelihood alone before each step (num_steps,).
    """
    counts = jnp.asarray(counts, W.dtype)  # integers of 32 bits may have no room for their sum

    def loss(W: Array) -> tuple[Array, Array]:
        nll_alone = network_nll(W, counts)
        return nll_alone + strength * regulariser(W), nll_alone

    def step(W: Array, _: None) -> tuple[Array, Array]:
        gradient, nll_alone = jax.grad(loss, has_aux=True)(W)
        return W - learning_rate * gradient, nll_alone

    return jax.lax.scan(step, W, length=num_steps)


# The command

STEPS = 10_000
L2 = 0.01  # the lecture's


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser("bigram_counts", __doc__)
    parser.add_argument("--data", default="names.txt", help="one word per line (names.txt)")
    parser.add_argument("--out", default="runs/bigram_counts", help="folder (runs/bigram_counts)")
    parser.add_argument("--smoothing", type=float, default=1.0, help="added to each count (1)")
    parser.add_argument("--seed", type=int, default=3407, help="of all that is drawn (3407)")
    parser.add_argument("--num", type=int, default=10, help="how many lines are drawn (10)")
    arguments = parser.parse_args(argv)
    command.run("bigram_counts", lambda: _tell(arguments))


def _tell(arguments: argparse.Namespace) -> None:
    """Check everything, draw the picture, then print."""
    command.need_matplotlib("counts.png")
    from makemore_jax.lectures import pictures

    words = _read(arguments.data)
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed: {arguments.seed} must be between 0 and 4294967295")
    if arguments.num < 1:
        raise UserError(f"--num: {arguments.num} must be at least 1")
    found = statistics(words)
    vocab = Vocab(found.chars)
    counts = count(words, vocab)
    probs = probabilities(counts, arguments.smoothing)
    with command.writing(Path(arguments.out), "counts.png") as file:
        pictures.bigram_table(counts, symbols(vocab), file)
    init_key, sample_key = jax.random.split(jax.random.key(arguments.seed))
    print(
        f"{arguments.data}: {found.num_lines:,} lines of {found.shortest} to {found.longest} "
        f"characters, {len(vocab.chars)} different: {''.join(vocab.chars)}"
    )
    _print_table(counts, probs, symbols(vocab), arguments.smoothing)
    _print_splits(count_splits(words, vocab), arguments.smoothing)
    _print_network(counts, init_key)
    print("\ndrawn from the table:")
    print("\n".join(sample(sample_key, probs, vocab, arguments.num)))
    print(f"\n{file} shows the matrix")


def _read(path: str) -> list[str]:
    """The words of a file. UserError if it can't be read or has none."""
    with command.reading_data(), missing_file.suggesting_fixes():
        text, _ = files.read(path, "utf-8")
    words = split_lines(text)
    if not words:
        raise UserError(f"--data: {path} is empty; it needs one word per line")
    return words


def symbols(vocab: Vocab) -> list[str]:
    """What is shown for each token: for the 0 a dot, or <> where the text has dots of its own."""
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
    print(f"log likelihood of the whole: {-plain * counts.sum():,.0f} and ", end="")
    print(f"{-smoothed * counts.sum():,.0f}")


def _print_splits(counts: dict[str, np.ndarray], smoothing: float) -> None:
    if not all(each.any() for each in counts.values()):
        return  # too few lines
    probs = probabilities(counts["train"], smoothing)
    losses = [f"{name} {nll(probs, each):.6f}" for name, each in counts.items()]
    print(f"counted on 80% of the lines, {smoothing:g} added: {', '.join(losses)}")


def _print_network(counts: np.ndarray, key: Array) -> None:
    rate = steady_rate(counts)
    W = init_weights(key, len(counts))
    _, plain = train(W, counts, STEPS + 1, rate)
    _, regularised = train(W, counts, STEPS + 1, rate, L2)
    print(f"\nthe same as one layer of a network, gradient descent at rate {rate:.3g}")
    print(f"  step            with {L2:g} L2")
    for step in (0, 10, 100, 1000, STEPS):
        print(f"{step:6,} {plain[step]:9.6f} {regularised[step]:9.6f}")


if __name__ == "__main__":
    main()

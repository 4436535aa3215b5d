"""Lecture 7, attention in four versions: python -m makemore_jax.lectures.attention

Each position collects information from the positions before it (https://youtu.be/kCc8FmEb1nY).
The simplest way is to average them. The first three versions compute this average: with a loop,
with one product with a triangular matrix, and with a softmax over scores of 0. In the fourth the
scores come from queries and keys, and the average becomes self-attention. The command prints the
result of each version for a short sequence, shows why the scores are scaled, and draws both as
attention.png.

B batch, T time, S time of the source sequence, C channels, hs head size.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import entr

from makemore_jax.cli.arguments import Parser
from makemore_jax.lectures import command


def average_by_loop(x: Array) -> Array:
    """Average each position with all positions before it, in a loop. (B, T, C) -> (B, T, C)"""
    return jnp.stack([x[:, : t + 1].mean(axis=1) for t in range(x.shape[1])], axis=1)


def average_by_product(x: Array) -> Array:
    """Compute the same average as a product: row t of the matrix is 1 / (t + 1) up to t."""
    mask = causal_mask(x.shape[1]).astype(x.dtype)
    weights = mask / mask.sum(axis=1, keepdims=True)  # each row adds up to 1
    return weights @ x  # (T, T) @ (B, T, C) -> (B, T, C)


def average_by_softmax(x: Array) -> Array:
    """Compute the same average with softmax: the scores are 0 for the past, -inf for the future."""
    T = x.shape[1]
    scores = jnp.where(causal_mask(T), jnp.zeros((T, T), x.dtype), -jnp.inf)
    return jax.nn.softmax(scores) @ x


def causal_mask(T: int) -> Array:
    """Return a mask (T, T): query t (row) may attend to keys (columns) up to t."""
    return jnp.tril(jnp.ones((T, T), bool))


class Head(NamedTuple):
    """The parameters of one head, without biases as in the lecture."""

    query: Array  # (C, hs): what a position looks for
    key: Array  # (C, hs): what a position offers
    value: Array  # (C, hs): what a position sends


def init_head(key: Array, n_embd: int, head_size: int) -> Head:
    """Draw normal weights that keep the variance: inputs of variance 1 give queries of 1."""
    keys = jax.random.split(key, len(Head._fields))
    scale = n_embd**-0.5
    return Head(*(scale * jax.random.normal(k, (n_embd, head_size)) for k in keys))


def attention_weights(q: Array, k: Array, mask: Array | None = None, scaled: bool = True) -> Array:
    """Return the weight of each key for each query. (B, T, hs), (B, S, hs) -> (B, T, S)

    The weights of a query add up to 1. `mask` (T, S) or (B, T, S) is True for keys that a query may
    attend to. A query without any such key gets nan. `scaled` divides the scores by sqrt(hs)
    (Vaswani et al. 2017, section 3.2.1); `measure_scores` shows why.
    """
    scores = jnp.einsum("bth,bsh->bts", q, k)
    if scaled:
        scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores)


def cross_attention(params: Head, x: Array, source: Array, mask: Array | None = None) -> Array:
    """Attend from x (B, T, C) to a source (B, S, C). -> (B, T, hs)

    Queries come from x, keys and values from the source. A decoder reads the text to translate in
    this way (Vaswani et al. 2017, section 3.2.3).
    """
    weights = attention_weights(x @ params.query, source @ params.key, mask)
    return weights @ (source @ params.value)  # (B, T, S) @ (B, S, hs) -> (B, T, hs)


def self_attention(params: Head, x: Array, mask: Array | None = None) -> Array:
    """Attend within one sequence. (B, T, C) -> (B, T, hs)

    With `causal_mask(T)` this is a decoder's attention, the fourth version of the average. Without
    a mask it is an encoder's: every position attends to all others, and their order has no effect.
    """
    return cross_attention(params, x, x, mask)


class ScoreStatistics(NamedTuple):
    """Statistics of the scores of random queries and keys, and of their softmax."""

    variance: Array  # () of the scores
    entropy: Array  # () mean entropy of a query's weights in nats; log S if they are equal
    largest: Array  # () mean of a query's largest weight; 1 if a single key has all the weight


@partial(jax.jit, static_argnames=("head_size", "scaled", "num_queries", "num_keys"))
def measure_scores(
    key: Array, head_size: int, scaled: bool, num_queries: int = 1000, num_keys: int = 8
) -> ScoreStatistics:
    """Measure the scores of queries and keys with N(0, 1) entries.

    A score is a sum of hs products of variance 1, so its variance is hs. The softmax of such scores
    is near 0 for all but the largest, and so are its gradients. Divided by sqrt(hs), the scores
    have variance 1 for any hs (Vaswani et al. 2017, section 3.2.1, footnote 4).
    """
    query_key, key_key = jax.random.split(key)
    # Each query has its own keys, so all scores are independent.
    q = jax.random.normal(query_key, (num_queries, 1, head_size))
    k = jax.random.normal(key_key, (num_queries, num_keys, head_size))
    scores = jnp.einsum("bth,bsh->bts", q, k) * (head_size**-0.5 if scaled else 1.0)
    weights = attention_weights(q, k, scaled=scaled)
    entropy = entr(weights).sum(axis=-1)  # 0 for a weight that underflows to 0
    return ScoreStatistics(scores.var(), entropy.mean(), weights.max(axis=-1).mean())


HEAD_SIZES = (1, 4, 16, 64, 256)


def compare_scaling(
    key: Array, head_sizes: Sequence[int] = HEAD_SIZES
) -> dict[int, tuple[ScoreStatistics, ScoreStatistics]]:
    """Return (unscaled, scaled) statistics of `measure_scores` for each head size."""
    return {
        size: (measure_scores(key, size, scaled=False), measure_scores(key, size, scaled=True))
        for size in head_sizes
    }


def curves(
    measured: dict[int, tuple[ScoreStatistics, ScoreStatistics]],
) -> dict[str, np.ndarray]:
    """Arrange the result of `compare_scaling` for `pictures.score_scaling`: (2, N) by title."""
    titles = {
        "entropy of a query's weights, nats": "entropy",
        "largest of a query's weights": "largest",
    }
    return {
        title: np.array([[getattr(s, field) for s in pair] for pair in measured.values()]).T
        for title, field in titles.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.attention", __doc__)
    parser.add_argument("--out", default="runs/attention", help="folder (runs/attention)")
    folder = Path(parser.parse_args(argv).out)
    command.run("attention", lambda: _run(folder))


def _run(folder: Path) -> None:
    """Compute everything, draw the picture, then print the results."""
    command.need_matplotlib("attention.png")
    from makemore_jax.lectures import pictures

    data_key, head_key, source_key, score_key = jax.random.split(jax.random.key(0), 4)
    T, C = 5, 2
    x, mask = jax.random.normal(data_key, (1, T, C)), causal_mask(T)
    average = Head(query=jnp.zeros((C, C)), key=jnp.zeros((C, C)), value=jnp.eye(C))
    head = init_head(head_key, C, C)
    source = jax.random.normal(source_key, (1, 3, C))
    versions = {
        "x": x,
        "loop": average_by_loop(x),
        "product": average_by_product(x),
        "softmax": average_by_softmax(x),
        "attention of 0": self_attention(average, x, mask),
        "attention": self_attention(head, x, mask),
        "without mask": self_attention(head, x),
        "across": cross_attention(head, x, source),
    }
    one_hot = jnp.eye(T)[None]  # averaging it returns the weights
    q, k = x @ head.query, x @ head.key
    weights = {
        "loop": average_by_loop(one_hot),
        "product": average_by_product(one_hot),
        "softmax of masked zeros": average_by_softmax(one_hot),
        "self-attention": attention_weights(q, k, mask),
        "without mask": attention_weights(q, k),
        "across another sequence": attention_weights(q, source @ head.key),
    }
    measured = compare_scaling(score_key)
    with command.writing(folder, "attention.png") as file:
        tables = {name: np.asarray(a[0]) for name, a in weights.items()}
        pictures.attention(tables, list(measured), curves(measured), file)

    print("x, and its past at each position by loop, product, softmax, attention with queries and")
    print("keys of 0, and attention with random ones; then without a mask, and across a source.\n")
    for name, y in versions.items():
        positions = (f"{first:7.3f} {second:6.3f}" for first, second in y[0].tolist())
        print(f"{name:<14} {'  '.join(positions)}")
    averages = [versions[name] for name in ("product", "softmax", "attention of 0")]
    apart = max(float(jnp.abs(y - versions["loop"]).max()) for y in averages)
    print(f"\nThe four averages differ by {apart:.1e} at most.\n")
    print("Scores of 8 keys, unscaled and divided by the square root of the head size:")
    print("  head size   variance       entropy        largest weight")
    for size, (plain, scaled) in measured.items():
        pairs = (f"{float(a):7.3f} {float(b):6.3f}" for a, b in zip(plain, scaled, strict=True))
        print(f"{size:>11} {' '.join(pairs)}")
    print(f"\n{file} shows the weights of each version, and both measures")


if __name__ == "__main__":
    main()

"""The token embeddings of a model in two dimensions."""

from typing import NamedTuple

import numpy as np

from makemore_jax.decoding import LanguageModel


class Projection(NamedTuple):
    """Points projected onto their first two principal components."""

    points: np.ndarray  # (N, 2)
    shares: np.ndarray  # (2,) shares of the variance


def project_embeddings(lm: LanguageModel) -> Projection | None:
    """Project the embeddings of all tokens. None for a model without embeddings."""
    wte = lm.variables["params"].get("wte")
    if wte is None:
        return None
    # The MLP has one more row, the padding before the start of a line.
    return project(np.asarray(wte["embedding"])[: lm.vocab.size])


def project(rows: np.ndarray) -> Projection:
    """Compute the first two principal components of rows (N, C).

    The sign of a component is arbitrary. Here its coordinate of largest magnitude is positive.
    """
    rows = rows.astype(np.float64)
    centered = rows - rows.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    # Two columns of zeros, since there are fewer than two components if C or N is 1.
    u, s = (np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 2)]) for a in (u, s))
    points = (u * s)[:, :2]
    largest = points[np.abs(points).argmax(axis=0), [0, 1]]
    variance = s**2
    shares = variance[:2] / max(variance.sum(), 1e-300)
    return Projection(points * np.where(largest < 0, -1, 1), shares)

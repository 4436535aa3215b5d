"""Figures of a model: embeddings, attention weights, bigram tables."""

from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax.plots import fonts, style
from makemore_jax.plots.style import matplotlib, plt
from makemore_jax.report.bigrams import BigramTables
from makemore_jax.report.embeddings import Projection
from makemore_jax.report.labels import char_class

COLORS = {
    "vowel": "tab:red",
    "consonant": "tab:blue",
    "letter": "tab:green",
    "mark": "tab:purple",
    "number": "tab:orange",
    "punctuation": "tab:brown",
    "other": "0.45",
}


MAX_MOVED = 200  # more labels than this would not fit into the figure


def characters(projection: Projection, labels: list[str], file: Path) -> None:
    """Draw the label of each token at its point, colored by its class.

    Labels that would overlap are moved apart. A line connects each of them to its point. With more
    than MAX_MOVED tokens, each is a dot, and those with space around them have a label.
    """
    figure, ax = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
    size = min(10.0, 80 / min(len(labels), MAX_MOVED) ** 0.5)  # font size in points
    extent = float(np.ptp(projection.points, axis=0).max()) or 1.0
    distance = 1.25 * size * extent / (72 * 3.5)  # the axes are about 3.5 inches wide
    is_crowded = len(labels) > MAX_MOVED
    positions = projection.points if is_crowded else separate(projection.points, distance)
    moved = np.linalg.norm(positions - projection.points, axis=1) > 0.3 * distance
    for start, end in zip(projection.points[moved], positions[moved], strict=True):
        ax.plot(*zip(start, end, strict=True), color="0.6", linewidth=0.6, zorder=1)
    classes = [char_class(label) for label in labels]
    for name, color in COLORS.items():
        members = positions[[c == name for c in classes]]
        if len(members):
            area = 4 if is_crowded else (1.2 * size) ** 2
            ax.scatter(*members.T, s=area, color=color, alpha=0.18, linewidths=0, label=name)
    labels = fonts.drawable(labels)
    has_label = uncrowded(positions, 2 * distance) if is_crowded else [True] * len(labels)
    text_style = {"ha": "center", "va": "center", "weight": "bold"}
    for i in np.flatnonzero(has_label):
        (x, y), label, name = positions[i], labels[i], classes[i]
        fontsize = size if len(label) <= 2 else 0.6 * size  # U+4E2D
        ax.text(x, y, label, color=COLORS[name], fontsize=fontsize, **text_style)
    ax.set_xlabel(f"first component, {projection.shares[0]:.0%} of the variance")
    ax.set_ylabel(f"second component, {projection.shares[1]:.0%}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    style.save(figure, file)


def separate(points: np.ndarray, distance: float, rounds: int = 500) -> np.ndarray:
    """Move points (N, 2) apart to this minimum distance, in at most `rounds` iterations."""
    # Equal points have no direction between them, so first move each point a little.
    angles = 2.4 * np.arange(len(points))
    positions = points + 1e-6 * distance * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for _ in range(rounds):
        between = positions[:, None] - positions  # (N, N, 2)
        gaps = np.linalg.norm(between, axis=-1)
        np.fill_diagonal(gaps, np.inf)
        overlap = np.maximum(distance - gaps, 0)
        if overlap.max() < 0.01 * distance:
            break
        moves = 0.5 * (between * (overlap / gaps)[..., None]).sum(axis=1)
        sizes = np.linalg.norm(moves, axis=1, keepdims=True)
        positions = positions + moves * np.minimum(1, 0.2 * distance / np.maximum(sizes, 1e-30))
    return positions


def uncrowded(points: np.ndarray, distance: float) -> np.ndarray:
    """Return a mask (N,) of points (N, 2) with at least this distance between any two of them."""
    kept: list[int] = []
    for i, point in enumerate(points):
        if (np.linalg.norm(points[kept] - point, axis=1) >= distance).all():
            kept.append(i)
    return np.isin(np.arange(len(points)), kept)


def attention(weights: np.ndarray, labels: list[str], file: Path) -> None:
    """Draw the weights (nh, T, T) of a layer, one panel per head, with T labels."""
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4, 1.85 * rows * 2 / columns), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(weights) :]:
        ax.set_visible(False)
    for head, (table, ax) in enumerate(zip(weights, axes.flat, strict=False), start=1):
        ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"head {head}", fontsize=8, pad=3)
        _label_both(ax, labels, inches=3 / columns)
    style.save(figure, file)


def bigrams(table: np.ndarray, labels: list[str], largest: float, file: Path) -> None:
    """Draw p(next | current) as a table (V, V). `largest` is the end of the color scale."""
    # Most probabilities are small. On a linear scale they would all look white.
    norm = matplotlib.colors.PowerNorm(0.5, 0, largest)
    _table(table, labels, file, cmap="Blues", norm=norm)


def difference(tables: BigramTables, labels: list[str], file: Path) -> None:
    """Draw learned minus counted probabilities. Pairs that the model overestimates are red."""
    table = tables.learned - tables.counted
    largest = float(np.nanmax(np.abs(table))) or 1.0
    _table(table, labels, file, cmap="RdBu_r", vmin=-largest, vmax=largest)


def _table(table: np.ndarray, labels: list[str], file: Path, **scale: Any) -> None:
    figure, ax = plt.subplots(figsize=(4.6, 4.9), layout="constrained")
    ax.set_facecolor("0.85")  # the color of nan, which imshow leaves out
    image = ax.imshow(table, **scale)
    figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=30, pad=0.02)
    _label_both(ax, labels, inches=4)
    ax.set_ylabel("current")
    style.save(figure, file)


def _label_both(ax: Any, labels: list[str], inches: float) -> None:
    """Label rows and columns of an image of this width; skip labels that do not fit."""
    spacing = 72 * inches / len(labels)  # in points
    every = max(1, int(np.ceil(5 / spacing)))
    ticks = range(0, len(labels), every)
    size = min(9.0, max(5.0, 0.75 * spacing * every))
    labels = fonts.drawable(labels)
    ax.set_xticks(ticks, [labels[i] for i in ticks], fontsize=size)
    ax.set_yticks(ticks, [labels[i] for i in ticks], fontsize=size)
    ax.tick_params(length=0, pad=2, labeltop=True, labelbottom=False, top=False)
    for side in ax.spines.values():
        side.set_color("0.8")

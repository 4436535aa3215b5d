"""Figures of what a model has learned: embeddings, attention, bigrams."""

from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax import report
from makemore_jax.plots import style
from makemore_jax.plots.style import matplotlib, plt
from makemore_jax.report import Bigrams, Plane

COLORS = {"vowel": "tab:red", "consonant": "tab:blue", "other": "0.45"}


def characters(plane: Plane, labels: list[str], file: Path) -> None:
    """Each token at its position in the plane; vowels, consonants and others by color.

    Tokens that would overlap are moved apart; a line leads from each of them to its position.
    """
    figure, ax = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
    size = min(10.0, 80 / len(labels) ** 0.5)  # font size in points
    extent = float(np.ptp(plane.points, axis=0).max()) or 1.0
    distance = 1.25 * size * extent / (72 * 3.5)  # the axes are about 3.5 inches wide
    places = separate(plane.points, distance)
    moved = np.linalg.norm(places - plane.points, axis=1) > 0.3 * distance
    for start, end in zip(plane.points[moved], places[moved], strict=True):
        ax.plot(*zip(start, end, strict=True), color="0.6", linewidth=0.6, zorder=1)
    kinds = [report.kind_of(label) for label in labels]
    for kind, color in COLORS.items():
        of_kind = places[[k == kind for k in kinds]]
        if len(of_kind):
            area = (1.2 * size) ** 2
            ax.scatter(*of_kind.T, s=area, color=color, alpha=0.18, linewidths=0, label=kind)
    text_style = {"ha": "center", "va": "center", "weight": "bold", "fontsize": size}
    for (x, y), label, kind in zip(places, labels, kinds, strict=True):
        ax.text(x, y, label, color=COLORS[kind], **text_style)
    ax.set_xlabel(f"first component, {plane.shares[0]:.0%} of the variance")
    ax.set_ylabel(f"second component, {plane.shares[1]:.0%}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    style.save(figure, file)


def separate(points: np.ndarray, distance: float, rounds: int = 500) -> np.ndarray:
    """Move points (N, 2) apart until all have this distance, for `rounds` rounds at most."""
    # Points at the same position have no direction between them; each gets its own.
    angles = 2.4 * np.arange(len(points))
    places = points + 1e-6 * distance * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for _ in range(rounds):
        between = places[:, None] - places  # (N, N, 2)
        gaps = np.linalg.norm(between, axis=-1)
        np.fill_diagonal(gaps, np.inf)
        overlap = np.maximum(distance - gaps, 0)
        if overlap.max() < 0.01 * distance:
            break
        moves = 0.5 * (between * (overlap / gaps)[..., None]).sum(axis=1)
        sizes = np.linalg.norm(moves, axis=1, keepdims=True)
        places = places + moves * np.minimum(1, 0.2 * distance / np.maximum(sizes, 1e-30))
    return places


def attention(weights: np.ndarray, labels: list[str], file: Path) -> None:
    """Each head of a layer, weights (nh, T, T), in two columns; T labels."""
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4, 1.85 * rows * 2 / columns), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(weights) :]:
        ax.set_visible(False)
    for head, (of_head, ax) in enumerate(zip(weights, axes.flat, strict=False), start=1):
        ax.imshow(of_head, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"head {head}", fontsize=8, pad=3)
        _label_both(ax, labels, inches=3 / columns)
    style.save(figure, file)


def bigrams(table: np.ndarray, labels: list[str], largest: float, file: Path) -> None:
    """p(next | current) as a table (V, V), on a scale that is the same for all up to `largest`."""
    # The root, because most of these are small, and what tells them apart would all be white.
    norm = matplotlib.colors.PowerNorm(0.5, 0, largest)
    _table(table, labels, file, cmap="Blues", norm=norm)


def difference(found: Bigrams, labels: list[str], file: Path) -> None:
    """Learnt less counted: red where the model gives a pair too much."""
    table = found.learnt - found.counted
    most = float(np.nanmax(np.abs(table))) or 1.0
    _table(table, labels, file, cmap="RdBu_r", vmin=-most, vmax=most)


def _table(table: np.ndarray, labels: list[str], file: Path, **scale: Any) -> None:
    figure, ax = plt.subplots(figsize=(4.6, 4.9), layout="constrained")
    ax.set_facecolor("0.85")  # what is not known, nan, is not drawn
    image = ax.imshow(table, **scale)
    figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=30, pad=0.02)
    _label_both(ax, labels, inches=4)
    ax.set_ylabel("current")
    style.save(figure, file)


def _label_both(ax: Any, labels: list[str], inches: float) -> None:
    """The labels along both sides of an image so large; as many as there is room for."""
    room = 72 * inches / len(labels)  # points for each
    every = max(1, int(np.ceil(5 / room)))
    at = range(0, len(labels), every)
    size = min(9.0, max(5.0, 0.75 * room * every))
    ax.set_xticks(at, [labels[i] for i in at], fontsize=size)
    ax.set_yticks(at, [labels[i] for i in at], fontsize=size)
    ax.tick_params(length=0, pad=2, labeltop=True, labelbottom=False, top=False)
    for side in ax.spines.values():
        side.set_color("0.8")

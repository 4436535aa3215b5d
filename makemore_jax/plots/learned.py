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
    """Each token at its place in the plane; vowels, consonants and all else in their colours."""
    figure, ax = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
    kinds = [report.kind_of(label) for label in labels]
    for kind, color in COLORS.items():
        found = plane.points[[k == kind for k in kinds]]
        if len(found):
            ax.scatter(*found.T, s=150, color=color, alpha=0.18, linewidths=0, label=kind)
    for (x, y), label, kind in zip(plane.points, labels, kinds, strict=True):
        ax.text(x, y, label, color=COLORS[kind], ha="center", va="center", weight="bold")
    ax.set_xlabel(f"first component, {plane.shares[0]:.0%} of the variance")
    ax.set_ylabel(f"second component, {plane.shares[1]:.0%}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.grid(color="0.92")
    ax.legend(fontsize=8, markerscale=0.6)
    style.save(figure, file)


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

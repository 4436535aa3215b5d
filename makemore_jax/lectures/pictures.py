"""Figures of the lectures, for files and for notebooks.

Each function takes plain arrays and returns a closed figure, which a notebook shows as the value of
a cell. With `file` it also saves the figure. This module imports matplotlib.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import FuncNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from makemore_jax.plots import fonts
from makemore_jax.report.labels import char_class

MAX_LABELED = 64  # tokens; the cells of larger tables have no space for text
CELL = 0.5  # inches


def bigram_table(
    counts: np.ndarray, symbols: Sequence[str], file: str | Path | None = None
) -> Figure:
    """Draw the count matrix (V, V). Each cell has a shade, its pair and its count.

    `symbols` has a label per token. Rows are first characters, columns are second characters.
    With more than MAX_LABELED tokens the cells have only the shade.
    """
    V, symbols = len(symbols), fonts.drawable(symbols)
    side = CELL * min(V, MAX_LABELED) + 1
    figure, ax = plt.subplots(figsize=(side, side), layout="constrained")
    norm = PowerNorm(
        0.5, vmin=0, vmax=max(counts.max(), 1)
    )  # on a linear scale almost all cells look white
    ax.imshow(counts, cmap="Blues", norm=norm)
    ax.set_xlabel("second character")
    ax.set_ylabel("first character")
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    ax.set_xticks([])
    ax.set_yticks([])
    if V <= MAX_LABELED:
        # parse_math=False: a $ is a character here, not the start of a formula.
        ax.set_xticks(range(V), symbols, parse_math=False)
        ax.set_yticks(range(V), symbols, parse_math=False)
        for (i, j), count in np.ndenumerate(counts):
            color = "white" if norm(count) > 0.6 else "0.55" if count == 0 else "black"
            style = {"ha": "center", "color": color, "parse_math": False, "in_layout": False}
            ax.text(j, i - 0.05, symbols[i] + symbols[j], va="bottom", fontsize=10, **style)
            ax.text(j, i + 0.08, str(count), va="top", fontsize=8, **style)
    return _finish(figure, file, dpi=76)


# The figures below are 1,000 pixels wide. Their text is legible at half that size.


def attention(
    weights: Mapping[str, np.ndarray],
    head_sizes: Sequence[int],
    measures: Mapping[str, np.ndarray],
    file: str | Path | None = None,
) -> Figure:
    """Draw the figures of `attention_weights` and `score_scaling` above each other."""
    height = _height_of_weights(weights)
    figure = plt.figure(figsize=(6.25, height + 2.3), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[height, 2.3])
    _draw_weights(above, weights)
    _draw_scaling(below, head_sizes, measures)
    return _finish(figure, file)


def attention_weights(weights: Mapping[str, np.ndarray], file: str | Path | None = None) -> Figure:
    """Draw the weight of each key (column) for each query (row): (T, S) tables by title."""
    figure = plt.figure(figsize=(6.25, _height_of_weights(weights)), layout="constrained")
    _draw_weights(figure, weights)
    return _finish(figure, file)


def score_scaling(
    head_sizes: Sequence[int], measures: Mapping[str, np.ndarray], file: str | Path | None = None
) -> Figure:
    """Draw measures of softmax by head size: (2, N) by title, unscaled and scaled scores."""
    figure = plt.figure(figsize=(6.25, 2.3), layout="constrained")
    _draw_scaling(figure, head_sizes, measures)
    return _finish(figure, file)


def _height_of_weights(weights: Mapping[str, np.ndarray]) -> float:
    """Return the height in inches, with three tables per row."""
    return 2.35 * -(-len(weights) // 3)


def _draw_weights(figure: Any, weights: Mapping[str, np.ndarray]) -> None:
    figure.supxlabel("key", fontsize=9)
    figure.supylabel("query", fontsize=9)
    axes = figure.subplots(-(-len(weights) // 3), 3, squeeze=False)
    for ax in axes.flat[len(weights) :]:
        ax.set_visible(False)
    for ax, (name, table) in zip(axes.flat, weights.items(), strict=False):
        ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(name, fontsize=9, pad=4)
        ax.set_xticks(range(table.shape[1]), range(1, table.shape[1] + 1), fontsize=8)
        ax.set_yticks(range(len(table)), range(1, len(table) + 1), fontsize=8)
        ax.tick_params(length=0, pad=2)
        for (t, s), weight in np.ndenumerate(table):
            color = "white" if weight > 0.6 else "0.6" if weight == 0 else "black"
            text = f"{weight:.2f}" if weight % 1 else f"{weight:.0f}"
            ax.text(s, t, text, ha="center", va="center", fontsize=8, color=color)


def _draw_scaling(
    figure: Any, head_sizes: Sequence[int], measures: Mapping[str, np.ndarray]
) -> None:
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    for ax, (title, (plain, scaled)) in zip(axes, measures.items(), strict=True):
        ax.semilogx(head_sizes, plain, "s--", label="unscaled scores", markersize=4)
        ax.semilogx(head_sizes, scaled, "o-", label="divided by root of head size", markersize=4)
        ax.set_title(title, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.set_xticks(head_sizes, head_sizes, fontsize=8)
        ax.minorticks_off()
        ax.tick_params(axis="y", labelsize=8)
        ax.set_xlabel("head size", fontsize=9)
        ax.grid(color="0.92")
    axes[-1].legend(fontsize=8)


def logit_gradients(
    dlogits: np.ndarray, x: np.ndarray, symbols: Sequence[str], file: str | Path | None = None
) -> Figure:
    """Draw the gradient of the loss with respect to the logits (B, V) of windows x (B, T).

    The sign is flipped: a step of gradient descent raises blue entries. The color scale is a square
    root, because most gradients are small.
    """
    (B, V), symbols = dlogits.shape, fonts.drawable(symbols)
    figure, ax = plt.subplots(figsize=(6.25, 7.6), layout="constrained")
    largest = float(np.abs(dlogits).max())
    root = FuncNorm((_signed_root, _signed_square), vmin=-largest, vmax=largest)
    image = ax.imshow(-dlogits, cmap="RdBu", norm=root, aspect="auto")
    ax.set_xticks([])
    if V <= MAX_LABELED:
        ax.set_xticks(range(V), symbols, fontsize=9, parse_math=False)
    windows = ["".join(symbols[token] for token in window) for window in x.tolist()]
    ax.set_yticks(range(B), windows, fontsize=8, family=_monospace(), parse_math=False)
    ax.tick_params(length=0, pad=3)
    ax.set_title(
        "minus the gradient of the loss with respect to the logits\n"
        "positive for the target, negative for all others; each row sums to 0",
        fontsize=9,
    )
    ax.set_xlabel("next character", fontsize=9)
    ax.set_ylabel("context", fontsize=9)
    ticks = [-largest, -largest / 10, 0, largest / 10, largest]
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=35, ticks=ticks)
    bar.ax.set_xticklabels([f"{tick:.3f}" for tick in ticks], fontsize=8)
    return _finish(figure, file)


def _signed_root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * x**2


def losses(
    losses: np.ndarray,
    first_half: int,
    rates: tuple[float, float],
    file: str | Path | None = None,
) -> Figure:
    """Draw the losses (steps,), averaged to about 200 points, and the drop of the learning rate."""
    width = max(1, len(losses) // 200)
    whole = len(losses) // width * width
    means = losses[:whole].reshape(-1, width).mean(axis=1)
    figure, ax = plt.subplots(figsize=(6.25, 3.8), layout="constrained")
    ax.plot(np.arange(len(means)) * width + width / 2, means, linewidth=1.5)
    ax.axvline(first_half, color="0.5", linewidth=1, linestyle="--")
    for rate, align, prefix in zip(rates, ("right", "left"), ("learning rate ", ""), strict=True):
        ax.annotate(
            f"{prefix}{rate:g}", (first_half, 0.93), (-6 if prefix else 6, 0), fontsize=9,
            xycoords=("data", "axes fraction"), textcoords="offset points", ha=align,
        )  # fmt: skip
    ax.set_title(
        f"training loss, mean of each {width:,} steps" if width > 1 else "training loss", fontsize=9
    )
    ax.set_ylabel("nats per character", fontsize=9)
    ax.set_xlabel("step", fontsize=9)
    ax.set_xlim(0, len(losses))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.tick_params(labelsize=8)
    ax.grid(color="0.92")
    return _finish(figure, file)


def loss_curves(curves: Mapping[str, np.ndarray], file: str | Path | None = None) -> Figure:
    """Draw the loss curves of several runs, (steps,) by label, averaged to about 100 points.

    The y axis ends a little above the largest loss after the first tenth of the steps, so that the
    first steps do not flatten the rest.
    """
    figure, ax = plt.subplots(figsize=(6.25, 3.6), layout="constrained")
    lows, tops = [], []
    for label, losses in curves.items():
        width = max(1, len(losses) // 100)
        means = losses[: len(losses) // width * width].reshape(-1, width).mean(axis=1)
        ax.plot((np.arange(len(means)) + 0.5) * width, means, label=label, linewidth=1.5)
        lows.append(means.min())
        tops.append(means[len(means) // 10 :].max())
    margin = 0.1 * (max(tops) - min(lows))
    ax.set_ylim(min(lows) - margin, max(tops) + margin)
    ax.set_title("training loss", fontsize=9)
    ax.set_ylabel("nats per character", fontsize=9)
    ax.set_xlabel("step", fontsize=9)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.tick_params(labelsize=8)
    ax.grid(color="0.92")
    if len(curves) > 1:
        ax.legend(fontsize=8)
    return _finish(figure, file)


def characters(
    points: np.ndarray, symbols: Sequence[str], file: str | Path | None = None
) -> Figure:
    """Draw each token as its symbol at its point, (V, 2). Vowels are red, other letters blue."""
    figure, ax = plt.subplots(figsize=(6.25, 5.2), layout="constrained")
    for (x, y), symbol, shown in zip(points, symbols, fonts.drawable(symbols), strict=True):
        color = "tab:red" if char_class(symbol) == "vowel" else "tab:blue"
        style = {"ha": "center", "va": "center", "weight": "bold", "parse_math": False}
        ax.text(x, y, shown, color=color, fontsize=11, **style)
    ax.update_datalim(points)
    ax.margins(0.08)
    ax.autoscale_view()
    ax.tick_params(labelsize=8)
    ax.grid(color="0.92")
    return _finish(figure, file)


def histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]], file: str | Path | None = None
) -> Figure:
    """Draw the densities of arrays: one panel per title, one line per label."""
    size = 6.25, 2.9 * len(panels)
    figure, axes = plt.subplots(len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, (title, arrays) in zip(axes[:, 0], panels.items(), strict=True):
        for label, values in arrays.items():
            density, edges = np.histogram(values, bins=50, density=True)
            label = f"{label}, std {np.std(values):.2g}"
            ax.plot((edges[:-1] + edges[1:]) / 2, density, label=label, linewidth=1.5)
        ax.set_title(title, fontsize=9)
        ax.set_yticks([])
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=8)
        ax.ticklabel_format(axis="x", scilimits=(-3, 4))
        ax.grid(color="0.92")
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _finish(figure, file)


def tree(symbols: Sequence[str], fuse: int, file: str | Path | None = None) -> Figure:
    """Draw how layers that join `fuse` neighbors reduce a window of symbols to one vector."""
    figure, ax = plt.subplots(figsize=(6.25, 2.8), layout="constrained")
    places, height = np.arange(len(symbols), dtype=float), 0
    style = {"ha": "center", "va": "center", "fontsize": 11, "parse_math": False}
    for x, symbol in zip(places, fonts.drawable(symbols), strict=True):
        ax.text(x, -0.35, symbol, family=_monospace(), **style)
    while len(places) > 1:
        groups = places.reshape(-1, fuse)
        for group in groups:
            for x in group:
                ax.plot([x, group.mean()], [height, height + 1], color="0.6", zorder=1)
        ax.scatter(places, np.full(len(places), height), s=60, color="tab:blue", zorder=2)
        places, height = groups.mean(axis=1), height + 1
    ax.scatter(places, [height], s=60, color="tab:red", zorder=2)
    ax.set_xlim(-0.5, len(symbols) - 0.5)
    ax.set_ylim(-0.6, height + 0.3)
    names = ["embeddings", *(f"layer {layer}" for layer in range(1, height + 1))]
    ax.set_yticks(range(height + 1), names, fontsize=9)
    ax.set_xticks([])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return _finish(figure, file)


def _monospace() -> list[str]:
    """Return the monospaced font, and the fonts of characters that it lacks."""
    return ["monospace", *matplotlib.rcParams["font.family"]]


def _finish(figure: Figure, file: str | Path | None, dpi: int = 160) -> Figure:
    """Save the figure, if a file is given, and close it: a notebook shows open figures twice."""
    if file is not None:
        figure.savefig(file, dpi=dpi)
    plt.close(figure)
    return figure

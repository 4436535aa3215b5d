"""Pictures of the lectures. Knows matplotlib, so it is imported only where something is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draws into files, also where there is no display
from matplotlib import pyplot as plt
from matplotlib.colors import FuncNorm, PowerNorm
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from makemore_jax.lectures.attention import ScoreStatistics

MOST_LABELLED = 64  # tokens; in the cells of more there is no room for text
CELL = 0.5  # inches


def bigram_table(counts: np.ndarray, symbols: Sequence[str], file: str | Path) -> None:
    """The count matrix (V, V), each cell with its pair above its count, darker where it is larger.

    `symbols` are what is shown for each token. Rows are first characters, columns second ones.
    Above MOST_LABELLED tokens there is only the shade.
    """
    V = len(symbols)
    side = CELL * min(V, MOST_LABELLED) + 1
    figure, ax = plt.subplots(figsize=(side, side), layout="constrained")
    norm = PowerNorm(0.5, vmin=0, vmax=max(counts.max(), 1))  # else all but a few would be white
    ax.imshow(counts, cmap="Blues", norm=norm)
    ax.set_xlabel("second character")
    ax.set_ylabel("first character")
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    ax.set_xticks([])
    ax.set_yticks([])
    if V <= MOST_LABELLED:
        # A $ is a character here, and not the beginning of a formula.
        ax.set_xticks(range(V), symbols, parse_math=False)
        ax.set_yticks(range(V), symbols, parse_math=False)
        for (i, j), count in np.ndenumerate(counts):
            color = "white" if norm(count) > 0.6 else "0.55" if count == 0 else "black"
            given = {"ha": "center", "color": color, "parse_math": False, "in_layout": False}
            ax.text(j, i - 0.05, symbols[i] + symbols[j], va="bottom", fontsize=10, **given)
            ax.text(j, i + 0.08, str(count), va="top", fontsize=8, **given)
    figure.savefig(file, dpi=76)
    plt.close(figure)


# What follows is 1,000 pixels wide, with letters that can be read at half of that.


def attention(
    weights: Mapping[str, np.ndarray],
    measured: "Mapping[int, Sequence[ScoreStatistics]]",
    file: str | Path,
) -> None:
    """How much each query (row) takes of each key (column), (T, S) by name; and what scaling does.

    `measured` has for each head size what softmax makes of the scores as they are, and scaled.
    """
    rows = -(-len(weights) // 3)
    figure = plt.figure(figsize=(6.25, 2.35 * rows + 2.3), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.35 * rows, 2.3])
    above.supxlabel("key", fontsize=9)
    above.supylabel("query", fontsize=9)
    axes = above.subplots(rows, 3, squeeze=False)
    for ax, (name, table) in zip(axes.flat, weights.items(), strict=False):
        ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(name, fontsize=9, pad=4)
        ax.set_xticks(range(table.shape[1]), range(1, table.shape[1] + 1), fontsize=8)
        ax.set_yticks(range(len(table)), range(1, len(table) + 1), fontsize=8)
        ax.tick_params(length=0, pad=2)
        for (t, s), weight in np.ndenumerate(table):
            color = "white" if weight > 0.6 else "0.6" if weight == 0 else "black"
            told = f"{weight:.2f}" if weight % 1 else f"{weight:.0f}"
            ax.text(s, t, told, ha="center", va="center", fontsize=8, color=color)

    sizes = list(measured)
    for ax, field, told in zip(
        below.subplots(1, 2),
        ("entropy", "largest"),
        ("entropy of a query's weights, nats", "largest of a query's weights"),
        strict=True,
    ):
        for i, label in enumerate(("scores as they are", "divided by root of head size")):
            found = [float(getattr(measured[size][i], field)) for size in sizes]
            ax.semilogx(sizes, found, "o-" if i else "s--", label=label, markersize=4)
        ax.set_title(told, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.set_xticks(sizes, sizes, fontsize=8)
        ax.minorticks_off()
        ax.tick_params(axis="y", labelsize=8)
        ax.set_xlabel("head size", fontsize=9)
        ax.grid(color="0.92")
    ax.legend(fontsize=8)
    _save(figure, file)


def logit_gradients(
    dlogits: np.ndarray, x: np.ndarray, symbols: Sequence[str], file: str | Path
) -> None:
    """The gradient of the loss by the logits (B, V) of windows x (B, T).

    Its sign is turned, so that blue is what a step pushes up. Shades follow the root of a number,
    because those pulled down are many and small.
    """
    B, V = dlogits.shape
    figure, ax = plt.subplots(figsize=(6.25, 7.6), layout="constrained")
    most = float(np.abs(dlogits).max())
    root = FuncNorm((_signed_root, _signed_square), vmin=-most, vmax=most)
    image = ax.imshow(-dlogits, cmap="RdBu", norm=root, aspect="auto")
    ax.set_xticks([])
    if V <= MOST_LABELLED:
        ax.set_xticks(range(V), symbols, fontsize=9, parse_math=False)
    told = ["".join(symbols[token] for token in window) for window in x.tolist()]
    ax.set_yticks(range(B), told, fontsize=8, family="monospace", parse_math=False)
    ax.tick_params(length=0, pad=3)
    ax.set_title(
        "minus the gradient of the loss by each logit\n"
        "up for the right character, down for all others; each row sums to 0",
        fontsize=9,
    )
    ax.set_xlabel("next character", fontsize=9)
    ax.set_ylabel("the characters before", fontsize=9)
    ends = [-most, -most / 10, 0, most / 10, most]
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=35, ticks=ends)
    bar.ax.set_xticklabels([f"{end:.3f}" for end in ends], fontsize=8)
    _save(figure, file)


def _signed_root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * x**2


def losses(
    losses: np.ndarray, first_half: int, rates: tuple[float, float], file: str | Path
) -> None:
    """The loss of each step (steps,), as 200 means or a few more, and where the rate falls."""
    width = max(1, len(losses) // 200)
    whole = len(losses) // width * width
    means = losses[:whole].reshape(-1, width).mean(axis=1)
    figure, ax = plt.subplots(figsize=(6.25, 3.8), layout="constrained")
    ax.plot(np.arange(len(means)) * width + width / 2, means, linewidth=1.5)
    ax.axvline(first_half, color="0.5", linewidth=1, linestyle="--")
    for rate, align, told in zip(rates, ("right", "left"), ("learning rate ", ""), strict=True):
        ax.annotate(
            f"{told}{rate:g}", (first_half, 0.93), (-6 if told else 6, 0), fontsize=9,
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
    _save(figure, file)


def _save(figure: Any, file: str | Path) -> None:
    figure.savefig(file, dpi=160)
    plt.close(figure)

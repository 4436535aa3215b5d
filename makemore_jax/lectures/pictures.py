"""Pictures of the lectures. Knows matplotlib, so it is imported only where something is drawn."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draws into files, also where there is no display
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm

MOST_LABELLED = 64  # tokens; in the cells of more there is no room for text
CELL = 0.6  # inches


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
    figure.savefig(file, dpi=100)
    plt.close(figure)

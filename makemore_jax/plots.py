"""Pictures. The only file that knows matplotlib."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draws into files, also where there is no display
from matplotlib import pyplot as plt


def paired_curves(curves: dict[str, dict[str, list[float]]], file: Path) -> None:
    """For each name two curves over each other, and their absolute difference below (log scale).

    `curves` is {name: {side: losses}} with two sides each.
    """
    columns = min(4, len(curves))
    bands = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        2 * bands,
        columns,
        figsize=(4 * columns, 4.2 * bands),
        height_ratios=[3, 2] * bands,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for i, (name, sides) in enumerate(curves.items()):
        band, column = divmod(i, columns)
        above, below = axes[2 * band, column], axes[2 * band + 1, column]
        for (side, losses), style in zip(sides.items(), ("-", "--"), strict=True):
            above.plot(range(1, len(losses) + 1), losses, style, label=side, linewidth=1.5)
        above.set_title(name)
        above.legend()
        first, second = sides.values()
        difference = np.abs(np.subtract(first, second))
        steps = np.arange(1, len(difference) + 1)[difference > 0]  # a logarithm has no place for 0
        below.semilogy(steps, difference[difference > 0], ".", color="k", markersize=3)
        below.set_xlabel("step")
        if column == 0:
            above.set_ylabel("loss (nats per token)")
            below.set_ylabel("difference")
    for ax in axes.flat[:0:-1]:
        if not ax.has_data():
            ax.set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)

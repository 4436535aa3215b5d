"""Shared by all figures: matplotlib without a display, a step axis, legends, saving."""

import os
from pathlib import Path
from typing import Any

from makemore_jax.errors import UserError

try:
    import matplotlib
except ModuleNotFoundError:
    raise UserError("figures need matplotlib: pip install matplotlib") from None

if "inline" not in os.environ.get("MPLBACKEND", ""):  # a notebook keeps its own backend
    matplotlib.use("Agg")  # draws to files and needs no display

from matplotlib import pyplot as plt


def steps_on_x_axis(ax: Any) -> None:
    ax.set_xlabel("step")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(color="0.92")


def legend_below(figure: Any, ax: Any) -> None:
    names = ax.get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def layer_name(name: str) -> str:
    """Return the name of a layer, derived from the name of its matrix."""
    return name.removesuffix(".kernel").removesuffix(".embedding")


def save(figure: Any, file: Path, dpi: int = 160) -> None:
    figure.savefig(file, dpi=dpi)
    plt.close(figure)

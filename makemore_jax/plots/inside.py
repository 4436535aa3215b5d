"""Figures of what train.diagnose_every recorded inside a network."""

from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax.history import Histogram, Inside
from makemore_jax.plots import style
from makemore_jax.plots.style import matplotlib, plt


def draw(found: Inside, folder: Path) -> None:
    """What a run found inside, as far as there is something to draw: a bigram has no layers."""
    steps, first, last = found.steps, found.first, found.last
    for title, file, by_matrix, rule in (
        ("update / weights", "inside_updates.png", found.update_to_data, 1e-3),
        ("gradient / weights", "inside_ratios.png", found.grad_to_data, None),
    ):
        is_known = any(ratio > 0 for values in by_matrix.values() for ratio in values)
        if is_known and len(steps) > 1:
            ratios(steps, by_matrix, title, folder / file, rule)
    if found.saturated and len(steps) > 1:
        panels = {"saturated": found.saturated, "dead units": found.dead}
        shares(steps, panels, folder / "inside_saturated.png")
    for kind in ("activations", "activation_gradients"):
        looks = {look.step: getattr(look, kind) for look in (first, last)}
        if any(looks.values()):
            histograms(looks, kind.replace("_", " "), folder / f"inside_{kind}.png")
    if last.gradients:
        file = folder / "inside_gradients.png"
        histograms({last.step: last.gradients}, "gradients of the weights", file, in_stds=True)


MOST_NAMES = 24  # in a legend: of more lines every second, third, ... is named, and the last


def ratios(
    steps: list[int], found: dict[str, list[float]], title: str, file: Path, rule: float | None
) -> None:
    """A line for each matrix on a logarithmic scale, with a rule of thumb where there is one."""
    size = 4.6, 3.2 + 0.18 * _rows_of_legend(len(found))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    if rule:
        label = f"{rule:g}, rule of thumb"
        ax.axhline(rule, color="0.8", linewidth=4, zorder=0, label=label)
    _by_depth(ax, steps, found, title)
    ax.set_yscale("log")
    style.legend_below(figure, ax)
    style.save(figure, file)


def shares(steps: list[int], panels: dict[str, dict[str, list[float]]], file: Path) -> None:
    """{title: {layer: shares}} with the same layers in each, below each other."""
    layers = next(iter(panels.values()))
    size = 4.6, 2 * len(panels) + 0.18 * _rows_of_legend(len(layers))
    figure, axes = plt.subplots(len(panels), figsize=size, sharex=True, layout="constrained")
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        _by_depth(ax, steps, found, title)
        ax.yaxis.set_major_formatter("{x:.0%}")
        ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        top = max(0.05, ax.get_ylim()[1])  # so that a few values in a thousand look like few
        ax.set_ylim(-0.03 * top, top)
        ax.label_outer()
    style.legend_below(figure, axes[0])
    style.save(figure, file)


def _by_depth(ax: Any, steps: list[int], found: dict[str, list[float]], title: str) -> None:
    """A line for each name, in their order from blue, near the input, to red."""
    colors = 0.9 * plt.get_cmap("turbo")(np.linspace(0.08, 0.95, len(found)))[:, :3]
    every = -(-len(found) // MOST_NAMES)
    for i, ((name, values), color) in enumerate(zip(found.items(), colors, strict=True)):
        line_style = ("-", "--", "-.", ":")[i % 4] + ("o" if len(steps) < 30 else "")
        is_named = i % every == 0 or i == len(found) - 1
        label = style.layer_name(name) if is_named else "_"  # which a legend leaves out
        ax.plot(steps, values, line_style, color=color, label=label, linewidth=1.3, markersize=2)
    ax.set_title(title, fontsize=10)
    style.steps_on_x_axis(ax)


def _rows_of_legend(num: int) -> int:
    return -(-min(num, MOST_NAMES + 1) // 2)


def histograms(
    looks: dict[int, dict[str, Histogram]], title: str, file: Path, in_stds: bool = False
) -> None:
    """{step: {name: histogram}}: a row for each name, filled, and an outline for an earlier step.

    Each is as high as its row, whatever its counts are, with its standard deviation beside it;
    `in_stds`: as wide as the others too, since across is what number of those it is.
    """
    names = list(dict.fromkeys(name for look in looks.values() for name in look))
    size = 4.6, 1 + max(0.8, (0.52 if len(looks) > 1 else 0.3) * len(names))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    *before, last = looks
    ends = []
    for step, look in looks.items():
        color = {"color": "tab:blue" if step == last else "0.3"}
        height = 0.65 if step in before else 0.15 if before else 0.4  # of its std in the row
        for i, (name, of) in enumerate(look.items()):
            row, unit = names.index(name), (of.std or 1.0) if in_stds else 1.0
            _beside(ax, row - height, f"{of.std:.2g}", **color)
            label = f"step {step:,}" if i == 0 else None
            _one_histogram(ax, of, row, unit, is_filled=step == last, label=label, **color)
            reach = of.mean + of.std * np.array([-5, 5])  # few are further out
            ends += (np.clip([of.low, of.high], *reach) / unit).tolist()
    margin = 0.02 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_ylim(len(names) - 0.85, -1)
    _beside(ax, -1.15, "std")
    ax.set_yticks(np.arange(len(names)) - 0.4, map(style.layer_name, names), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.ticklabel_format(axis="x", scilimits=(-2, 3))
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
    for side in ("left", "top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_title(title, fontsize=10)
    if in_stds:
        ax.set_xlabel("standard deviations")
    style.legend_below(figure, ax)
    style.save(figure, file)


def _one_histogram(
    ax: Any, of: Histogram, row: int, unit: float, is_filled: bool, **style: Any
) -> None:
    tops = row - 0.85 * np.array(of.counts) / max(of.counts)
    edges = np.linspace(of.low, of.high, len(tops) + 1) / unit
    if of.low == of.high:  # a single number has no width
        ax.vlines(edges[0], row - 0.85, row, **style)
    elif is_filled:
        ax.stairs(tops, edges, baseline=row, fill=True, alpha=0.6, **style)
    else:
        ax.stairs(tops, edges, baseline=row, **style)


def _beside(ax: Any, at: float, text: str, **style: Any) -> None:
    """Text to the right of the axes."""
    place = ax.get_yaxis_transform()
    ax.text(1.2, at, text, transform=place, fontsize=8, ha="right", va="center", **style)

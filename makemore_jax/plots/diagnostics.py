"""Figures of the layer statistics that train.diagnose_every recorded."""

from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax.plots import style
from makemore_jax.plots.style import matplotlib, plt
from makemore_jax.report.history import Diagnostics, Histogram

MAX_LEGEND_NAMES = 24  # with more lines, the legend names every second, third, ... and the last


def draw(diagnostics: Diagnostics, folder: Path) -> None:
    """Draw all figures that the data allows. A bigram, for example, has no layers."""
    steps, first, last = diagnostics.steps, diagnostics.first, diagnostics.last
    for title, file, by_matrix, rule in (
        ("update / weights", "inside_updates.png", diagnostics.update_to_data, 1e-3),
        ("gradient / weights", "inside_ratios.png", diagnostics.grad_to_data, None),
    ):
        is_known = any(ratio > 0 for values in by_matrix.values() for ratio in values)
        if is_known and len(steps) > 1:
            ratios(steps, by_matrix, title, folder / file, rule)
    if diagnostics.saturated and len(steps) > 1:
        panels = {"saturated": diagnostics.saturated, "dead units": diagnostics.dead}
        shares(steps, panels, folder / "inside_saturated.png")
    for kind in ("activations", "activation_gradients"):
        snapshots = {snapshot.step: getattr(snapshot, kind) for snapshot in (first, last)}
        if any(snapshots.values()):
            histograms(snapshots, kind.replace("_", " "), folder / f"inside_{kind}.png")
    if last.gradients:
        file = folder / "inside_gradients.png"
        histograms({last.step: last.gradients}, "gradients of the weights", file, in_stds=True)


def ratios(
    steps: list[int], by_matrix: dict[str, list[float]], title: str, file: Path, rule: float | None
) -> None:
    """Draw a line for each matrix on a log scale, and a gray line at `rule`, a rule of thumb."""
    size = 4.6, 3.2 + 0.18 * _legend_rows(len(by_matrix))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    if rule:
        label = f"{rule:g}, rule of thumb"
        ax.axhline(rule, color="0.8", linewidth=4, zorder=0, label=label)
    _draw_lines(ax, steps, by_matrix, title)
    ax.set_yscale("log")
    style.legend_below(figure, ax)
    style.save(figure, file)


def shares(steps: list[int], panels: dict[str, dict[str, list[float]]], file: Path) -> None:
    """Draw panels {title: {layer: shares}} below each other. All have the same layers."""
    layers = next(iter(panels.values()))
    size = 4.6, 2 * len(panels) + 0.18 * _legend_rows(len(layers))
    figure, axes = plt.subplots(len(panels), figsize=size, sharex=True, layout="constrained")
    for ax, (title, by_layer) in zip(axes, panels.items(), strict=True):
        _draw_lines(ax, steps, by_layer, title)
        ax.yaxis.set_major_formatter("{x:.0%}")
        ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        top = max(0.05, ax.get_ylim()[1])  # at least 5%, so that tiny shares look tiny
        ax.set_ylim(-0.03 * top, top)
        ax.label_outer()
    style.legend_below(figure, axes[0])
    style.save(figure, file)


def _draw_lines(ax: Any, steps: list[int], lines: dict[str, list[float]], title: str) -> None:
    """Draw a line for each name, colored by its index from blue (input) to red (output)."""
    colors = 0.9 * plt.get_cmap("turbo")(np.linspace(0.08, 0.95, len(lines)))[:, :3]
    every = -(-len(lines) // MAX_LEGEND_NAMES)
    for i, ((name, values), color) in enumerate(zip(lines.items(), colors, strict=True)):
        line_style = ("-", "--", "-.", ":")[i % 4] + ("o" if len(steps) < 30 else "")
        is_named = i % every == 0 or i == len(lines) - 1
        label = style.layer_name(name) if is_named else "_"  # a legend ignores this label
        ax.plot(steps, values, line_style, color=color, label=label, linewidth=1.3, markersize=2)
    ax.set_title(title, fontsize=10)
    style.steps_on_x_axis(ax)


def _legend_rows(num: int) -> int:
    return -(-min(num, MAX_LEGEND_NAMES + 1) // 2)


def histograms(
    snapshots: dict[int, dict[str, Histogram]], title: str, file: Path, in_stds: bool = False
) -> None:
    """Draw {step: {name: histogram}}, one row per name: the last step filled, earlier as outlines.

    All histograms have the same height. Their standard deviations are printed next to them. With
    `in_stds` the x axis is in units of the standard deviation, so all have a similar width too.
    """
    names = list(dict.fromkeys(name for by_name in snapshots.values() for name in by_name))
    size = 4.6, 1 + max(0.8, (0.52 if len(snapshots) > 1 else 0.3) * len(names))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    *earlier, last = snapshots
    ends = []
    for step, by_name in snapshots.items():
        color = {"color": "tab:blue" if step == last else "0.3"}
        text_height = 0.65 if step in earlier else 0.15 if earlier else 0.4  # within the row
        for i, (name, histogram) in enumerate(by_name.items()):
            row, unit = names.index(name), (histogram.std or 1.0) if in_stds else 1.0
            _text_right_of(ax, row - text_height, f"{histogram.std:.2g}", **color)
            label = f"step {step:,}" if i == 0 else None
            _draw_histogram(ax, histogram, row, unit, is_filled=step == last, label=label, **color)
            reach = histogram.mean + histogram.std * np.array([-5, 5])  # outliers are cut off
            ends += (np.clip([histogram.low, histogram.high], *reach) / unit).tolist()
    margin = 0.02 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_ylim(len(names) - 0.85, -1)
    _text_right_of(ax, -1.15, "std")
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


def _draw_histogram(
    ax: Any, histogram: Histogram, row: int, unit: float, is_filled: bool, **style: Any
) -> None:
    tops = row - 0.85 * np.array(histogram.counts) / max(histogram.counts)
    edges = np.linspace(histogram.low, histogram.high, len(tops) + 1) / unit
    if histogram.low == histogram.high:  # all values are equal, so the bins have no width
        ax.vlines(edges[0], row - 0.85, row, **style)
    elif is_filled:
        ax.stairs(tops, edges, baseline=row, fill=True, alpha=0.6, **style)
    else:
        ax.stairs(tops, edges, baseline=row, **style)


def _text_right_of(ax: Any, y: float, text: str, **style: Any) -> None:
    """Write text to the right of the axes."""
    transform = ax.get_yaxis_transform()
    ax.text(1.2, y, text, transform=transform, fontsize=8, ha="right", va="center", **style)

"""The figure of a sweep."""

from pathlib import Path
from typing import Any

from makemore_jax.plots import style
from makemore_jax.plots.style import plt


def draw_sweep(rows: list[Any], file: Path) -> None:
    """Draw the best dev loss against the first swept field, one line per value of the others.

    `rows` come from `sweep.aggregate_seeds`. The band is the range over seeds. A cross at the
    upper edge marks a combination with a seed that diverged.
    """
    names = list(rows[0].values)
    lines: dict[str, list[Any]] = {}
    for row in rows:
        label = ", ".join(f"{name.rpartition('.')[2]} {row.values[name]}" for name in names[1:])
        lines.setdefault(label, []).append(row)
    firsts = [row.values[names[0]] for row in rows]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in firsts)
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for label, points in lines.items():
        x = [row.values[names[0]] if is_number else str(row.values[names[0]]) for row in points]
        (line,) = ax.plot(x, [row.mean for row in points], "o-", label=label, markersize=4)
        low, high = [row.low for row in points], [row.high for row in points]
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        diverged = [value for value, row in zip(x, points, strict=True) if row.diverged]
        transform = ax.get_xaxis_transform()
        ax.plot(diverged, [0.97] * len(diverged), "x", color=line.get_color(), transform=transform)
    if any(row.diverged for row in rows):
        ax.plot([], [], "x", color="0.3", label="diverged")
    if is_number and min(firsts) > 0 and max(firsts) >= 10 * min(firsts):
        ax.set_xscale("log")
    best = min(
        (row for row in rows if row.mean == row.mean), key=lambda row: row.mean, default=None
    )
    if best is not None:
        value = best.values[names[0]]
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        ax.set_title(f"lowest mean: {best.mean:.4f} at {text}", fontsize=10)
    ax.set_xlabel(names[0])
    ax.set_ylabel("best dev loss (nats per token)")
    if len(names) > 1 or any(row.diverged for row in rows):
        handles, labels = ax.get_legend_handles_labels()
        labeled = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
        ax.legend(*zip(*labeled, strict=True), fontsize=8)
    style.save(figure, file, dpi=120)

"""Figures of losses and learning rates by step."""

from pathlib import Path
from typing import Any

import numpy as np

from makemore_jax.plots import style
from makemore_jax.plots.style import plt
from makemore_jax.report.history import Curves


def loss_curves(curves: Curves, best_step: int, file: Path) -> None:
    """Draw train and dev loss by step, and mark the best step."""
    figure, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    for split, points in (("train", curves.train_loss), ("dev", curves.dev_loss)):
        steps, losses = zip(*points, strict=True) if points else ((), ())
        is_train = split == "train"
        ax.plot(
            steps,
            losses,
            "-" if is_train else "o-",
            label="train, mean since the last point" if is_train else split,
            color="tab:blue" if is_train else "tab:orange",
            linewidth=1.2,
            alpha=0.6 if is_train else 1,
            markersize=3,
        )
    best = dict(curves.dev_loss).get(best_step)
    if best is not None:
        ax.axvline(best_step, color="0.6", linewidth=0.8, zorder=0)
        ax.plot(best_step, best, "*", color="k", markersize=9, label=f"best, {best:.4f}")
    ax.set_title(f"loss, best at step {best_step:,}", fontsize=10)
    ax.set_ylabel("nats per character")
    style.steps_on_x_axis(ax)
    ax.legend(fontsize=8)
    style.save(figure, file)


def learning_rate(curves: Curves, best_step: int, file: Path) -> None:
    """Draw the learning rate of the steps so far."""
    figure, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    steps, rates = zip(*curves.learning_rate, strict=True)
    ax.plot(steps, rates, color="tab:green", linewidth=1.5)
    ax.axvline(best_step, color="0.6", linewidth=0.8, zorder=0)
    ax.set_ylim(0, 1.08 * max(rates))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    ax.set_title("learning rate", fontsize=10)
    style.steps_on_x_axis(ax)
    style.save(figure, file)


def paired_curves(curves: dict[str, dict[str, list[float]]], file: Path) -> None:
    """Draw pairs of curves, each with its absolute difference on a log scale below it.

    `curves` is {title: {label: losses}} with two labels each.
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
    for i, (title, pair) in enumerate(curves.items()):
        band, column = divmod(i, columns)
        above, below = axes[2 * band, column], axes[2 * band + 1, column]
        for (label, losses), line_style in zip(pair.items(), ("-", "--"), strict=True):
            above.plot(range(1, len(losses) + 1), losses, line_style, label=label, linewidth=1.5)
        above.set_title(title)
        above.legend()
        first, second = pair.values()
        difference = np.abs(np.subtract(first, second))
        steps = np.arange(1, len(difference) + 1)[difference > 0]  # a log scale has no 0
        below.semilogy(steps, difference[difference > 0], ".", color="k", markersize=3)
        below.set_xlabel("step")
        if column == 0:
            above.set_ylabel("loss (nats per token)")
            below.set_ylabel("difference")
    for ax in axes.flat[:0:-1]:
        if not ax.has_data():
            ax.set_visible(False)
    style.save(figure, file, dpi=120)


def losses_and_layers(lines: list[dict[str, Any]], file: Path) -> None:
    """Draw the losses of a run, and its activations before the first and after the last step.

    `lines` are the lines of metrics.jsonl, of a run with train.diagnose_every.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained")
    for name, line_style in (("train_loss", "-"), ("dev_loss", "o-")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        label = "train, by batches" if name == "train_loss" else "dev"
        axes[0].plot(*zip(*points, strict=True), line_style, label=label, linewidth=1, markersize=3)
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 3.5))  # the first losses are much larger
    axes[0].set_title("loss, nats per character", fontsize=9)
    axes[0].legend(fontsize=8)
    style.steps_on_x_axis(axes[0])
    diagnosed = [line for line in lines if "activations" in line]
    for ax, line in zip(axes[1:], (diagnosed[0], diagnosed[-1]), strict=True):
        shares = line["saturated"]
        for layer, histogram in line["activations"].items():
            density = np.array(histogram["counts"]) / max(sum(histogram["counts"]), 1)
            label = f"{layer}, {shares[layer]:.0%} saturated"
            edges = np.linspace(histogram["low"], histogram["high"], len(density) + 1)
            ax.stairs(density * len(density) / np.ptp(edges), edges, label=label)
        ax.set_title(f"activations after {line['step']:,} steps", fontsize=9)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "frameon": False}
        ax.legend(fontsize=8, ncols=2 if len(shares) > 1 else 1, **below)
        ax.grid(color="0.92")
    style.save(figure, file, dpi=100)

"""Pictures of runs. But for the lectures', the only file that knows matplotlib.

    python -m makemore_jax.plots --workdir runs/transformer
    python -m makemore_jax.plots --workdir runs/transformer --names emma,olivia --num 50

Draws what the best model of a run has learnt, into plots/ of its folder: PNGs, and index.html with
all of them in it, which needs neither a network nor the other files. It shows the loss and the
learning rate; what train.diagnose_every found inside; samples, and the training lines nearest to
them; how surprising each character of some names is, and where attention looks in them; the
characters' embeddings; and the bigrams.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from makemore_jax import command_line, page, report, startup
from makemore_jax.errors import UserError
from makemore_jax.history import Curves, Histogram, Inside
from makemore_jax.report import Bigrams, Plane, Report

MISSING = "pictures need matplotlib: pip install matplotlib"
try:
    import matplotlib

    matplotlib.use("Agg")  # draws into files, also where there is no display
    from matplotlib import pyplot as plt
except ModuleNotFoundError:
    if __name__ != "__main__":  # else main says so, where it ends in one line
        raise UserError(MISSING) from None
    plt = None


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


def sweep(rows: list[Any], file: Path) -> None:
    """Best dev loss against the first swept field, a line for each combination of the others.

    `rows` are those of `sweep.over_seeds`; the band is the spread over seeds, a cross at the upper
    edge a combination of which a seed diverged.
    """
    names = list(rows[0].values)
    lines: dict[str, list[Any]] = {}
    for row in rows:
        label = ", ".join(f"{name.rpartition('.')[2]} {row.values[name]}" for name in names[1:])
        lines.setdefault(label, []).append(row)
    firsts = [row.values[names[0]] for row in rows]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in firsts)
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for label, found in lines.items():
        x = [row.values[names[0]] if is_number else str(row.values[names[0]]) for row in found]
        (line,) = ax.plot(x, [row.mean for row in found], "o-", label=label, markersize=4)
        low, high = [row.low for row in found], [row.high for row in found]
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        gone = [value for value, row in zip(x, found, strict=True) if row.diverged]
        ax.plot(
            gone,
            [0.97] * len(gone),
            "x",
            color=line.get_color(),
            transform=ax.get_xaxis_transform(),
        )
    if is_number and min(firsts) > 0 and max(firsts) >= 10 * min(firsts):
        ax.set_xscale("log")
    best = min(
        (row for row in rows if row.mean == row.mean), key=lambda row: row.mean, default=None
    )
    if best is not None:
        value = best.values[names[0]]
        told = f"{value:.3g}" if isinstance(value, float) else str(value)
        ax.set_title(f"lowest mean: {best.mean:.4f} at {told}", fontsize=10)
    ax.set_xlabel(names[0])
    ax.set_ylabel("best dev loss (nats per token)")
    if len(names) > 1:
        ax.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def losses_and_layers(lines: list[dict[str, Any]], file: Path) -> None:
    """The losses of a run, and what its layers gave before the first step and after the last.

    `lines` are those of metrics.jsonl of a run with train.diagnose_every.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained")
    for name, style in (("train_loss", "-"), ("dev_loss", "o-")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        label = "train, by batches" if name == "train_loss" else "dev"
        axes[0].plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 3.5))  # the first steps would hide the others
    axes[0].set_title("loss, nats per character", fontsize=9)
    axes[0].legend(fontsize=8)
    _steps_across(axes[0])
    diagnosed = [line for line in lines if "activations" in line]
    for ax, line in zip(axes[1:], (diagnosed[0], diagnosed[-1]), strict=True):
        shares = line["saturated"]
        for layer, found in line["activations"].items():
            density = np.array(found["counts"]) / max(sum(found["counts"]), 1)
            label = f"{layer}, {shares[layer]:.0%} saturated"
            ends = np.linspace(found["low"], found["high"], len(density) + 1)
            ax.stairs(density * len(density) / np.ptp(ends), ends, label=label)
        ax.set_title(f"activations after {line['step']:,} steps", fontsize=9)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "frameon": False}
        ax.legend(fontsize=8, ncols=2 if len(shares) > 1 else 1, **below)
        ax.grid(color="0.92")
    figure.savefig(file, dpi=100)
    plt.close(figure)


# What follows is for the page: each picture is as wide as a phone shows it, with letters that can
# then still be read.


def loss_curves(curves: Curves, best_step: int, file: Path) -> None:
    """Loss on train and dev by step, with the step of the best model."""
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
    _steps_across(ax)
    ax.legend(fontsize=8)
    _save(figure, file)


def learning_rate(curves: Curves, best_step: int, file: Path) -> None:
    """The schedule, as far as the run has come."""
    figure, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    steps, rates = zip(*curves.learning_rate, strict=True)
    ax.plot(steps, rates, color="tab:green", linewidth=1.5)
    ax.axvline(best_step, color="0.6", linewidth=0.8, zorder=0)
    ax.set_ylim(0, 1.08 * max(rates))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    ax.set_title("learning rate", fontsize=10)
    _steps_across(ax)
    _save(figure, file)


def _steps_across(ax: Any) -> None:
    ax.set_xlabel("step")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(color="0.92")


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
    _name_below(figure, ax)
    _save(figure, file)


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
    _name_below(figure, axes[0])
    _save(figure, file)


def _by_depth(ax: Any, steps: list[int], found: dict[str, list[float]], title: str) -> None:
    """A line for each name, in their order from blue, near the input, to red."""
    colors = 0.9 * plt.get_cmap("turbo")(np.linspace(0.08, 0.95, len(found)))[:, :3]
    every = -(-len(found) // MOST_NAMES)
    for i, ((name, values), color) in enumerate(zip(found.items(), colors, strict=True)):
        style = ("-", "--", "-.", ":")[i % 4] + ("o" if len(steps) < 30 else "")
        is_named = i % every == 0 or i == len(found) - 1
        label = _short(name) if is_named else "_"  # which a legend leaves out
        ax.plot(steps, values, style, color=color, label=label, linewidth=1.3, markersize=2)
    ax.set_title(title, fontsize=10)
    _steps_across(ax)


def _rows_of_legend(num: int) -> int:
    return -(-min(num, MOST_NAMES + 1) // 2)


def _name_below(figure: Any, ax: Any) -> None:
    names = ax.get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)


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
        style = {"color": "tab:blue" if step == last else "0.3"}
        height = 0.65 if step in before else 0.15 if before else 0.4  # of its std in the row
        for i, (name, of) in enumerate(look.items()):
            row, unit = names.index(name), (of.std or 1.0) if in_stds else 1.0
            _beside(ax, row - height, f"{of.std:.2g}", **style)
            label = f"step {step:,}" if i == 0 else None
            _one_histogram(ax, of, row, unit, is_filled=step == last, label=label, **style)
            reach = of.mean + of.std * np.array([-5, 5])  # few are further out
            ends += (np.clip([of.low, of.high], *reach) / unit).tolist()
    margin = 0.02 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_ylim(len(names) - 0.85, -1)
    _beside(ax, -1.15, "std")
    ax.set_yticks(np.arange(len(names)) - 0.4, map(_short, names), fontsize=8)
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
    _name_below(figure, ax)
    _save(figure, file)


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


def _short(name: str) -> str:
    """A matrix is called by its layer, which has but one."""
    return name.removesuffix(".kernel").removesuffix(".embedding")


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
    _save(figure, file)


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
    _save(figure, file)


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
    _save(figure, file)


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


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=160)
    plt.close(figure)


def draw(found: Report, folder: Path) -> None:
    """Every picture of a report into `folder`, under the name by which the page knows it."""
    labels = report.labels(found.vocab)
    if found.curves:
        loss_curves(found.curves, found.best_step, folder / "loss.png")
        learning_rate(found.curves, found.best_step, folder / "learning_rate.png")
    if found.inside:
        draw_inside(found.inside, folder)
    for i, (name, of_name) in enumerate(zip(found.names, found.attention, strict=False), start=1):
        along = [report.shown(char) for char in ("", *name)]
        for layer, weights in enumerate(of_name, start=1):
            attention(weights, along, folder / f"attention_{i}_{layer}.png")
    if found.characters:
        characters(found.characters, labels, folder / "characters.png")
    if found.bigrams:
        learnt, counted = found.bigrams
        largest = float(np.nanmax([learnt, counted]))
        bigrams(learnt, labels, largest, folder / "bigrams_learnt.png")
        bigrams(counted, labels, largest, folder / "bigrams_counted.png")
        difference(found.bigrams, labels, folder / "bigrams_difference.png")


def draw_inside(found: Inside, folder: Path) -> None:
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


# The names of the PNGs.
OURS = ("loss", "learning_rate", "inside_*", "attention_*", "characters", "bigrams_*")


def write(found: Report, folder: Path) -> None:
    """The pictures and the page. UserError if the folder can't be written."""
    try:
        folder.mkdir(exist_ok=True)
        for file in _pictures(folder):  # of an earlier call, perhaps with more names
            file.unlink()
        draw(found, folder)
        pictures = {file.stem: file.read_bytes() for file in _pictures(folder)}
        # A path that is no Unicode text, in the title, must not keep the page from being written.
        text = page.as_html(found, pictures).encode("utf-8", "backslashreplace")
        (folder / "index.html").write_bytes(text)
    except OSError as error:
        raise UserError(f"--workdir: {folder} can't be written: {error.strerror}") from None


def _pictures(folder: Path) -> list[Path]:
    return [file for name in OURS for file in folder.glob(f"{name}.png")]


def main() -> None:
    if plt is None:
        raise UserError(MISSING)
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    if NUM.value < 1:
        raise UserError(f"--num: {NUM.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")
    if NAMES.value == []:
        raise UserError("--names: none is given; they are given as emma,olivia")
    startup.use_compilation_cache()
    startup.use_cores()
    found = report.collect(Path(WORKDIR.value), NAMES.value, SEED.value, NUM.value)
    folder = Path(WORKDIR.value) / "plots"
    write(found, folder)
    print(f"{folder / 'index.html'} shows it; the pictures lie beside it")


if __name__ == "__main__":
    # Not further up: the other commands, which import this file, have flags of these names.
    WORKDIR = flags.DEFINE_string("workdir", None, "the run; plots/ in it is written")
    NAMES = flags.DEFINE_list("names", None, "look at these, as emma,olivia; else at three of dev")
    SEED = flags.DEFINE_integer("seed", 3407, "another seed draws other samples")
    NUM = flags.DEFINE_integer("num", 20, "how many samples to draw")
    command_line.run(main, __doc__, name="plots")

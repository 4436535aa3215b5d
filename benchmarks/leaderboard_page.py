"""The page, the figures and the README's rows of benchmarks.leaderboard."""

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks import sides

SPLITS = ("lecture", "makemore", "holdout")
NAMES = "names.txt"
CONDITIONS = (*(f"{split}{end}" for split in SPLITS for end in ("", ", no repeats")), NAMES)
TIMED = CONDITIONS[0]  # measured on an idle machine; other conditions show no times
SEEDS = (3407, 3408, 3409)
TARGET = 2.10  # dev loss, for the time to reach it
MAX_LOSS = 2.25  # figures leave out larger test losses
README_ROWS = 5
# Per field: the file, the label of the x axis, and its ticks in each power of 10.
FIGURES = {
    "num_params": ("loss_by_parameters.png", "parameters (n-grams: different n-grams)", (1,)),
    "seconds": ("loss_by_time.png", "seconds of training, two CPU cores", (1, 3)),
}

INTRODUCTION = """\
# Leaderboard

The models of this project and n-grams on the same data: makemore's list of 32,033 names and, in
the last table, `names.txt`. `python -m makemore_jax.download names` downloads the list, and
`python -m benchmarks.leaderboard` trains all rows, draws the figures and writes this page.
`results.json`, next to the figures, has all digits.

## What the tables show

- **model**: the config of this name in `configs/` with its own settings, except for the data and
  the seed. The losses are those of the step with the lowest dev loss. n-grams are counted, with
  interpolated Kneser-Ney smoothing (`python -m makemore_jax.lectures.ngrams`).
- **split**: `lecture` is the 80/10/10 split of the lectures. In `makemore`, dev and test are the
  same 1,000 lines, so the test loss is the lowest of all evaluations, and optimistic. `holdout` is
  the 90/5/5 split of this project, also used for `names.txt`. The list repeats 2,539 lines; "no
  repeats" drops them before the split, so that no test line is also in train.
- **parameters**: of a model (for `best`, of its four networks together), or the number of different
  n-grams that were counted. `best` also has a table of 131,072 n-gram contexts, which is not
  included.
- **train, dev, test**: mean negative log likelihood per character in nats. The end of a name counts
  as a character, and the first character of a name counts too. dev and test are exact; train covers
  5,000 lines for networks and all lines for n-grams.
- **±**: half the difference between the highest and the lowest of three seeds (3407 to 3409). The
  seed sets initial values and batches. In `makemore` and `holdout` it also selects the lines of the
  splits, so there the spread includes the choice of the lines. In `lecture` the lines are the same
  for all seeds. A row with fewer seeds says so.
- **bits**: the test loss in bits per character, that is, divided by ln 2.
- **new, unique, held out**: shares of 1,000 samples. New samples are in no split and end within the
  maximum length. Unique is the share of different samples. Held-out samples are in dev or test and
  not in train.
- **s to dev 2.10**: seconds from the first step until an evaluation (one every 500 steps) gives a
  dev loss of 2.10 or less, with all evaluations and checkpoints, and with compilation or loading of
  compiled programs. "-": not measured, or not reached by every seed.
- **ms per step**: the mean after the first 100 steps, with evaluations and checkpoints.

Times are measured for `lecture` only, on an idle machine. The other splits were trained on a busy
one and show no times.

The baseline is the n-gram order with the lowest dev loss. \\* marks a network whose test loss is
not below that of the baseline. Repeated lines favor n-grams: long ones learn the training lines
nearly by heart, and some test lines repeat a training line. Compare the tables with and without
repeats.
"""

BEST = """
`best` is `configs/best.py`, a mixture of networks with n-grams. It trains much longer than the
others, so it has {seeds}, on some of the splits: `python -m benchmarks.leaderboard --models best
--seeds 1 --conditions CONDITION`. It is evaluated once, after its last step, so that no step is
chosen on the test lines of `makemore`. Its other choices were made on a part of the training lines
(see the end of this page).
"""
TIME_OF_BEST = """\
Its {steps:,} steps on `names.txt` took {minutes:.0f} minutes; the processor was {processor}.
"""


CHOICES = """\
## How configs/best.py was chosen

`python -m benchmarks.best_choices` trains variants of `configs/best.py` for a quarter of its steps.
They train on 30,033 of the training lines of makemore's split, and the loss is that of 1,000 other
training lines. The test lines are not read. The machine was busy, so the last column is only a
hint.

"""


def by_model(results: dict[str, Any], condition: str) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of a condition by model, sorted by the mean test loss."""
    runs_of: dict[str, list[dict[str, Any]]] = {}
    for name, run in results.items():
        model, run_condition, _ = name.split("/")
        if run_condition == condition:
            runs_of.setdefault(model, []).append(run)
    return dict(sorted(runs_of.items(), key=lambda item: mean(item[1], "test_loss")))


def mean(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


def best_ngram(runs_of: dict[str, list[dict[str, Any]]]) -> str | None:
    """Return the n-gram model with the lowest dev loss."""
    ngrams = [model for model in runs_of if is_ngram(model)]
    return min(ngrams, key=lambda model: mean(runs_of[model], "dev_loss"), default=None)


def is_ngram(model: str) -> bool:
    return model.endswith("-gram")


def beats_ngrams(runs_of: dict[str, list[dict[str, Any]]], model: str) -> bool:
    """Return whether a model's test loss is below that of the best n-gram."""
    baseline = best_ngram(runs_of)
    return not baseline or mean(runs_of[model], "test_loss") < mean(runs_of[baseline], "test_loss")


def as_markdown(results: dict[str, Any], condition: str) -> str:
    """Return the table of a condition."""
    runs_of = by_model(results, condition)
    header = ["model", "parameters", "train", "dev", "test", "bits", "new", "unique", "held out"]
    if condition == TIMED:
        header += [f"s to dev {TARGET:.2f}", "ms per step"]
    rows = []
    for model, runs in runs_of.items():
        cells = [_label(runs_of, model), *_numbers(runs)]
        rows.append(cells + (_times(runs) if condition == TIMED else []))
    return sides.as_table(header, rows)


def _label(runs_of: dict[str, list[dict[str, Any]]], model: str) -> str:
    num = len(runs_of[model])
    mark = "" if is_ngram(model) or beats_ngrams(runs_of, model) else " \\*"
    seeds = f" ({num} seed{'s' * (num > 1)})" if num < len(SEEDS) else ""
    return f"{model}{mark}{seeds}"


def _numbers(runs: list[dict[str, Any]]) -> list[str]:
    losses = [[run[f"{name}_loss"] for run in runs] for name in ("train", "dev", "test")]
    bits = mean(runs, "test_loss") / math.log(2)
    samples = [f"{100 * mean(runs, name):.0f}%" for name in ("new", "unique", "held_out")]
    params = f"{mean(runs, 'num_params'):,.0f}"
    return [params, *map(_with_spread, losses), f"{bits:.3f}", *samples]


def _with_spread(values: list[float]) -> str:
    """Return the mean and, if the values differ, half their range."""
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if min(values) < max(values) else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _times(runs: list[dict[str, Any]]) -> list[str]:
    # N-grams have no steps, and a run of one call has no time per step.
    has_times = all(run.get("milliseconds_per_step") for run in runs)
    step = f"{mean(runs, 'milliseconds_per_step'):.2f}" if has_times else "-"
    return [time_to_target(runs), step]


def time_to_target(runs: list[dict[str, Any]]) -> str:
    """Return the mean seconds until the dev loss reached TARGET, or "-".

    A mean over some of the seeds would hide that the others did not reach the target.
    """
    reached = [run["seconds_to_target"] for run in runs if run.get("seconds_to_target")]
    return f"{statistics.mean(reached):.1f}" if len(reached) == len(runs) else "-"


def as_page(content: dict[str, Any]) -> str:
    """Return the page. `content` is that of results.json."""
    machine, results = content["machine"], content["results"]
    hardware = f"{machine['processor']}, {machine['cores']} cores, jax {machine['versions']['jax']}"
    hidden = [m for m, runs in by_model(results, TIMED).items() if _is_hidden(runs)]
    measured = {tuple(name.split("/")[::2]) for name in results}
    seeds = len({seed for model, seed in measured if model == "best"})
    parts = [
        INTRODUCTION + (_about_best(results, seeds) if seeds else ""),
        f"Machine: {hardware}.\n",
        f"## The {TIMED} split in two figures\n",
    ]
    parts += [
        f"![Test loss by {name}](leaderboard/{FIGURES[key][0]})\n"
        for key, name in (("num_params", "parameters"), ("seconds", "training time"))
    ]
    parts.append("Squares are n-grams, and the dashed line is the best of them.\n")
    if hidden:
        parts[-1] += f"Above {MAX_LOSS} and not shown: {', '.join(hidden)}.\n"
    for condition in CONDITIONS:
        if runs_of := by_model(results, condition):
            parts += [f"## {condition}\n", _commands(condition), as_markdown(results, condition)]
            parts += ["", _verdict(runs_of)]
    choices = sides.OUT / "best_choices.md"
    if choices.exists():
        parts.append(CHOICES + choices.read_text("utf-8"))
    return "\n".join(parts)


def _is_hidden(runs: list[dict[str, Any]]) -> bool:
    return mean(runs, "test_loss") > MAX_LOSS


def _about_best(results: dict[str, Any], seeds: int) -> str:
    text = BEST.format(seeds="one seed" if seeds == 1 else f"{seeds} seeds")
    if run := results.get(f"best/{NAMES}/{SEEDS[0]}"):
        minutes, processor = run["seconds"] / 60, run["processor"]
        text += TIME_OF_BEST.format(steps=run["steps"], minutes=minutes, processor=processor)
    return text


def data_of(condition: str, path: str) -> dict[str, Any]:
    """Return the fields of the data of a condition. `path` is that of makemore's list."""
    if condition == NAMES:
        return {"path": NAMES, "split": "holdout", "dedup": False}
    split, _, repeats = condition.partition(", ")
    return {"path": path, "split": split, "dedup": bool(repeats)}


def _commands(condition: str) -> str:
    data = data_of(condition, "data/makemore_names.txt")
    train = f"""python train.py --config configs/MODEL.py \\
    --config.data.path={data["path"]} --config.data.split={data["split"]} \\
    --config.data.dedup={data["dedup"]} --config.seed=SEED"""
    return f'```\npython -m benchmarks.leaderboard --conditions "{condition}"\n{train}\n```\n'


def _verdict(runs_of: dict[str, list[dict[str, Any]]]) -> str:
    """Return the sentence that compares the networks with the best n-gram."""
    baseline = best_ngram(runs_of)
    networks = [model for model in runs_of if not is_ngram(model)]
    if not baseline or not networks:
        return ""
    below = [model for model in networks if beats_ngrams(runs_of, model)]
    loss = mean(runs_of[baseline], "test_loss")
    return (
        f"Networks below the best n-gram ({baseline}, {loss:.4f}): {', '.join(below) or 'none'}.\n"
    )


def as_readme_rows(results: dict[str, Any]) -> str:
    """Return the README's table: the lowest test losses, with one n-gram, the best."""
    runs_of = by_model(results, TIMED)
    baseline = best_ngram(runs_of)
    shown = [model for model in runs_of if not is_ngram(model) or model == baseline]
    header = ["model", "parameters", "test loss", "bits", "new", f"s to dev {TARGET:.2f}"]
    rows = []
    for model in shown[:README_ROWS]:
        params, _, _, test, bits, new, *_ = _numbers(runs_of[model])
        name = _label(runs_of, model)
        rows.append([name, params, test, bits, new, time_to_target(runs_of[model])])
    return sides.as_table(header, rows) + "\n"


def draw(results: dict[str, Any], key: str, folder: Path) -> None:
    """Draw the test loss of the first condition by `num_params` or by `seconds`.

    The figure is as wide as a phone, so that its text is readable there.
    """
    from makemore_jax.plots import style

    file, label, subs = FIGURES[key]
    figure, ax = style.plt.subplots(figsize=(3.9, 3.7), layout="constrained")
    points = {}
    runs_of = by_model(results, TIMED)
    for model, runs in runs_of.items():
        if key in runs[0] and not _is_hidden(runs):
            points[model] = mean(runs, key), mean(runs, "test_loss")
            kind = ("s", "0.6") if is_ngram(model) else ("o", "tab:blue")
            ax.plot(*points[model], kind[0], color=kind[1], markersize=5)
    if key == "seconds" and (baseline := best_ngram(runs_of)):
        y = mean(runs_of[baseline], "test_loss")
        label_of_line = f"{baseline}, counted"
        ax.axhline(y, color="0.6", linestyle="--", linewidth=1, label=label_of_line)
        ax.legend(fontsize=8)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(style.matplotlib.ticker.LogLocator(subs=subs))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlabel(label, fontsize=9)
    ax.set_ylabel("test loss, nats per character", fontsize=9)
    ax.set_title(f"makemore's list, {TIMED} split", fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.margins(x=0.2, y=0.1)
    ax.grid(color="0.92")
    place_labels(figure, ax, points)
    style.save(figure, folder / file)


def place_labels(figure: Any, ax: Any, points: dict[str, tuple[float, float]]) -> list[Any]:
    """Write a name next to each point, without overlaps with other names and points."""
    figure.canvas.draw()  # computes the layout, and so the positions in pixels
    radius = 4 * figure.dpi / 72
    centers = [ax.transData.transform(point) for point in points.values()]
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in centers]
    texts = []
    for name, point in points.items():
        text = ax.annotate(name, point, (0, 0), textcoords="offset points", fontsize=8)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # over the grid
        texts.append(text)
        for x, y, ha, va in _offsets():
            text.set(position=(x, y), ha=ha, va=va)
            box = text.get_window_extent().extents
            if not any(_overlap(box, other) for other in taken) and _is_inside(box, ax):
                break
        taken.append(tuple(box))
    return texts


def _offsets() -> list[tuple[float, float, str, str]]:
    """Return positions of a name: x, y in points from its point, and how it is aligned there."""
    offsets = []
    for distance in (5, 8, 12, 17, 23):
        for step in (0, 4, 2, 6, 1, 3, 5, 7):  # eighths of a circle: right, left, above, below, ...
            x, y = math.cos(step * math.pi / 4), math.sin(step * math.pi / 4)
            ha = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
            va = "center" if abs(y) < 0.1 else "bottom" if y > 0 else "top"
            offsets.append((distance * x, distance * y, ha, va))
    return offsets


def _overlap(a: Any, b: Any) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _is_inside(box: Any, ax: Any) -> bool:
    frame = ax.get_window_extent().extents
    is_right = box[0] > frame[0] and box[2] < frame[2]
    return is_right and box[1] > frame[1] and box[3] < frame[3]


def write(content: dict[str, Any], root: Path) -> None:
    """Write docs/leaderboard.md and the README's rows below `root`."""
    (root / "docs" / "leaderboard.md").write_text(as_page(content), "utf-8")
    sides.insert(root / "README.md", "leaderboard", as_readme_rows(content["results"]))

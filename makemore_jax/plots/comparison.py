"""Draw and write the page that compares runs: a table, and all losses in one chart."""

import html
from pathlib import Path

from makemore_jax.errors import UserError
from makemore_jax.plots import style
from makemore_jax.plots.style import matplotlib, plt
from makemore_jax.report.comparison import ComparedRun, have_same_data, make_rows
from makemore_jax.report.html_parts import document, picture, table


def write_comparison(runs: list[ComparedRun], folder: Path) -> None:
    """Write loss.png, loss_by_time.png and index.html.

    Raise UserError if the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_losses(runs, folder / "loss.png")
        draw_losses_by_time(runs, folder / "loss_by_time.png")
        pictures = [(folder / name).read_bytes() for name in ("loss.png", "loss_by_time.png")]
        page = as_html(runs, *pictures)
        (folder / "index.html").write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"--out: {folder} can't be written: {error.strerror}") from None


def as_html(runs: list[ComparedRun], loss: bytes, loss_by_time: bytes) -> str:
    """Return the page as one HTML file. The pictures are PNG files."""
    header = ["", *(run.name for run in runs)]
    rows = []
    for row in make_rows(runs):
        cells = [html.escape(cell) for cell in row.cells]
        if row.best is not None:
            cells[row.best] = f'<span class="best">{cells[row.best]} (best)</span>'
        rows.append([html.escape(row.name), *cells])
    note = (
        "The table has the config fields that differ. Losses are in nats per character, for the "
        "model with the best dev loss."
    )
    if not have_same_data(runs):
        note += (
            " <b>The dev and test data differ between these runs, so compare their losses only "
            "roughly.</b>"
        )
    images = picture(loss, "loss on train and dev by step")
    images += picture(loss_by_time, "loss on dev by time")
    return document(
        f"{len(runs)} runs",
        f"<p>{note}</p>\n{table(header, rows)}\n<section><h2>Losses</h2>\n"
        f'<div class="pictures">{images}</div></section>',
    )


def draw_losses(runs: list[ComparedRun], file: Path) -> None:
    """Draw train loss (dashed) and dev loss (solid) by step, one color per run."""
    figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for run, color in zip(runs, _colors(runs), strict=True):
        if run.curves is None:
            continue
        train, dev = run.curves.train_loss, run.curves.dev_loss
        ax.plot(*_columns(train), "--", color=color, linewidth=1, alpha=0.6)
        ax.plot(*_columns(dev), "o-", color=color, linewidth=1.5, markersize=3, label=run.name)
    ax.plot([], [], "-", color="0.3", label="solid: dev")
    ax.plot([], [], "--", color="0.3", label="dashed: train")
    ax.set_title("loss by step", fontsize=10)
    ax.set_ylabel("nats per character")
    style.steps_on_x_axis(ax)
    style.legend_below(figure, ax)
    style.save(figure, file)


def draw_losses_by_time(runs: list[ComparedRun], file: Path) -> None:
    """Draw dev loss by seconds of training."""
    figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for run, color in zip(runs, _colors(runs), strict=True):
        if run.curves is None:
            continue
        seconds = dict(run.curves.seconds)
        dev = [(seconds[step], loss) for step, loss in run.curves.dev_loss if step in seconds]
        ax.plot(*_columns(dev), "o-", color=color, linewidth=1.5, markersize=3, label=run.name)
    ax.set_title("dev loss by time", fontsize=10)
    ax.set_ylabel("nats per character")
    ax.set_xlabel("seconds of training")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.grid(color="0.92")
    style.legend_below(figure, ax)
    style.save(figure, file)


def _colors(runs: list[ComparedRun]) -> list[tuple[float, ...]]:
    return [plt.get_cmap("tab10" if len(runs) <= 10 else "tab20")(i % 20) for i in range(len(runs))]


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]

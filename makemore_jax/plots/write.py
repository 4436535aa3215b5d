"""Write the figures and the page of a report into a folder."""

from pathlib import Path

import numpy as np

from makemore_jax.errors import UserError
from makemore_jax.integrity.untrusted import check_links
from makemore_jax.plots import curves, diagnostics, learned
from makemore_jax.report import page
from makemore_jax.report.collect import Report
from makemore_jax.report.labels import char_label, token_labels

FIGURES = ("loss", "learning_rate", "inside_*", "attention_*", "characters", "bigrams_*")


def write(report: Report, folder: Path, flag: str = "--workdir") -> None:
    """Write the figures and index.html.

    Raise UserError, which starts with the flag that names the folder, if it can't be written.
    """
    check_links(folder, flag)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in _figure_files(folder):  # an earlier call may have drawn more
            file.unlink()
        draw(report, folder)
        pictures = {file.stem: file.read_bytes() for file in _figure_files(folder)}
        # The title may be a path that is not valid Unicode.
        text = page.as_html(report, pictures).encode("utf-8", "backslashreplace")
        (folder / "index.html").write_bytes(text)
    except OSError as error:
        raise UserError(f"{flag}: {folder} can't be written: {error.strerror}") from None


def draw(report: Report, folder: Path) -> None:
    """Draw all figures of a report, under the file names that page.py expects."""
    labels = token_labels(report.vocab)
    if report.curves:
        curves.loss_curves(report.curves, report.best_step, folder / "loss.png")
        curves.learning_rate(report.curves, report.best_step, folder / "learning_rate.png")
    if report.diagnostics:
        diagnostics.draw(report.diagnostics, folder)
    for i, (name, layers) in enumerate(zip(report.names, report.attention, strict=False), start=1):
        chars = [char_label(char) for char in ("", *name)]
        for layer, weights in enumerate(layers, start=1):
            learned.attention(weights, chars, folder / f"attention_{i}_{layer}.png")
    if report.embeddings:
        learned.characters(report.embeddings, labels, folder / "characters.png")
    if report.bigrams:
        tables = report.bigrams
        largest = float(np.nanmax([tables.learned, tables.counted]))
        learned.bigrams(tables.learned, labels, largest, folder / "bigrams_learned.png")
        learned.bigrams(tables.counted, labels, largest, folder / "bigrams_counted.png")
        learned.difference(report.bigrams, labels, folder / "bigrams_difference.png")


def _figure_files(folder: Path) -> list[Path]:
    return [file for name in FIGURES for file in folder.glob(f"{name}.png")]

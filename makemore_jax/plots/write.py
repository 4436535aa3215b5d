"""Write the figures and the page of a report into a folder."""

from pathlib import Path

import numpy as np

from makemore_jax import page, report
from makemore_jax.errors import UserError
from makemore_jax.plots import curves, inside, learned
from makemore_jax.report import Report

OURS = ("loss", "learning_rate", "inside_*", "attention_*", "characters", "bigrams_*")


def write(found: Report, folder: Path) -> None:
    """The pictures and the page. UserError if the folder can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in _pictures(folder):  # of an earlier call, perhaps with more names
            file.unlink()
        draw(found, folder)
        pictures = {file.stem: file.read_bytes() for file in _pictures(folder)}
        # A path that is no Unicode text, in the title, must not keep the page from being written.
        text = page.as_html(found, pictures).encode("utf-8", "backslashreplace")
        (folder / "index.html").write_bytes(text)
    except OSError as error:
        raise UserError(f"--workdir: {folder} can't be written: {error.strerror}") from None


def draw(found: Report, folder: Path) -> None:
    """Every picture of a report into `folder`, under the name by which the page knows it."""
    labels = report.labels(found.vocab)
    if found.curves:
        curves.loss_curves(found.curves, found.best_step, folder / "loss.png")
        curves.learning_rate(found.curves, found.best_step, folder / "learning_rate.png")
    if found.inside:
        inside.draw(found.inside, folder)
    for i, (name, of_name) in enumerate(zip(found.names, found.attention, strict=False), start=1):
        along = [report.shown(char) for char in ("", *name)]
        for layer, weights in enumerate(of_name, start=1):
            learned.attention(weights, along, folder / f"attention_{i}_{layer}.png")
    if found.characters:
        learned.characters(found.characters, labels, folder / "characters.png")
    if found.bigrams:
        learnt, counted = found.bigrams
        largest = float(np.nanmax([learnt, counted]))
        learned.bigrams(learnt, labels, largest, folder / "bigrams_learnt.png")
        learned.bigrams(counted, labels, largest, folder / "bigrams_counted.png")
        learned.difference(found.bigrams, labels, folder / "bigrams_difference.png")


def _pictures(folder: Path) -> list[Path]:
    return [file for name in OURS for file in folder.glob(f"{name}.png")]

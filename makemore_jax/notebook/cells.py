"""For the cells of a notebook: figures, surprise as colored text, a Stop button."""

import base64
import html
import io
import json
import math
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from IPython.display import HTML

from makemore_jax.decoding import LanguageModel
from makemore_jax.report.html_parts import heat_color
from makemore_jax.report.labels import char_label
from makemore_jax.report.surprise import name_surprise

POLL_SECONDS = 0.02


class StopButton(threading.Thread):
    """Press a notebook's Stop button (SIGINT to this process) once a run has made progress.

    `workdir` is the folder of the run. The button is pressed `steps` steps from now. The thread
    starts immediately; `cancel` ends it.
    """

    def __init__(self, workdir: Path, steps: int):
        super().__init__(daemon=True)
        self._file, self._is_cancelled = workdir / "metrics.jsonl", threading.Event()
        self._stop_step = _last_step(self._file) + steps
        self.start()

    def run(self) -> None:
        while not self._is_cancelled.wait(POLL_SECONDS):
            if _last_step(self._file) >= self._stop_step:
                if os.name == "nt":  # os.kill would end the process
                    signal.raise_signal(signal.SIGINT)
                else:
                    os.kill(os.getpid(), signal.SIGINT)
                return

    def cancel(self) -> None:
        """End the thread without pressing the button, if it has not been pressed yet."""
        self._is_cancelled.set()
        self.join()


def _last_step(metrics: Path) -> int:
    """Return the step of the last complete line of metrics.jsonl, or 0."""
    lines = metrics.read_text("utf-8").splitlines(keepends=True) if metrics.exists() else []
    complete = [line for line in lines if line.endswith("\n")]
    return json.loads(complete[-1])["step"] if complete else 0


def figures(*drawings: tuple, captions: Sequence[str] = (), width: int = 460) -> HTML:
    """Show figures next to each other in the output of a cell.

    A drawing is a function of makemore_jax.plots, which saves a PNG file, followed by its arguments
    without the file. `captions` has one caption per drawing, or none. `width` is the width of a
    figure in CSS pixels.
    """
    parts = []
    for i, (draw, *arguments) in enumerate(drawings):
        file = io.BytesIO()
        draw(*arguments, file)
        source = base64.b64encode(file.getvalue()).decode()
        caption = html.escape(captions[i] if captions else "")
        alt = caption or html.escape(draw.__name__.replace("_", " "))
        image = f'<img src="data:image/png;base64,{source}" alt="{alt}" style="width:100%">'
        style = f"width:{width}px;max-width:100%;margin:0;background:#fff;color:#000"
        parts.append(f'<figure style="{style}"><figcaption>{caption}</figcaption>{image}</figure>')
    row = "display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start"
    return HTML(f'<div style="{row}">{"".join(parts)}</div>')


def surprise(lm: LanguageModel, names: Sequence[str]) -> HTML:
    """Show -ln p in nats of each name: in total, for each character, and for the end."""
    rows, uniform = [], math.log(lm.vocab.size)
    for name, nats in zip(names, name_surprise(lm, list(names)), strict=True):
        boxes = [f'<b style="min-width:4em;align-self:center">{nats.sum():.2f}</b>']
        for char, n in zip([*name, ""], nats, strict=True):
            style = "min-width:2.4em;padding:2px;text-align:center;color:#000"
            style += f";background:{heat_color(n / (2 * uniform))}"
            text = f"{html.escape(char_label(char))}<br><small>{n:.2f}</small>"
            boxes.append(f'<span style="{style}">{text}</span>')
        row = "display:flex;flex-wrap:wrap;gap:2px;margin:4px 0"
        rows.append(f'<div style="{row}">{"".join(boxes)}</div>')
    note = f"guessing uniformly costs {uniform:.2f} nats per character"
    return HTML("".join(rows) + f"<small>{note}</small>")

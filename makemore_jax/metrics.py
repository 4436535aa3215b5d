"""Logging of a training: metrics.jsonl, samples.txt, printed lines and the speed."""

import json
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jax import Array

from makemore_jax.errors import Diverged


def finite_mean(step: int, losses: Any) -> float:
    """Return the mean of the losses of the steps up to `step`. Diverged if one is not finite."""
    losses = np.atleast_1d(losses)
    for i in np.flatnonzero(~np.isfinite(losses)):
        raise Diverged(step - len(losses) + 1 + int(i), f"the loss is {losses[i]}")
    return float(np.mean(losses))


class RunFiles:
    """The writer of metrics.jsonl and samples.txt. TensorBoard has one with the same methods.

    If a run resumes at step `start`, the lines of later steps are deleted.
    """

    def __init__(self, workdir: Path, start: int):
        self._lines = _open_until(workdir / "metrics.jsonl", start, r'{"step": (\d+)')
        self._samples = _open_until(workdir / "samples.txt", start, r"step (\d+)")

    def write_values(self, step: int, values: dict[str, Any]) -> None:
        """Write one line of metrics.jsonl."""
        self._lines.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._lines.flush()

    def write_samples(self, step: int, lines: list[str]) -> None:
        """Write samples under a heading."""
        self._samples.write("\n".join([f"step {step}, samples", *lines]) + "\n")
        self._samples.flush()

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._samples.close()


class Metrics:
    """Pass the values of a training to `writers`, show them on `display`, measure the time.

    `seconds` is the training time before step `start`. `display` has the methods
    `update(step, train_loss, rate, mean_rate)`, `print(text)` and `close()`. Nothing is displayed
    before `show`, so that a terminal that hangs or fails does not come between a step and its
    checkpoint.
    """

    def __init__(self, start: int, writers: Sequence[Any], display: Any, seconds: float = 0.0):
        self._writers, self._display = writers, display
        self._pending: tuple[int, Array, Array] | None = None
        self._unshown: list[Callable[[], None]] = []  # calls of the display
        self._last_step, self._seconds_before = start, seconds
        self._start_time = self._last_time = time.perf_counter()
        self._after_first_call: tuple[int, float] | None = None  # step and time

    @property
    def seconds(self) -> float:
        """Training time until the last step, with compilation and earlier processes."""
        return self._seconds_before + self._last_time - self._start_time

    @property
    def steps_per_second(self) -> float | None:
        """Steps per second of this process after its first call, which compiles; else None."""
        if self._after_first_call is None or self._last_step == self._after_first_call[0]:
            return None
        step, moment = self._after_first_call
        return (self._last_step - step) / (self._last_time - moment)

    def write_steps(self, step: int, losses: Array, learning_rate: Array) -> None:
        """Take the losses of the steps up to `step`, and write the losses taken before.

        So the host reads the losses of one call while the device computes the next call. If
        `losses` are ready already, calls do not overlap, and they are written at once: otherwise
        the time of this call would count for the next.
        """
        self.flush()
        self._pending = step, losses, learning_rate
        if losses.is_ready():
            self.flush()

    def flush(self) -> None:
        """Write the mean of the losses taken last. Diverged if one is not finite."""
        if self._pending is None:
            return
        (step, losses, learning_rate), self._pending = self._pending, None
        # The host computes the mean: a program on the device would wait for the next call.
        losses = np.asarray(losses)
        now = time.perf_counter()
        rate = (step - self._last_step) / (now - self._last_time)
        self._last_step, self._last_time = step, now
        self._after_first_call = self._after_first_call or (step, now)
        train_loss = finite_mean(step, losses)
        values = {"train_loss": train_loss, "learning_rate": float(learning_rate)}
        self.write(step, values | {"steps_per_second": rate, "seconds": self.seconds})
        shown = step, train_loss, rate, self.steps_per_second
        self._unshown.append(partial(self._display.update, *shown))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write numbers by name, or diagnostics by kind and name."""
        for writer in self._writers:
            writer.write_values(step, values)

    def write_samples(self, step: int, lines: list[str]) -> None:
        """Write and `print` samples, given as lines of text."""
        lines = [f"  {line}" if line else "" for line in lines]
        for writer in self._writers:
            writer.write_samples(step, lines)
        self.print("\n".join([f"step {step}, samples", *lines]))

    def print(self, text: str) -> None:
        """Print without disturbing the display, at the next `show`."""
        self._unshown.append(partial(self._display.print, text))

    def show(self) -> None:
        """Show on the display what has happened since the last call."""
        while self._unshown:
            self._unshown.pop(0)()

    def close(self) -> None:
        """Close the writers and the display."""
        for writer in self._writers:
            writer.close()
        self.show()
        self._display.close()


class PrintedLines:
    """The plain display: one line for each call of the compiled steps."""

    def update(self, step: int, train_loss: float, rate: float, mean_rate: float | None) -> None:
        """Print the loss of the last steps."""
        self.print(f"step {step}: train loss {train_loss:.4f}, {rate:.3g} steps/s")

    def print(self, text: str) -> None:
        """Print a text."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def open_plain(workdir: Path, start: int, config: Any) -> Metrics:
    """Return the logging of a run to files and lines on stdout."""
    return Metrics(start, [RunFiles(workdir, start)], PrintedLines(), last_seconds(workdir, start))


def last_seconds(workdir: Path, start: int) -> float:
    """Return the training time that metrics.jsonl has for the last line up to step `start`."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text("utf-8").splitlines() if start and file.exists() else []
    matches = [re.match(r'{"step": (\d+).*"seconds": ([\d.e-]+)', line) for line in lines]
    return max((float(m[2]) for m in matches if m and int(m[1]) <= start), default=0.0)


def _open_until(file: Path, start: int, heading: str) -> TextIO:
    """Open a file for appending, without what follows the first `heading` of a later step."""
    kept = []
    for line in file.read_text("utf-8").splitlines(keepends=True) if file.exists() else []:
        step = re.match(heading, line)
        if (step and int(step[1]) > start) or not line.endswith("\n"):
            break  # later, or the process was killed while it wrote this line
        kept.append(line)
    file.write_text("".join(kept) if start else "", "utf-8")
    return file.open("a", encoding="utf-8")

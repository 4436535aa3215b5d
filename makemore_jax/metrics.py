"""Logging: JSON lines, TensorBoard, samples, progress, the summary."""

import importlib.metadata
import io
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

from makemore_jax.cli import progress
from makemore_jax.errors import Diverged

PACKAGES = ("makemore_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device() -> str:
    """What the run computes on, as in '1 cpu'."""
    devices = jax.devices()
    return f"{len(devices)} {devices[0].device_kind}"


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file that at any moment is either the old one or the new one."""
    partial = file.with_suffix(".partial")
    partial.write_text(
        json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
    )
    os.replace(partial, file)


def check_finite(step: int, loss: float) -> float:
    """The loss itself. Diverged if it is no number, before anything is made of it."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {step}: lower optimizer.learning_rate or set "
            "optimizer.grad_clip, and start again with another --workdir"
        )
    return loss


class Metrics:
    """The files of a working directory that grow while a model trains, and the terminal.

    A run that is resumed at step `start` forgets what was written after that step. Without a
    `workdir`, in all processes but the first, nothing is written or said.
    """

    def __init__(self, workdir: Path | None, start: int, steps: int):
        self._seconds_before, self._events = 0.0, None
        self._is_silent = workdir is None
        if workdir is None:
            self._lines, self._samples = io.StringIO(), io.StringIO()
        else:
            self._seconds_before = _last_seconds(workdir / "metrics.jsonl", start)
            self._lines = _open_until(workdir / "metrics.jsonl", start, r'{"step": (\d+)')
            self._samples = _open_until(workdir / "samples.txt", start, r"step (\d+)")
            from makemore_jax.events import Events  # tensorboard, which is slow to import

            self._events = Events(workdir, start)
        hidden = {"disable": True} if self._is_silent else {}
        bar = {"unit": " steps", "dynamic_ncols": True} | hidden
        self._bar = progress.make_bar(total=steps, initial=start, **bar)
        self._pending: tuple[int, Array, Array] | None = None
        self._last, self._steps = start, steps
        self._has_estimate = False
        self._began = self._last_time = time.perf_counter()
        self._compiled: tuple[int, float] | None = None  # step and time after the first call

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, compiling and earlier processes included."""
        return self._seconds_before + self._last_time - self._began

    @property
    def steps_per_second(self) -> float | None:
        """Of this process, after its first compiled call; None if there was no second."""
        if self._compiled is None or self._last == self._compiled[0]:
            return None
        return (self._last - self._compiled[0]) / (self._last_time - self._compiled[1])

    def write_steps(self, step: int, losses: Array, learning_rate: Array) -> None:
        """Take the losses of the steps up to `step`; write those taken before.

        So the host reads one call's losses while the device computes the next call's. If `losses`
        are ready already, because calls do not overlap here, they are written at once: the time of
        a call would else be counted to the next.
        """
        self.flush()
        self._pending = step, losses, learning_rate
        if losses.is_ready():
            self.flush()

    def flush(self) -> None:
        """Write the losses taken last, as their mean. Diverged if that is not a number."""
        if self._pending is None:
            return
        (step, losses, learning_rate), self._pending = self._pending, None
        # Read before it is averaged: jax's mean would wait behind the call that has just begun.
        train_loss = float(np.mean(np.asarray(losses)))
        now = time.perf_counter()
        rate = (step - self._last) / (now - self._last_time)
        self._bar.set_postfix(loss=f"{train_loss:.4f}", refresh=False)
        self._bar.update(step - self._last)
        self._last, self._last_time = step, now
        self._compiled = self._compiled or (step, now)
        check_finite(step, train_loss)
        values = {"train_loss": train_loss, "learning_rate": float(learning_rate)}
        self.write(step, values | {"steps_per_second": rate, "seconds": self.seconds})
        self._report_progress(train_loss, rate)

    def _report_progress(self, train_loss: float, rate: float) -> None:
        """Print a line for these steps where no bar shows them, and the estimate once."""
        steps_left, speed = self._steps - self._last, self.steps_per_second
        if self._bar.disable:
            left = "" if speed is None else f", {progress.duration(steps_left / speed)} left"
            self.say(f"step {self._last}: train loss {train_loss:.4f}, {rate:.3g} steps/s{left}")
        if speed is not None and not self._has_estimate:
            self._has_estimate = True
            if line := progress.estimate(steps_left, speed):
                self.say(line)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same values for TensorBoard."""
        self._lines.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._lines.flush()
        if self._events:
            self._events.write_values(step, values)

    def write_diagnostics(self, step: int, found: dict[str, dict[str, Any]]) -> None:
        """What diagnostics.py gives: one line, and numbers and histograms for TensorBoard."""
        self._lines.write(json.dumps({"step": step, **found}, allow_nan=False) + "\n")
        self._lines.flush()
        by_tag = {f"{k}/{name}": v for k, of_kind in found.items() for name, v in of_kind.items()}
        if self._events:
            finite = {tag: v for tag, v in by_tag.items() if _is_finite(v)}
            self._events.write_values(step, finite)

    def write_config(self, fields: dict[str, Any]) -> None:
        """The fields of a config by dotted name, for TensorBoard."""
        if self._events:
            self._events.write_config(fields)

    def write_samples(self, step: int, lines: list[str]) -> None:
        """Samples, as the dataset shows them, to samples.txt and to the terminal."""
        lines = [f"step {step}, samples", *(f"  {line}" if line else "" for line in lines)]
        self._samples.write("\n".join(lines) + "\n")
        self._samples.flush()
        if self._events:
            self._events.write_text(step, "samples", lines[1:])
        self.say("\n".join(lines))

    def say(self, text: str) -> None:
        """Print without disturbing the progress bar."""
        if self._is_silent:
            return
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Close the files and the bar."""
        self._bar.close()
        self._lines.close()
        self._samples.close()
        if self._events:
            self._events.close()


def _is_finite(value: Any) -> bool:
    """Whether a number or a histogram is one that TensorBoard can show."""
    return value is not None and (not isinstance(value, dict) or None not in value.values())


def _open_until(file: Path, start: int, heading: str) -> TextIO:
    """Open a file to append to, cut off before the first line whose `heading` has a later step."""
    kept = []
    for line in file.read_text("utf-8").splitlines(keepends=True) if file.exists() else []:
        step = re.match(heading, line)
        if (step and int(step[1]) > start) or not line.endswith("\n"):
            break  # later, or still being written when the process was killed
        kept.append(line)
    file.write_text("".join(kept) if start else "", "utf-8")
    return file.open("a", encoding="utf-8")


def _last_seconds(file: Path, start: int) -> float:
    """The training time that metrics.jsonl tells for the last line up to step `start`."""
    lines = file.read_text("utf-8").splitlines() if start and file.exists() else []
    found = [re.match(r'{"step": (\d+).*"seconds": ([\d.e-]+)', line) for line in lines]
    return max((float(m[2]) for m in found if m and int(m[1]) <= start), default=0.0)

"""Logging of a training: metrics.jsonl, samples.txt, printed lines and the speed."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

from makemore_jax.errors import Diverged


def finite_mean(step: int, values: Any, name: str = "loss") -> float:
    """Return the mean of the values of the steps up to `step`.

    Raise Diverged if one is not finite.
    """
    values = np.atleast_1d(values)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise Diverged(step - len(values) + 1 + int(bad[0]), f"the {name} is {values[bad[0]]}")
    return float(np.mean(values))


class RunFiles:
    """The writer of metrics.jsonl and samples.txt. TensorBoard has one with the same methods.

    A run that resumes at step `start` appends to its files.
    """

    def __init__(self, workdir: Path, start: int):
        mode = "a" if start else "w"
        self._lines = (workdir / "metrics.jsonl").open(mode, encoding="utf-8")
        self._samples = (workdir / "samples.txt").open(mode, encoding="utf-8")

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
    `update(step, train_loss, rate, mean_rate)`, `print(text)`, `show()` and `close()`. It may
    buffer its output until `show`, so that a terminal that hangs can't delay a checkpoint.
    """

    def __init__(self, start: int, writers: Sequence[Any], display: Any, seconds: float = 0.0):
        self._writers, self._display = writers, display
        self._pending: tuple[int, dict[str, Array], Array] | None = None
        self._seconds_before = seconds
        self._started = time.perf_counter()
        self._last_step, self._last_time = start, self._started
        self._lengths: set[int] = set()  # numbers of steps of the calls so far
        self._timed_steps, self._timed_seconds = 0, 0.0

    @property
    def seconds(self) -> float:
        """Training time until the last step, with compilation and the `seconds` at the start."""
        return self._seconds_before + self._last_time - self._started

    @property
    def steps_per_second(self) -> float | None:
        """Mean steps per second without the first call of each length, which compiles.

        The time includes evaluation, sampling and saving. None if no length has occurred twice.
        """
        return self._timed_steps / self._timed_seconds if self._timed_steps else None

    def write_steps(self, step: int, step_metrics: dict[str, Array], learning_rate: Array) -> None:
        """Write the pending metrics, and keep those of the steps up to `step` (S,) as pending.

        This way the host reads the metrics of one call while the device computes the next. Metrics
        that are already computed are written at once, so that the time of the next call does not
        count as theirs.
        """
        self.flush()
        self._pending = step, step_metrics, learning_rate
        if step_metrics["train_loss"].is_ready():
            self.flush()

    def flush(self) -> None:
        """Write the mean of each pending metric. Raise Diverged if a value is not finite."""
        if self._pending is None:
            return
        (step, step_metrics, learning_rate), self._pending = self._pending, None
        # The host computes the means: on the device they would run after the next call.
        means = {k: finite_mean(step, v, k.replace("_", " ")) for k, v in step_metrics.items()}
        now = time.perf_counter()
        num_steps, seconds = step - self._last_step, now - self._last_time
        self._last_step, self._last_time = step, now
        if num_steps in self._lengths:
            self._timed_steps += num_steps
            self._timed_seconds += seconds
        self._lengths.add(num_steps)
        rate = num_steps / seconds
        values = means | {"learning_rate": float(learning_rate), "steps_per_second": rate}
        self.write(step, values | {"seconds": self.seconds})
        self._display.update(step, means["train_loss"], rate, self.steps_per_second)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write numbers by name, or diagnostics by kind and name."""
        for writer in self._writers:
            writer.write_values(step, values)

    def write_samples(self, step: int, lines: list[str]) -> None:
        """Write and print samples, given as lines of text."""
        lines = [f"  {line}" if line else "" for line in lines]
        for writer in self._writers:
            writer.write_samples(step, lines)
        self.print("\n".join([f"step {step}, samples", *lines]))

    def print(self, text: str) -> None:
        """Print without disturbing the display."""
        self._display.print(text)

    def show(self) -> None:
        """Show everything that the display has not shown yet."""
        self._display.show()

    def close(self) -> None:
        """Close the writers and the display."""
        for writer in self._writers:
            writer.close()
        self._display.close()


class PrintedLines:
    """The plain display: one line for each call of the compiled steps."""

    def update(self, step: int, train_loss: float, rate: float, mean_rate: float | None) -> None:
        """Print the loss of the last steps."""
        self.print(f"step {step}: train loss {train_loss:.4f}, {rate:.3g} steps/s")

    def print(self, text: str) -> None:
        """Print a text."""
        print(text, flush=True)

    def show(self) -> None:
        """Do nothing: the output is not buffered."""

    def close(self) -> None:
        """Do nothing: no resource is open."""


def open_plain(workdir: Path, start: int, config: Any) -> Metrics:
    """Return the logging of a run to files and lines on stdout. `config` is not used."""
    return Metrics(start, [RunFiles(workdir, start)], PrintedLines())

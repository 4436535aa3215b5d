"""Progress bars, progress lines and estimates of the remaining time."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, TextIO

from tqdm import tqdm

BAR_DELAY = 1.0  # seconds; a shorter computation shows no bar
LINE_INTERVAL = 10.0  # seconds between two lines without a terminal
NOTEBOOK_INTERVAL = 0.5  # seconds between two updates of a bar in a notebook
ESTIMATE_MIN_SECONDS = 60.0  # a shorter command prints no estimate


def duration(seconds: float) -> str:
    """Return seconds in words: '8 s', '2 min 5 s', '17 h 38 min'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


def estimate(steps: int, steps_per_second: float) -> str | None:
    """Return one line with the time that `steps` steps will take, None if under a minute."""
    seconds = steps / steps_per_second
    if seconds < ESTIMATE_MIN_SECONDS:
        return None
    speed = f"{steps_per_second:.3g} steps/s"
    return f"estimate: {duration(seconds)} for the remaining {steps:,} steps at {speed}"


def make_bar(file: TextIO | None = None, **options: Any) -> tqdm:
    """Return a progress bar: one line on `file` that is updated in place.

    In a terminal it disappears when it is closed. In a notebook it stays, as an output of the cell.
    On any other file the bar is disabled.
    """
    file = file or default_file()
    if is_notebook(file):
        in_cell = {"file": _CellOutput(), "mininterval": NOTEBOOK_INTERVAL, "disable": False}
        return tqdm(**in_cell | options)
    return tqdm(**{"file": file, "disable": None, "leave": False} | options)


class _CellOutput:
    """A file that shows the latest text written, as an output of the current cell.

    With carriage returns, a saved notebook would show every update.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        if not (text := text.strip()):
            return
        content = {"text/plain": text}
        if self._handle is None:
            from IPython import display  # installed, because this is a notebook

            self._handle = display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def flush(self) -> None:
        """Outputs are not buffered."""


def default_file() -> TextIO:
    """Return stderr, or stdout in a notebook, which shows stderr in red."""
    return sys.stdout if is_notebook(sys.stdout) else sys.stderr


def is_notebook(file: TextIO | None) -> bool:
    """Return whether a stream writes to the output of a notebook cell."""
    return type(file).__module__.startswith("ipykernel.")


def track(items: Iterable[Any], action: str, file: TextIO | None = None) -> Iterator[Any]:
    """Yield the items of a sized iterable and show the progress.

    Without a terminal, lines like 'scoring: 35%, 15 s left' replace the bar.
    """
    assert isinstance(items, Sized)
    bar = make_bar(file, iterable=items, desc=action, delay=BAR_DELAY)
    began = last = time.monotonic()
    for done, item in enumerate(bar):
        now = time.monotonic()
        if bar.disable and now - last >= LINE_INTERVAL:
            last = now
            left = duration((now - began) / done * (len(items) - done)) if done else "unknown time"
            line = f"{action}: {done / len(items):.0%}, {left} left"
            print(line, file=file or default_file(), flush=True)
        yield item


class Estimate:
    """Print `estimate` on stderr once, after the second call of a compiled function.

    The first call is not timed, because it compiles.
    """

    def __init__(self, steps: int):
        self._steps = steps
        self._first: tuple[int, float] | None = None
        self._is_printed = False

    def update(self, step: int) -> None:
        """Call this after each call of the function, with the number of steps so far."""
        now = time.perf_counter()
        if self._first is None:
            self._first = step, now
        elif not self._is_printed:
            self._is_printed = True
            speed = (step - self._first[0]) / (now - self._first[1])
            if line := estimate(self._steps - step, speed):
                tqdm.write(line, file=sys.stderr)
                sys.stderr.flush()


class TrainingProgress:
    """Shows a training: a bar, or one line per call without a terminal, and one estimate.

    All output waits for `show`, so that a state is saved before its output is displayed.
    """

    def __init__(self, start: int, steps: int, is_silent: bool = False):
        hidden = {"disable": True} if is_silent else {}
        bar = {"unit": " steps", "dynamic_ncols": True} | hidden
        self._bar = make_bar(total=steps, initial=start, **bar)
        self._step, self._steps, self._is_silent = start, steps, is_silent
        self._has_estimate = False
        self._waiting: list[Callable[[], None]] = []

    def update(self, step: int, train_loss: float, rate: float, mean_rate: float | None) -> None:
        """Show the loss and the speed at a step.

        `rate` is that of the last call in steps per second; `mean_rate` that of all calls but the
        first of each length, which compiles, or None if no length has occurred twice.
        """
        self._waiting.append(partial(self._update, step, train_loss, rate, mean_rate))

    def print(self, text: str) -> None:
        """Print without disturbing the bar."""
        self._waiting.append(partial(self._print, text))

    def show(self) -> None:
        """Show the waiting output in order."""
        while self._waiting:
            self._waiting.pop(0)()

    def close(self) -> None:
        """Show the waiting output and close the bar."""
        self.show()
        self._bar.close()

    def _update(self, step: int, train_loss: float, rate: float, mean_rate: float | None) -> None:
        self._bar.set_postfix(loss=f"{train_loss:.4f}", refresh=False)
        self._bar.update(step - self._step)
        self._step, steps_left = step, self._steps - step
        if self._bar.disable:
            left = "" if mean_rate is None else f", {duration(steps_left / mean_rate)} left"
            self._print(f"step {step}: train loss {train_loss:.4f}, {rate:.3g} steps/s{left}")
        if mean_rate is not None and not self._has_estimate:
            self._has_estimate = True
            if line := estimate(steps_left, mean_rate):
                self._print(line)

    def _print(self, text: str) -> None:
        if self._is_silent:
            return
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

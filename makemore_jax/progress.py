"""How far a long computation is and how long it will take."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO

from tqdm import tqdm

BAR_DELAY = 1.0  # seconds; what ends earlier needs no bar
LINE_INTERVAL = 10.0  # seconds between two lines where there is no terminal
ESTIMATE_MIN_SECONDS = 60.0  # a shorter command needs no estimate


def duration(seconds: float) -> str:
    """Seconds as people write them: '8 s', '2 min 5 s', '17 h 38 min'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


def estimate(steps: int, steps_per_second: float) -> str | None:
    """One line with the time that `steps` steps will take; None if that is under a minute."""
    seconds = steps / steps_per_second
    if seconds < ESTIMATE_MIN_SECONDS:
        return None
    speed = f"{steps_per_second:.3g} steps/s"
    return f"estimate: {duration(seconds)} for the remaining {steps:,} steps at {speed}"


def track(items: Iterable[Any], action: str, file: TextIO | None = None) -> Iterator[Any]:
    """Yield the items, which have a length, and show on stderr how far their reader is.

    A bar in a terminal; elsewhere a line every LINE_INTERVAL seconds, as 'scoring: 35%, 15 s left'.
    """
    assert isinstance(items, Sized)
    file = file or sys.stderr
    bar = tqdm(items, desc=action, file=file, disable=None, leave=False, delay=BAR_DELAY)
    began = last = time.monotonic()
    for done, item in enumerate(bar):
        now = time.monotonic()
        if bar.disable and now - last >= LINE_INTERVAL:
            last = now
            left = duration((now - began) / done * (len(items) - done)) if done else "unknown time"
            print(f"{action}: {done / len(items):.0%}, {left} left", file=file, flush=True)
        yield item


class Estimate:
    """Prints `estimate` on stderr once, after the second call of a compiled function.

    The first call compiles. Its time is not counted.
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

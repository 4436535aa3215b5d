"""What happens to a training when a signal asks it to stop.

- Until the first steps are done, the signal ends the process at once: nothing is lost.
- Between two calls of the compiled steps, the loop saves the state and returns.
- During an evaluation or sampling, the state is saved without their results. A run that resumes
  there repeats both (`integrity.resume.repeats_results`).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from makemore_jax.assemble import components
from makemore_jax.assemble.programs import make_programs
from makemore_jax.assemble.short_calls import call_lengths, in_short_calls
from makemore_jax.cli import interrupts
from makemore_jax.config import Config
from makemore_jax.data import Dataset
from makemore_jax.decoding import LanguageModel, Sample
from makemore_jax.errors import Stopped
from makemore_jax.parallel import processes
from makemore_jax.training.hooks import Hook
from makemore_jax.training.loop import ActiveRun
from makemore_jax.training.programs import Programs
from makemore_jax.training.state import TrainState


class Interrupted(Exception):
    """A signal ended an evaluation or sampling."""


class _EachCall(Hook):
    """A hook that is due after each call of the compiled steps. It adds no calls."""

    def is_due(self, step: int, is_last: bool) -> bool:
        return True


class Interruptions:
    """Signal handling for one run: a signal ends its steps, evaluation and sampling."""

    def __init__(self) -> None:
        self._signals = interrupts.StopSignals()
        self._run: ActiveRun | None = None
        self._state: TrainState | None = None

    def stop_signal(self) -> int:
        """Return the number of the signal that any process has received, or 0."""
        return processes.all_max(self._signals.received)

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived.

        Do nothing if there are several processes: they must finish an evaluation together.
        """
        if self._signals.received and not processes.is_distributed():
            raise Interrupted

    def make_programs(self, config: Config, dataset: Dataset) -> Programs:
        """Return the programs of a run; a signal ends its steps and evaluations early."""
        programs = make_programs(config, dataset, self.check)

        def train_steps(*args: Any) -> Any:
            result = programs.train_steps(*args)
            self._signals.record()  # there is something to save now
            return result

        num_tokens = config.train.batch_size * dataset.block_size
        lengths = call_lengths(config)
        short_calls = in_short_calls(train_steps, lengths, num_tokens, self.stop_signal)
        return programs._replace(train_steps=short_calls)

    def sample(self, lm: LanguageModel, key: jax.Array, num: int) -> list[Sample]:
        """Return samples on the primary process, which writes them, and none on the others."""
        if not processes.is_primary():
            return []
        return components.sample(lm, key, num, check=self.check)

    def make_hook(self, run: ActiveRun) -> Hook:
        """Return the hook that remembers the state that an interruption saves."""

        def remember(state: TrainState) -> TrainState:
            self._run, self._state = run, state
            return state

        return _EachCall(remember)

    @contextlib.contextmanager
    def catch_signals(self) -> Iterator[Callable[[], int]]:
        """Yield `stop_signal`.

        If a signal interrupts an evaluation, save the state and raise Stopped.
        """
        with self._signals:
            if not processes.is_distributed():
                self._signals.end_at_once()
            try:
                yield self.stop_signal
            except Interrupted:
                self._run.metrics.flush()
                self._run.checkpoints.save(self._state)
                raise Stopped(self._signals.received, int(self._state.step)) from None
        self._signals.received = 0  # the evaluation of the best model is not interrupted

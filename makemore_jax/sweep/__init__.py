"""Train many runs together in one compiled program, and compare them. See `__main__`."""

from makemore_jax.sweep.axes import parse_axis, with_values
from makemore_jax.sweep.finished import FinishedGroups
from makemore_jax.sweep.groups import sweep
from makemore_jax.sweep.results import aggregate_seeds, as_table, best_run
from makemore_jax.sweep.run_dir import write_run

__all__ = [
    "FinishedGroups",
    "aggregate_seeds",
    "as_table",
    "best_run",
    "parse_axis",
    "sweep",
    "with_values",
    "write_run",
]

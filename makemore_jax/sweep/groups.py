"""Divide the runs of a sweep into groups that share one compiled program, and train each group."""

import itertools
import sys
from collections.abc import Callable
from typing import Any

from makemore_jax.config import Config
from makemore_jax.sweep.axes import VMAPPED_FIELDS, Values, with_values
from makemore_jax.sweep.finished import FinishedGroups
from makemore_jax.sweep.results import Result
from makemore_jax.sweep.training import state_shapes, train_together


def sweep(
    config: Config,
    axes: dict[str, list[Any]],
    num_seeds: int,
    finished: FinishedGroups | None = None,
    check_interrupt: Callable[[], None] = lambda: None,
    on_group: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Train all combinations of the axes' values with `num_seeds` seeds each.

    Return the results in the order of the combinations, then of the seeds. Groups in `finished` are
    not trained again. Each newly trained group is added to it. `check_interrupt` is called between
    compiled calls and may raise KeyboardInterrupt. `on_group` gets the results so far after each
    group. UserError, before anything is trained, for values that can't be trained.
    """
    members = [
        dict(zip(axes, values, strict=True)) | {"seed": (config.seed + i) % 2**32}
        for values in itertools.product(*axes.values())
        for i in range(num_seeds)
    ]
    for values in members:
        with_values(config, values)
    groups = _make_groups(members)
    templates = [state_shapes(config, [members[i] for i in indices]) for indices in groups]
    if finished:
        finished.create_folder()
    results: dict[int, Result] = {}
    for number, (indices, template) in enumerate(zip(groups, templates, strict=True), start=1):
        group = [members[i] for i in indices]
        group_results = finished.load(config, group, template) if finished else None
        if len(groups) > 1:
            num_runs = f"{len(group)} run{'' if len(group) == 1 else 's'}"
            status = "already finished" if group_results else num_runs
            print(f"group {number} of {len(groups)}: {status}", file=sys.stderr, flush=True)
        if not group_results:
            group_results = train_together(config, group, check_interrupt)
            if finished:
                finished.save(config, group, group_results)
        results |= zip(indices, group_results, strict=True)
        on_group([results[i] for i in sorted(results)])
    return [results[i] for i in range(len(members))]


def _make_groups(members: list[Values]) -> list[list[int]]:
    """Return the indices of the members that differ only in VMAPPED_FIELDS and seed, by group."""
    groups: dict[tuple, list[int]] = {}
    for i, values in enumerate(members):
        shared = tuple((k, v) for k, v in values.items() if k not in (*VMAPPED_FIELDS, "seed"))
        groups.setdefault(shared, []).append(i)
    return list(groups.values())

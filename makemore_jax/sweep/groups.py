"""Divide the runs of a sweep into groups that share one compiled program, and train each group."""

import itertools
import sys
from typing import Any

from makemore_jax.config import Config
from makemore_jax.sweep.axes import VMAPPED_FIELDS, Values, with_values
from makemore_jax.sweep.finished import FinishedGroups
from makemore_jax.sweep.results import Result
from makemore_jax.sweep.training import train_together


def sweep(
    config: Config,
    axes: dict[str, list[Any]],
    num_seeds: int,
    finished: FinishedGroups | None = None,
) -> list[Result]:
    """Train all combinations of the axes' values with `num_seeds` seeds each.

    Return the results in the order of the combinations, then of the seeds. Groups in `finished` are
    not trained again. Each newly trained group is added to it.
    """
    members = [
        dict(zip(axes, values, strict=True)) | {"seed": (config.seed + i) % 2**32}
        for values in itertools.product(*axes.values())
        for i in range(num_seeds)
    ]
    for values in members:
        with_values(config, values)  # reports an invalid value before anything is trained
    groups = _make_groups(members)
    results: dict[int, Result] = {}
    for number, indices in enumerate(groups, start=1):
        group = [members[i] for i in indices]
        group_results = finished.load(config, group) if finished else None
        if len(groups) > 1:
            status = "already finished" if group_results else f"{len(group)} runs"
            print(f"group {number} of {len(groups)}: {status}", file=sys.stderr, flush=True)
        if not group_results:
            group_results = train_together(config, group)
            if finished:
                finished.save(config, group, group_results)
        results |= zip(indices, group_results, strict=True)
    return [results[i] for i in range(len(members))]


def _make_groups(members: list[Values]) -> list[list[int]]:
    """Return the indices of the members that differ only in VMAPPED_FIELDS and seed, by group."""
    groups: dict[tuple, list[int]] = {}
    for i, values in enumerate(members):
        shared = tuple((k, v) for k, v in values.items() if k not in (*VMAPPED_FIELDS, "seed"))
        groups.setdefault(shared, []).append(i)
    return list(groups.values())

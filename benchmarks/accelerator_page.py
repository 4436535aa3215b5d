"""The page of benchmarks.accelerator, with a table for each item."""

from statistics import mean
from typing import Any

from benchmarks import sides
from benchmarks.accelerator_items import ITEMS, MAKEMORE, OURS, TORCH_VARIANTS
from benchmarks.accelerator_settings import KINDS


def shakespeare_table(results: dict[str, Any]) -> str:
    """Return a table of the losses, the time and the speed of the training."""
    run = results["run"]
    cells = {
        "steps": f"{run['step']:,}",
        "dev loss, exact": f"{run['dev_loss']:.4f} (step {run['best_step']:,})",
        "dev loss, random crops": _show(run.get("crops_loss"), "{:.4f}"),
        "seconds, all": _show(run.get("seconds"), "{:.0f}"),
        "ms per step": _show(run.get("milliseconds"), "{:.2f}"),
        "million tokens/s": _show(run.get("tokens_per_second"), "{:.2f}", 1e-6),
        "TFLOP/s": _show(run.get("flops_per_second"), "{:.0f}", 1e-12),
        "FLOPs utilization": _show(run.get("utilization"), "{:.0f}%", 100),
    }
    return sides.as_table(list(cells), [list(cells.values())])


def shakespeare_best_table(results: dict[str, Any]) -> str:
    """Return a table of the losses of each seed, their mean, and the best seed."""
    header = ["seed", "parameters", "best step", "train", "dev loss, exact"]
    header += ["dev loss, random crops", "seconds, all"]
    rows = [
        [
            *(seed, _show(run.get("num_params"), "{:,}"), f"{run['best_step']:,}"),
            *(_show(run.get(name), "{:.4f}") for name in ("train_loss", "dev_loss", "crops_loss")),
            _show(run.get("seconds"), "{:.0f}"),
        ]
        for seed, run in results.items()
    ]
    for title, summarize in (("mean", mean), ("best", min)):
        losses = []
        for name in ("dev_loss", "crops_loss"):
            column = [run[name] for run in results.values() if name in run]
            losses.append(f"{summarize(column):.4f}" if column else "")
        rows.append([title, "", "", "", *losses, ""])
    return sides.as_table(header, rows)


def shakespeare_best_choices_table(results: dict[str, Any]) -> str:
    """Return a table of the losses of each choice."""
    header = ["choice", "steps", "best step", "train", "held out"]
    rows = [
        [
            *(choice, f"{run['step']:,}", f"{run['best_step']:,}"),
            *(_show(run.get(name), "{:.4f}") for name in ("train_loss", "dev_loss")),
        ]
        for choice, run in results.items()
    ]
    return sides.as_table(header, rows)


def _show(value: Any, template: str, factor: float = 1) -> str:
    """Format a number. A missing number is empty, an error message is a dash."""
    if value is None:
        return ""
    return "-" if isinstance(value, str) else template.format(factor * value)


def train_table(results: dict[str, Any]) -> str:
    """Return a table of milliseconds per step, and the ratio to each PyTorch variant."""
    rows = []
    for kind in KINDS:
        if times := results.get(kind):
            theirs = [times.get(variant) for variant in TORCH_VARIANTS]
            ratios = [
                None if t is None else t if isinstance(t, str) else t / times[OURS] for t in theirs
            ]
            cells = [_show(time, "{:.3f}") for time in (times[OURS], *theirs)]
            rows.append([kind, *cells, *(_show(ratio, "{:.1f}") for ratio in ratios)])
    header = [
        "ms per step",
        OURS,
        *TORCH_VARIANTS,
        *(f"ratio to {variant}" for variant in TORCH_VARIANTS),
    ]
    return sides.as_table(header, rows)


def sample_table(results: dict[str, Any]) -> str:
    """Return a table of the milliseconds here and in makemore's loop, and the ratio."""
    rows = []
    for kind in KINDS:
        if seconds := results.get(kind):
            theirs = seconds.get(MAKEMORE)
            cells = [_show(s, "{:.1f}", 1e3) for s in (seconds[OURS], theirs)]
            rows.append([kind, *cells, _show(theirs and theirs / seconds[OURS], "{:.1f}")])
    return sides.as_table(["ms", OURS, MAKEMORE, "ratio"], rows)


def sweep_table(results: dict[str, Any]) -> str:
    """Return a table of the seconds of a single run and of a sweep.

    The last column is the time of the sweep, relative to the same number of single runs.
    """
    rows = []
    for kind in KINDS:
        if seconds := results.get(kind):
            (_, one), (members, swept) = seconds.items()
            share = swept / (int(members) * one)
            rows.append([kind, members, f"{one:.1f}", f"{swept:.1f}", f"{share:.2f}"])
    return sides.as_table(
        ["model", "runs", "single run, s", "sweep, s", "relative to single runs"], rows
    )


def parity_table(results: dict[str, Any]) -> str:
    """Return a table of the largest differences of each model."""
    names = ("logits", "loss", "gradients", "loss_curve", "continuations")
    rows = [
        [
            kind,
            *(f"{results[kind]['differences'][name]:.2g}" for name in names),
            ", ".join(results[kind]["exceeded"]) or "none",
        ]
        for kind in KINDS
        if kind in results
    ]
    return sides.as_table(["largest difference", *names, "above tolerance"], rows)


TABLES = {
    "shakespeare": shakespeare_table,
    "shakespeare_best": shakespeare_best_table,
    "shakespeare_best_choices": shakespeare_best_choices_table,
    "train": train_table,
    "sample": sample_table,
    "sweep": sweep_table,
    "parity": parity_table,
}


def as_page(results: dict[str, dict[str, Any]]) -> str:
    """Return the tables of all items, each with its status, device and versions."""
    parts = []
    for name in ITEMS:
        if name not in results:
            continue
        item = dict(results[name])
        status, machine = item.pop("status"), item.pop("machine", None)
        line = f"`{name}`: {status}"
        if machine:
            versions = machine["versions"]
            line += f"; {machine['device']}, jax {versions['jax']}, torch {versions['torch']}"
        parts += [f"{line}.", TABLES[name](item)] if item else [f"{line}."]
    return "\n\n".join(parts) + "\n"

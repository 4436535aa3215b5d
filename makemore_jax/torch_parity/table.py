"""Tables and figures of comparison results."""

import math
from pathlib import Path
from typing import Any

from makemore_jax.errors import UserError


def as_table(results: list[dict[str, Any]]) -> str:
    """Return the differences of each model as a Markdown table. (!) marks exceeded tolerances."""
    columns = ("logits", "loss", "gradients", "parameters", "loss_curve", "continuations")
    compiled = [name for name in results[0]["differences"] if name.startswith("compiled_")]
    snapshots = sorted({i for r in results for i in r["parameters_after"]})
    titles = ["model", "logits", "loss", "gradients"]
    titles += [f"parameters after {i}" for i in snapshots]
    titles += ["loss curve", "continuations", *map(show_name, compiled)]
    titles += ["ms a step, JAX", "PyTorch"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for r in results:
        names = [*columns[:-1], *compiled]
        cells = {name: f"{r['differences'].get(name, math.nan):.1e}" for name in names}
        cells["continuations"] = f"{10 - r['differences']['continuations']} of 10"
        for name in r["exceeded"]:
            cells[name] += " (!)"
        after = [f"{r['parameters_after'].get(i, math.nan):.1e}" for i in snapshots]
        after[-1] += " (!)" if "parameters" in r["exceeded"] else ""
        row = [r["kind"], cells["logits"], cells["loss"], cells["gradients"], *after]
        row += [cells[name] for name in ("loss_curve", "continuations", *compiled)]
        row += [f"{r['milliseconds'][side]:.2f}" for side in ("jax", "torch")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def show_name(difference: str) -> str:
    """Return a title: "compiled_loss_curve_2" as "compiled, 2 devices: loss curve"."""
    name, _, num_devices = difference.removeprefix("compiled_").rpartition("_")
    if not difference.startswith("compiled_"):
        return difference.replace("_", " ")
    devices = "1 device" if num_devices == "1" else f"{num_devices} devices"
    return f"compiled, {devices}: {name.replace('_', ' ')}"


def as_details(result: dict[str, Any]) -> str:
    """Return the difference of each gradient, and the ten continuations."""
    lines = ["", "gradients before the first step, largest difference relative to largest entry:"]
    for name, value in result["differences"]["gradient_of_each"].items():
        lines.append(f"  {value:.1e}  {name}")
    lines += ["", "greedy continuations of ten prompts:"]
    for prompt, ours, theirs in result["continuations"]:
        sides = "both" if ours == theirs else f"JAX; PyTorch has {theirs!r}"
        lines.append(f"  {prompt!r}: {ours!r} ({sides})")
    return "\n".join(lines)


def replace_table(page: Path, dtype: str, table: str) -> None:
    """Replace the table between the comments of a page that name its precision."""
    begin, end = f"<!-- {dtype} -->", f"<!-- end of {dtype} -->"
    before, has_begin, rest = page.read_text("utf-8").partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise UserError(f"--doc: {page} has no {begin} and {end}")
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


def draw_curves(results: list[dict[str, Any]], file: Path) -> None:
    """Draw both loss curves of each model, and their difference."""
    from makemore_jax.plots import curves

    curves.paired_curves({r["kind"]: r["curves"] for r in results}, file)

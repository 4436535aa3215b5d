"""Tables and figures of comparison results."""

import math
from pathlib import Path
from typing import Any

from makemore_jax.errors import UserError


def as_table(results: list[dict[str, Any]]) -> str:
    """Return the differences of each model in Markdown tables. (!) marks exceeded tolerances.

    The first table has the step on its own. The second one has the compiled program of train.py, if
    it was compared.
    """
    compiled = [name for name in results[0]["differences"] if name.startswith("compiled_")]
    snapshots = sorted({i for r in results for i in r["parameters_after"]})
    titles = ["model", "logits", "loss", "gradients"]
    titles += [f"parameters after {i}" for i in snapshots] + ["loss curve", "continuations"]
    rows = []
    for r in results:
        after = [f"{r['parameters_after'].get(i, math.nan):.1e}" for i in snapshots]
        after[-1] += _mark(r, "parameters")
        row = [r["kind"], *(_cell(r, name) for name in ("logits", "loss", "gradients")), *after]
        agreed = f"{10 - r['differences']['continuations']} of 10{_mark(r, 'continuations')}"
        rows.append([*row, _cell(r, "loss_curve"), agreed])
    tables = [_as_markdown(titles, rows)]
    if compiled:
        rows = [[r["kind"], *(_cell(r, name) for name in compiled)] for r in results]
        tables.append(_as_markdown(["model", *map(show_name, compiled)], rows))
    return "\n\n".join(tables)


def _cell(result: dict[str, Any], name: str) -> str:
    return f"{result['differences'].get(name, math.nan):.1e}{_mark(result, name)}"


def _mark(result: dict[str, Any], name: str) -> str:
    return " (!)" if name in result["exceeded"] else ""


def _as_markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show_name(difference: str) -> str:
    """Return a title: "compiled_loss_curve_2" as "compiled, 2 devices: loss curve"."""
    name, _, num_devices = difference.removeprefix("compiled_").rpartition("_")
    if not difference.startswith("compiled_"):
        return difference.replace("_", " ")
    devices = "1 device" if num_devices == "1" else f"{num_devices} devices"
    return f"compiled, {devices}: {name.replace('_', ' ')}"


def as_details(result: dict[str, Any]) -> str:
    """Return the times, the difference of each gradient, and the ten continuations."""
    times = result["milliseconds"]
    lines = [
        "",
        f"milliseconds per step, one step at a time: JAX {times['jax']:.2f}, "
        f"PyTorch {times['torch']:.2f}",
    ]
    lines += ["", "gradients before the first step, largest difference relative to largest entry:"]
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

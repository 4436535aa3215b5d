"""GPT-2's block and that of 2025, with AdamW and with Muon: python -m benchmarks.modern

Trains the families transformer and modern with both optimizers: on names.txt with the settings of
configs/transformer.py, and on Tiny Shakespeare with those of configs/shakespeare_cpu.py (only if
`python -m makemore_jax.download shakespeare` has fetched it). Data, sizes, learning rate, steps and
seed are the same in the rows of a text. Writes the table to docs/benchmarks and to docs/results.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.reproduce import write_page
from benchmarks.whole_training import milliseconds, train
from makemore_jax.download import locate

# Per text: its config, and the overrides with which the family modern can use that config.
TEXTS = {
    "names": ("transformer", ()),
    "shakespeare": ("shakespeare_cpu", ("bias=True", "tied=False", "init_scheme=pytorch")),
}
ROWS = [(kind, name) for kind in ("transformer", "modern") for name in ("adamw", "muon")]


def command(text: str, kind: str, optimizer: str, steps: int) -> list[str]:
    """Return the arguments of Python that train a row, without the path of the data."""
    config, overrides = TEXTS[text]
    flags = [f"--config.optimizer.name={optimizer}", f"--config.train.steps={steps}"]
    if kind == "modern":
        flags += [f"--config.model.{override}" for override in ("kind=modern", *overrides)]
    return ["train.py", "--config", f"configs/{config}.py", *flags]


def measure(text: str, kind: str, optimizer: str, steps: int, path: Path | None) -> dict[str, Any]:
    """Train a row. Return its losses, and the milliseconds per step after compilation."""
    flags = [f"--config.data.path={path}"] if path else []
    flags += ["--config.train.sample_every=1000000", "--config.train.checkpoint_every=1000000"]
    _, lines, summary = train([*command(text, kind, optimizer, steps), *flags])
    fields = ("num_params", "steps", "best_step", "train_loss", "dev_loss", "test_loss")
    row = {"text": text, "kind": kind, "optimizer": optimizer}
    row |= {f: summary[f] for f in fields if f in summary}
    return row | {"milliseconds": milliseconds(lines)}


def as_table(results: list[dict[str, Any]]) -> str:
    """Return a table with a row per training."""
    header = ["text", "model", "optimizer", "parameters", "steps", "train", "dev", "ms per step"]
    rows = []
    for r in results:
        losses = [f"{r['train_loss']:.3f}", f"{r['dev_loss']:.3f}", f"{r['milliseconds']:.1f}"]
        sizes = [f"{r['num_params']:,}", f"{r['steps']:,}"]
        rows.append([r["text"], r["kind"], r["optimizer"], *sizes, *losses])
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--steps", type=int, default=2_000, help="steps of each training (2,000)")
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    paths = {"names": None, "shakespeare": locate("shakespeare", sides.ROOT / "data")}
    results = [
        measure(text, kind, optimizer, args.steps, paths[text])
        for text in args.texts
        if text == "names" or paths[text]
        for kind, optimizer in ROWS
    ]
    sides.report("modern", as_table(results), {"results": results}, args.out)
    if args.out == sides.OUT:
        write_page(json.loads((sides.ROOT / "docs" / "results.json").read_text("utf-8")))


if __name__ == "__main__":
    main()

"""Which choices help a GPT on Tiny Shakespeare: python -m benchmarks.shakespeare_choices

configs/shakespeare.py overfits: it reads the text dozens of times. This benchmark trains it at a
tenth of the size: 1.0 million parameters and the first 100,000 characters of the text, so that a
CPU can train every row. A network reads this text 31 times. Losses are those of the next 50,000
characters. All of these characters are in the train split; the validation split is not read. Writes
docs/shakespeare/choices.json after each row, and the table in docs/shakespeare.md at the end.
`--rows` trains only these rows and keeps the results of the others.

Needs the text: python -m makemore_jax.download shakespeare
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.configs import shakespeare_text
from benchmarks.whole_training import milliseconds, train

OUT = sides.ROOT / "docs" / "shakespeare"
NUM_TRAIN, NUM_HELD_OUT = 100_000, 50_000  # characters
SIZES = (
    f"data.train_fraction={NUM_TRAIN / (NUM_TRAIN + NUM_HELD_OUT)}",
    *("data.block_size=64", "model.n_layer=4", "model.n_head=4", "model.n_embd=144"),
    *("model.dtype=float32", "model.dropout_rng=threefry2x32", "train.batch_size=32"),
    *("train.steps=1500", "train.eval_every=100", "train.log_every=50", "train.num_samples=0"),
    *("optimizer.warmup_steps=100", "train.checkpoint_every=1000000"),
)
GPT2_OPTIONS_OFF = ("model.bias=True", "model.tied=False", "model.init_scheme=pytorch")
MODERN = ("model.kind=modern", *GPT2_OPTIONS_OFF, "optimizer.min_learning_rate=0")
MUON = ("optimizer.name=muon", "optimizer.learning_rate=4e-3", "optimizer.weight_decay=1")
# A batch has 32 crops for each network.
TWO = ("model.kind=mixture", "model.networks=2", "train.batch_size=64")
FOUR = ("model.kind=mixture", "model.networks=4", "train.batch_size=128")
# Per row: the fields that differ from configs/shakespeare.py at this size.
ROWS = {
    "configs/shakespeare.py": (),
    "dropout 0.4": ("model.dropout=0.4",),
    "modern block": MODERN,
    "modern block, Muon, weight decay 1, dropout 0.4": (*MODERN, *MUON, "model.dropout=0.4"),
    "modern block, two networks": (*MODERN, *TWO),
    "modern block, four networks of half the width": (*MODERN, *FOUR, "model.n_embd=72"),
}


def measure(fields: tuple[str, ...], data: Path) -> dict[str, Any]:
    """Train a row. Return its losses at the best step, and the milliseconds per step."""
    flags = [f"--config.{field}" for field in (f"data.path={data}", *SIZES, *fields)]
    _, lines, summary = train(["train.py", "--config", "configs/shakespeare.py", *flags])
    names = ("num_params", "steps", "best_step", "train_loss", "dev_loss")
    losses = {name: summary[name] for name in names}
    return losses | {"fields": fields, "milliseconds": milliseconds(lines)}


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row per choice."""
    header = ["choice", "parameters", "best step", "train", "held out", "ms per step"]
    rows = [
        [
            *(choice, f"{r['num_params']:,}", f"{r['best_step']:,}"),
            *(f"{r['train_loss']:.3f}", f"{r['dev_loss']:.3f}", f"{r['milliseconds']:.0f}"),
        ]
        for choice, r in results.items()
    ]
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    text = shakespeare_text("shakespeare_choices")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "text.txt"
        data.write_text(text.read_text("utf-8")[: NUM_TRAIN + NUM_HELD_OUT], "utf-8")
        results = sides.stored("choices", ROWS, args.out)
        for row in args.rows:
            results[row] = measure(ROWS[row], data)
            results = {name: results[name] for name in ROWS if name in results}
            sides.report("choices", as_table(results), {"results": results}, args.out)
    if args.out == OUT:
        sides.insert(sides.ROOT / "docs" / "shakespeare.md", "choices", as_table(results))


if __name__ == "__main__":
    main()

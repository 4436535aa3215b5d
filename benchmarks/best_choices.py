"""How configs/best.py was chosen: python -m benchmarks.best_choices

Trains variants of configs/best.py for a quarter of its steps. All lines are training lines of
makemore's split: 1,000 of them are held out here, and the 1,000 test lines are not read. Writes
docs/benchmarks/best_choices.{json,md}.

Needs makemore's list: python -m makemore_jax.download names
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.configs import makemore_list
from benchmarks.whole_training import milliseconds, train
from makemore_jax.original_splits import makemore

SEED = 3407
STEPS = 2_500
# Per row: the fields that differ from configs/best.py. A single network gets a batch of 64.
ONE = ("model.networks=1", "train.batch_size=64")
NO_NGRAMS = ("model.ngram_contexts=None", "model.ngram_weight=0")
ROWS = {
    "one network": (*ONE, *NO_NGRAMS),
    "one network and n-grams": ONE,
    "four networks": NO_NGRAMS,
    "four networks and n-grams (configs/best.py)": (),
    "the same, dropout 0.2": ("model.dropout=0.2",),
    "the same, AdamW": ("optimizer.name=adamw",),
}


def write_words(names: Path, out: Path) -> None:
    """Write the training lines of makemore's split."""
    words = names.read_text("utf-8").split()
    train_words = [words[i] for i in makemore(len(words), SEED)["train"]]
    out.write_text("\n".join(train_words), "utf-8")


def measure(fields: tuple[str, ...], data: Path) -> dict[str, Any]:
    """Train a row. Return its losses and the milliseconds per step."""
    steps = f"train.steps={STEPS}", f"train.eval_every={STEPS}", f"train.sample_every={STEPS}"
    fixed = f"data.path={data}", "data.split=makemore", "train.num_samples=0", *steps
    flags = [f"--config.{field}" for field in (*fixed, *fields)]
    _, lines, summary = train(["train.py", "--config", "configs/best.py", *flags])
    results = {name: summary[name] for name in ("num_params", "train_loss", "dev_loss")}
    return {"fields": fields} | results | {"milliseconds": milliseconds(lines)}


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row per choice."""
    header = ["choice", "parameters", "train", "held out", "ms per step"]
    rows = [
        [
            *(choice, f"{r['num_params']:,}", f"{r['train_loss']:.3f}", f"{r['dev_loss']:.3f}"),
            f"{r['milliseconds']:.0f}",
        ]
        for choice, r in results.items()
    ]
    return sides.as_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    names = makemore_list("best_choices")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "words.txt"
        write_words(names, data)
        results = {row: measure(ROWS[row], data) for row in args.rows}
    sides.report("best_choices", as_table(results), {"results": results}, args.out)


if __name__ == "__main__":
    main()

"""All models and n-grams on the same data: python -m benchmarks.leaderboard

Trains each config with three seeds on makemore's list, for every split (lecture, makemore,
holdout), with and without its repeated lines, and samples 1,000 lines from each model. n-grams with
Kneser-Ney smoothing, orders 1 to 6, are counted on the same lines. Writes results.json, results.md
and two figures (test loss by parameters, and by training time) to docs/leaderboard. Every training
is added to results.json when it ends, so an interrupted benchmark continues where it stopped.

In the makemore split dev and test are the same lines. The seed also selects the lines of the
makemore and holdout splits, so the spread over seeds includes the spread over splits.

Needs makemore's list: python -m makemore_jax.download names
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides
from benchmarks.whole_training import ROOT, trained
from makemore_jax.assemble import load_data
from makemore_jax.config import DataConfig
from makemore_jax.download import locate
from makemore_jax.errors import UserError
from makemore_jax.lectures import ngrams
from makemore_jax.models import MODELS
from makemore_jax.workdir import write_json

OUT = ROOT / "docs" / "leaderboard"
SEEDS = (3407, 3408, 3409)
CONDITIONS = tuple(
    f"{split}{repeats}"
    for split in ("lecture", "makemore", "holdout")
    for repeats in ("", ", no repeats")
)
ORDERS = tuple(range(1, ngrams.MAX_ORDER + 1))
TARGET = 2.10  # dev loss, for the time to reach it
NUM_SAMPLES = 1_000


def flags_of(condition: str, seed: int) -> list[str]:
    """Return the flags of train.py for a condition, except for the path of the data."""
    split, _, repeats = condition.partition(", ")
    flags = [f"--config.data.split={split}", f"--config.seed={seed}"]
    return flags + ["--config.data.dedup=True"] * bool(repeats)


def train(model: str, condition: str, seed: int, path: Path, steps: int | None) -> dict[str, Any]:
    """Run train.py and sample.py. Return the losses, the times and the shares of the samples."""
    command = ["train.py", "--config", f"configs/{model}.py", *flags_of(condition, seed)]
    command += [f"--config.data.path={path}", "--config.train.sample_every=100000000"]
    if steps:
        command += [f"--config.train.steps={steps}"]
    with trained(command) as (folder, training):
        sample = ["sample.py", "--workdir", folder, "--num", str(NUM_SAMPLES), "--format", "json"]
        arguments = {"cwd": ROOT, "check": True, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        printed = subprocess.run([sys.executable, *sample], **arguments).stdout
    samples, summary = [json.loads(line) for line in printed.splitlines()], training.summary
    fields = ("num_params", "steps", "best_step", "train_loss", "dev_loss", "test_loss", "seconds")
    return {
        **{name: summary[name] for name in fields},
        "milliseconds_per_step": 1e3 / summary["steps_per_second"],
        "seconds_to_target": seconds_to_target(training.lines),
        **shares([s["text"] for s in samples], [s["found_in"] for s in samples]),
    }


def seconds_to_target(metrics: list[dict[str, Any]]) -> float | None:
    """Return the time at which the dev loss was TARGET or less for the first time, or None."""
    seconds = {line["step"]: line["seconds"] for line in metrics if "seconds" in line}
    for line in metrics:
        if line.get("dev_loss", math.inf) <= TARGET:
            return min((s for step, s in seconds.items() if step >= line["step"]), default=None)
    return None


def shares(texts: list[str], places: list[str]) -> dict[str, float]:
    """Return the shares of samples that are new, that are unique, and that are in held-out data.

    `new` samples are in no split and have ended. Held-out samples are in dev or test.
    """
    return {
        "new": places.count("new") / len(texts),
        "unique": len(set(texts)) / len(texts),
        "held_out": (places.count("dev") + places.count("test")) / len(texts),
    }


def count_ngrams(order: int, condition: str, seed: int, path: Path) -> dict[str, Any]:
    """Count n-grams. Return what `train` returns, without times."""
    split, _, repeats = condition.partition(", ")
    dataset = load_data(DataConfig(path=str(path), split=split, dedup=bool(repeats)), seed)
    model = ngrams.count(dataset.splits["train"], order, dataset.vocab.size)
    losses = {f"{name}_loss": ngrams.nll(model, part) for name, part in dataset.splits.items()}
    rng = np.random.default_rng(seed)
    samples = ngrams.sample(model, rng, NUM_SAMPLES, dataset.max_len)
    texts = ["".join(dataset.vocab.chars[token - 1] for token in tokens) for tokens in samples]
    is_cut = [len(tokens) == dataset.max_len for tokens in samples]
    num_params = sum(len(table.grams) for table in model.tables)
    places = dataset.found_in(texts, is_cut)
    return {"num_params": num_params, **losses, **shares(texts, places)}


def as_markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return a table per condition. Rows are sorted by their test loss."""
    parts = []
    for condition in CONDITIONS:
        runs_of = _by_model(results, condition)
        if not runs_of:
            continue
        header = ["model", "parameters", "train", "dev", "test", "bits", "new", "unique"]
        header += ["held out", f"s to dev {TARGET:.2f}", "ms per step"]
        by_test = sorted(runs_of, key=lambda m: _mean(runs_of[m], "test_loss"))
        rows = [_row(model, runs_of[model]) for model in by_test]
        parts.append(f"### {condition}\n\n{sides.as_table(header, rows)}\n")
    return "\n".join(parts)


def _by_model(results: dict[str, Any], condition: str) -> dict[str, list[dict[str, Any]]]:
    runs_of: dict[str, list[dict[str, Any]]] = {}
    for name, run in results.items():
        model, run_condition, _ = name.split("/")
        if run_condition == condition:
            runs_of.setdefault(model, []).append(run)
    return runs_of


def _row(model: str, runs: list[dict[str, Any]]) -> list[str]:
    losses = [_with_spread([run[f"{name}_loss"] for run in runs]) for name in ("train", "dev")]
    bits = _mean(runs, "test_loss") / math.log(2)
    samples = [f"{100 * _mean(runs, name):.0f}%" for name in ("new", "unique", "held_out")]
    reached = [run["seconds_to_target"] for run in runs if run.get("seconds_to_target")]
    # A mean over some of the seeds would hide that the others did not reach the target.
    time = f"{statistics.mean(reached):.1f}" if len(reached) == len(runs) else "-"
    step = f"{_mean(runs, 'milliseconds_per_step'):.2f}" if "seconds" in runs[0] else "-"
    return [
        model,
        f"{_mean(runs, 'num_params'):,.0f}",
        *losses,
        _with_spread([run["test_loss"] for run in runs]),
        f"{bits:.3f}",
        *samples,
        time,
        step,
    ]


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


def _with_spread(values: list[float]) -> str:
    """Return the mean and, if there are several values, half their range."""
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def draw(results: dict[str, Any], condition: str, folder: Path) -> None:
    """Draw the test loss by parameters and by training time, one point per model."""
    from makemore_jax.plots import style

    runs_of = _by_model(results, condition)
    for name, label in (("num_params", "parameters"), ("seconds", "training time, seconds")):
        figure, ax = style.plt.subplots(figsize=(5.6, 4.2), layout="constrained")
        for model, runs in runs_of.items():
            if name not in runs[0]:
                continue
            x, y = _mean(runs, name), _mean(runs, "test_loss")
            is_ngram = model.endswith("-gram")
            ax.plot(x, y, "s" if is_ngram else "o", color="0.6" if is_ngram else "tab:blue")
            ax.annotate(model, (x, y), (5, 3), textcoords="offset points", fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.set_ylabel("test loss, nats per character")
        ax.set_title(f"makemore's list, {condition} split", fontsize=10)
        ax.margins(x=0.15)
        ax.grid(color="0.92")
        style.save(figure, folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [kind for kind in sides.KINDS if kind in MODELS]
    parser.add_argument("--models", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds, 1 to 3")
    parser.add_argument("--steps", type=int, help="number of steps (default: as in each config)")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    path = locate("names", ROOT / "data")
    if path is None:
        sys.exit("leaderboard: needs makemore's list: python -m makemore_jax.download names")
    file = arguments.out / "results.json"
    results = json.loads(file.read_text("utf-8"))["results"] if file.exists() else {}
    for condition in arguments.conditions:
        for seed in SEEDS[: arguments.seeds]:
            for order in ORDERS:
                name = f"{order}-gram/{condition}/{seed}"
                results[name] = count_ngrams(order, condition, seed, path)
            for model in arguments.models:
                name = f"{model}/{condition}/{seed}"
                if name in results:
                    continue
                print(name, file=sys.stderr)
                results[name] = train(model, condition, seed, path.absolute(), arguments.steps)
                arguments.out.mkdir(parents=True, exist_ok=True)
                write_json(file, {"machine": sides.machine(), "results": results})
    sides.report("results", as_markdown(results), {"results": results}, arguments.out)
    try:
        draw(results, arguments.conditions[0], arguments.out)
    except UserError as error:
        print(f"leaderboard: no figures: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""All models and n-grams on the same data: python -m benchmarks.leaderboard

Trains each config with three seeds on makemore's list, for every split (lecture, makemore,
holdout), with and without its repeated lines, and on names.txt. Samples 1,000 lines from each
model. n-grams with Kneser-Ney smoothing, orders 1 to 6, are counted on the same lines. Writes
results.json and two figures (test loss by parameters, and by training time) to docs/leaderboard,
the page docs/leaderboard.md and the README's table. Every training is added to results.json when it
ends, so an interrupted benchmark continues where it stopped. `--page` trains nothing: it writes the
page, the figures and the README's table again.

`--models best --seeds 1` adds configs/best.py, which is not among the default models because it
trains much longer.

Needs makemore's list: python -m makemore_jax.download names
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import leaderboard_page, sides
from benchmarks.configs import makemore_list
from benchmarks.leaderboard_page import CONDITIONS, FIGURES, SEEDS, TARGET, TIMED, data_of
from benchmarks.whole_training import ROOT, trained
from makemore_jax.assemble import load_data
from makemore_jax.cli import startup
from makemore_jax.config import DataConfig
from makemore_jax.errors import UserError
from makemore_jax.lectures import ngrams
from makemore_jax.workdir import write_json

OUT = ROOT / "docs" / "leaderboard"
MODELS = (*sides.KINDS, "modern")
ORDERS = tuple(range(1, ngrams.MAX_ORDER + 1))
NUM_SAMPLES = 1_000


def train(model: str, condition: str, seed: int, path: str, steps: int | None) -> dict[str, Any]:
    """Run train.py and sample.py. Return the losses, the times and the shares of the samples."""
    data = data_of(condition, path)
    command = ["train.py", "--config", f"configs/{model}.py", f"--config.seed={seed}"]
    command += [f"--config.data.{name}={value}" for name, value in data.items()]
    command += ["--config.train.sample_every=100000000"]
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
        "processor": startup.processor(),
        "milliseconds_per_step": (speed := summary["steps_per_second"]) and 1e3 / speed,
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


def count_ngrams(order: int, condition: str, seed: int, path: str) -> dict[str, Any]:
    """Count n-grams. Return what `train` returns, without times."""
    dataset = load_data(DataConfig(**data_of(condition, path)), seed)
    model = ngrams.count(dataset.splits["train"], order, dataset.vocab.size)
    losses = {f"{name}_loss": ngrams.nll(model, part) for name, part in dataset.splits.items()}
    rng = np.random.default_rng(seed)
    samples = ngrams.sample(model, rng, NUM_SAMPLES, dataset.max_len)
    texts = ["".join(dataset.vocab.chars[token - 1] for token in tokens) for tokens in samples]
    is_cut = [len(tokens) == dataset.max_len for tokens in samples]
    num_params = sum(len(table.grams) for table in model.tables)
    places = dataset.found_in(texts, is_cut)
    return {"num_params": num_params, **losses, **shares(texts, places)}


def store(results: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add results to a file, and return all of its content.

    The file is read again each time, so that two benchmarks of different models can run at once.
    "machine" is the one of the last result with times.
    """
    content = json.loads(file.read_text("utf-8")) if file.exists() else {"results": {}}
    content["results"] |= results
    has_times = any(f"/{TIMED}/" in name and "seconds" in results[name] for name in results)
    if "machine" not in content or has_times:
        content = {"machine": sides.machine(), "results": content["results"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
    return content


def write_page(content: dict[str, Any], folder: Path) -> None:
    """Write the figures to `folder` and, if it is the default one, the page and the README."""
    try:
        for key in FIGURES:
            leaderboard_page.draw(content["results"], key, folder)
    except UserError as error:
        print(f"leaderboard: no figures: {error}", file=sys.stderr)
    if folder == OUT:
        leaderboard_page.write(content, ROOT)


def measure(arguments: argparse.Namespace, path: str) -> None:
    """Count the n-grams and train the models that results.json does not have."""
    file = arguments.out / "results.json"
    known = json.loads(file.read_text("utf-8"))["results"] if file.exists() else {}
    for condition in arguments.conditions:
        for seed in SEEDS[: arguments.seeds]:
            for order in ORDERS:
                name = f"{order}-gram/{condition}/{seed}"
                if name not in known:
                    store({name: count_ngrams(order, condition, seed, path)}, file)
            for model in arguments.models:
                name = f"{model}/{condition}/{seed}"
                if name not in known:
                    print(name, file=sys.stderr)
                    store({name: train(model, condition, seed, path, arguments.steps)}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=[*MODELS, "best"], default=list(MODELS))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds, 1 to 3")
    parser.add_argument("--steps", type=int, help="number of steps (default: as in each config)")
    parser.add_argument("--page", action="store_true", help="train nothing, write the page")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not arguments.page:
        path = makemore_list("leaderboard")
        measure(arguments, str(path))
    content = json.loads((arguments.out / "results.json").read_text("utf-8"))
    write_page(content, arguments.out)
    for condition in arguments.conditions:
        if leaderboard_page.by_model(content["results"], condition):
            table = leaderboard_page.as_markdown(content["results"], condition)
            print(f"{condition}\n\n{table}\n")


if __name__ == "__main__":
    main()

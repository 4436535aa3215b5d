"""Losses of all nine models, compared with PyTorch's: python -m benchmarks.reproduce

Trains every config twice: on makemore's list and split, to compare the losses with PyTorch's
(`python -m benchmarks.pytorch_losses`), and on names.txt, as a new user does. Writes
docs/results.json (all digits) and docs/results.md (tables with the command of each row). `--check`
writes nothing. It trains again and fails unless every loss equals the one in docs/results.json to
the last digit, as it does on the same machine with the same versions. With `--models` the page
keeps the results of the other models.

`--times` measures only how long `python train.py --config configs/MODEL.py` takes with an empty
compilation cache (first run) and with the cache of that run (later runs). It writes
docs/times.json, docs/times.md, and the table of the README, and also keeps the times of the other
models.

Needs makemore's list: python -m makemore_jax.download names
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from textwrap import fill

from benchmarks import sides, whole_training
from benchmarks.configs import makemore_list
from benchmarks.whole_training import ROOT
from makemore_jax.cli import startup
from makemore_jax.versions import versions
from makemore_jax.workdir import write_json

MODELS = ("bigram", "bow", "rnn", "mlp", "gru", "lstm", "cnn", "transformer", "modern")
COLUMNS = (1_000, 2_000, 5_000, 10_000, 20_000)

MAKEMORE = (
    "--config.data.split=makemore",
    "--config.train.steps=20000",
    "--config.train.eval_every=1000",
    "--config.train.sample_every=20000",
    "--config.train.checkpoint_every=20000",
)


def train(model: str, overrides: tuple[str, ...]) -> dict:
    """Run train.py. Return its command, dev losses by step, summary and wall time."""
    command = ["train.py", "--config", f"configs/{model}.py", *overrides]
    seconds, lines, summary = whole_training.train(command)
    losses = {str(line["step"]): line["dev_loss"] for line in lines if "dev_loss" in line}
    del summary["versions"]
    return {"command": command, "wall_seconds": seconds, "losses": losses, "summary": summary}


def measure(models: list[str]) -> dict:
    """Run both trainings of each model. Return them with the versions and the machine."""
    path = makemore_list("reproduce")
    on_list = (f"--config.data.path={path}", *MAKEMORE)
    return {
        "versions": versions(),
        "processor": startup.processor(),
        "cores": os.cpu_count(),
        "makemore": {model: train(model, on_list) for model in models},
        "names": {model: train(model, ()) for model in models},
    }


def comparable_losses(results: dict) -> dict:
    """Return the values that must be equal in a second run."""
    fields = ("steps", "best_step", "train_loss", "dev_loss", "test_loss", "num_params")
    return {
        (part, model): (run["losses"], [run["summary"][field] for field in fields])
        for part in ("makemore", "names")
        for model, run in results[part].items()
    }


def pytorch_losses() -> dict[str, dict[str, float]]:
    """Return the test losses by model and step that `benchmarks.pytorch_losses` has stored."""
    return sides.stored("pytorch_losses", MODELS, ROOT / "docs" / "benchmarks")


def as_markdown(results: dict) -> str:
    """Return the page docs/results.md."""
    version_list = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# Results",
        "",
        "`python -m benchmarks.reproduce` trains the models of the tables of makemore's list and",
        "of names.txt, and writes this page. With `--check` it trains them again and fails unless",
        "every loss is the same to the last digit. Losses are mean negative log likelihoods per",
        "token, in nats. Dev and test losses cover every example of the split, train losses 5,000",
        "lines.",
        "[leaderboard.md](leaderboard.md) compares all models and n-grams, with three seeds and on",
        "three splits.",
        "",
        f"Machine: {results['cores']} cores of {results.get('processor', 'an unknown processor')}. "
        f"Versions: {version_list}.",
        "",
        "## makemore's list and split, compared with makemore in PyTorch",
        "",
        "Test loss by step, and in brackets the difference from the same model in PyTorch, which",
        "`python -m benchmarks.pytorch_losses` trains with makemore's loop (same data, split,",
        "sizes and optimizer; other random numbers). makemore has no cnn, lstm and modern; their",
        "PyTorch models are this project's. The list: `python -m makemore_jax.download names`.",
        "",
        "| model | parameters | " + " | ".join(f"@{step:,}" for step in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    pytorch = pytorch_losses()
    for model, run in results["makemore"].items():
        cells = [model, f"{run['summary']['num_params']:,}"]
        for step in map(str, COLUMNS):
            loss = run["losses"][step]
            difference = f" ({loss - pytorch[model][step]:+.3f})" if model in pytorch else ""
            cells.append(f"{loss:.3f}{difference}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "The command of each row, with its model in place of MODEL:", "", "```"]
    lines += [f"python train.py --config configs/MODEL.py {_wrapped(MAKEMORE)}", "```", ""]
    lines += [
        "The losses of the PyTorch models:",
        "",
        (ROOT / "docs/benchmarks/pytorch_losses.md").read_text("utf-8").strip(),
        "",
        "## names.txt, with the default configs",
        "",
        "Results of `python train.py --config configs/MODEL.py`: the losses of the model with the",
        "lowest dev loss, and the wall time of the whole command, including start-up, compilation",
        "and evaluations.",
        "",
        "| model | parameters | steps | best step | train | dev | test | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, run in results["names"].items():
        s = run["summary"]
        lines.append(
            f"| {model} | {s['num_params']:,} | {s['steps']:,} | {s['best_step']:,} "
            f"| {s['train_loss']:.3f} | {s['dev_loss']:.3f} | {s['test_loss']:.3f} "
            f"| {run['wall_seconds']:.0f} |"
        )
    lines += [
        "",
        "## From GPT-2's block to nanochat's, and another optimizer",
        "",
        "`python -m benchmarks.modern` trains the blocks of GPT-2 and of nanochat, with AdamW and",
        "with Muon. All rows of a text have the same data, sizes, learning rate, steps and seed:",
        "those of `configs/transformer.py` on `names.txt`, and those of",
        "`configs/shakespeare_cpu.py` on Tiny Shakespeare. There, the modern block also has",
        "PyTorch's initial values and an untied output layer. Each row is one run, and its",
        "losses are those of the step with the lowest dev loss. Muon updates all matrices, also",
        "embeddings and the output layer, which nanochat leaves to AdamW. A smaller loss after the",
        "same number of steps can cost more time: compare both columns.",
        "",
        (ROOT / "docs/benchmarks/modern.md").read_text("utf-8").strip(),
    ]
    return "\n".join(lines) + "\n" + comparability(results)


def comparability(results: dict) -> str:
    """Return the sections about the published loss of 1.92 and about losses that look lower."""
    file = ROOT / "docs/benchmarks/traps.json"
    if not file.exists():
        return ""
    traps = json.loads(file.read_text("utf-8"))["results"]
    summary = results["makemore"]["transformer"]["summary"]
    best, error = summary["test_loss"], traps["best_standard_error"]
    pytorch = pytorch_losses()["transformer"]
    first_character = traps["best_test"] - traps["best_without_first"]
    parts = [
        "## Why 1.92 is not reproduced",
        "makemore's README gives a test loss of about 1.92 for its default transformer. The first "
        "table of this page does not reach it. The lowest test loss of that run is "
        f"{best:.3f}, after {summary['best_step']:,} steps. This step is chosen by the test "
        "loss itself, so the value is optimistic. The same model in PyTorch does not reach 1.92 "
        f"either: its lowest is {min(pytorch.values()):.3f}, and it has {pytorch['20000']:.3f} "
        "after 20,000 steps, when it overfits.",
        "The split of the README's run is not known. Its 1,000 test names may be easier ones: "
        f"choosing 1,000 names at random gives the test loss a standard error of {error:.3f} "
        f"(`python -m benchmarks.traps`). The difference from 1.92 is {best - 1.92:.3f}, or "
        f"{(best - 1.92) / error:.1f} standard errors. The makemore tables of the "
        "[leaderboard](leaderboard.md) show the spread over three splits. "
        "Quote 1.92 only with the remark that it has not been reproduced.",
        "## Three traps when losses are compared",
        "Three kinds of losses look better and are not comparable. `python -m benchmarks.traps` "
        "measures one model in all these ways:",
        (ROOT / "docs/benchmarks/traps.md").read_text("utf-8").strip(),
        "1. **The first character is not predicted.** It is harder than the others: without it "
        f"the loss is {first_character:.2f} lower, {traps['best_without_first']:.3f}. In this "
        "project every character of a name counts, and so does its end.",
        "2. **Repeated names are in both train and test.** In makemore's split, "
        f"{traps['known_share']:.0%} of the test names are also in train. They reward a model that "
        "memorizes names, most of all the n-grams. `data.dedup=True` drops repeated names before "
        "the split; [leaderboard.md](leaderboard.md) has both.",
        f"3. **A train loss is shown as the result.** After {traps['steps']:,} steps the train "
        f"loss is {traps['latest_train']:.3f} and the test loss {traps['latest_test']:.3f}.",
    ]
    indents = [" " * 3 if part[0].isdigit() else "" for part in parts]
    return "".join(
        f"\n{part if part.startswith('|') else fill(part, 100, subsequent_indent=indent)}\n"
        for part, indent in zip(parts, indents, strict=True)
    )


def write_page(results: dict) -> None:
    """Write docs/results.md."""
    (ROOT / "docs" / "results.md").write_text(as_markdown(results), "utf-8")


def measure_times(model: str) -> dict[str, float]:
    """Return the seconds of the whole command, of a first run and of a later run."""
    command = ["train.py", "--config", f"configs/{model}.py"]
    with tempfile.TemporaryDirectory() as cache:
        first, later = (whole_training.train(command, Path(cache)).seconds for _ in range(2))
    return {"first": first, "later": later}


def write_times(models: list[str]) -> None:
    """Measure these models. Update docs/times.json, docs/times.md and the README's table."""
    file, readme = ROOT / "docs" / "times.json", ROOT / "README.md"
    stored = json.loads(file.read_text("utf-8"))["seconds"] if file.exists() else {}
    seconds = stored | {model: measure_times(model) for model in models}
    machine = {"processor": startup.processor(), "cores": startup.num_cores()}
    times = {**machine, "versions": versions(), "seconds": seconds}
    write_json(file, times)
    old = file.with_suffix(".md").read_text("utf-8") if file.with_suffix(".md").exists() else ""
    file.with_suffix(".md").write_text(times_table(times), "utf-8")
    print(times_table(times))
    if old:
        page = readme.read_text("utf-8")
        readme.write_text(page.replace(old, times_table(times)), "utf-8")


def times_table(times: dict) -> str:
    """Return the table of docs/times.md: a column per model, "-" if it was not measured."""
    machine = f"{times['processor']}, {times['cores']} cores, jax {times['versions']['jax']}"
    names = {"first": "first run, seconds", "later": "later runs, seconds"}
    rows = [
        [
            title,
            *(f"{times['seconds'][m][run]:.0f}" if m in times["seconds"] else "-" for m in MODELS),
        ]
        for run, title in names.items()
    ]
    return sides.as_table([machine, *MODELS], rows) + "\n"


def _wrapped(overrides: tuple[str, ...]) -> str:
    path = "--config.data.path=data/makemore_names.txt"
    return " ".join(f"\\\n    {flag}" for flag in (path, *overrides))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--check", action="store_true", help="compare with docs/results.json")
    parser.add_argument("--times", action="store_true", help="measure first and later runs only")
    arguments = parser.parse_args()
    if arguments.times:
        write_times(arguments.models)
        return
    stored = ROOT / "docs" / "results.json"
    results = measure(arguments.models)
    if arguments.check:
        expected = comparable_losses(json.loads(stored.read_text("utf-8")))
        measured = comparable_losses(results)
        differing = [name for name in measured if measured[name] != expected[name]]
        for part, model in differing:
            print(f"reproduce: {model} on {part} differs from {stored.name}", file=sys.stderr)
        print(f"{len(measured) - len(differing)} of {len(measured)} runs equal to the last digit")
        sys.exit(1 if differing else 0)
    else:
        kept = json.loads(stored.read_text("utf-8")) if stored.exists() else {}
        for part in ("makemore", "names"):
            for run in results[part].values():  # remove paths of this machine
                run["command"] = [word for word in run["command"] if "data.path" not in word]
            runs = kept.get(part, {}) | results[part]
            results[part] = {model: runs[model] for model in MODELS if model in runs}
        write_json(stored, results)
        write_page(results)
        print(as_markdown(results))


if __name__ == "__main__":
    main()

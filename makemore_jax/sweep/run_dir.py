"""Write a run of a sweep as a run directory, which sample.py opens and train.py resumes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from makemore_jax.assemble import create_model, load_data, open_checkpoints, open_workdir
from makemore_jax.config import Config
from makemore_jax.sweep.results import TrainedRun
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.state import num_params
from makemore_jax.versions import device, versions
from makemore_jax.workdir import write_summary


def write_run(folder: Path, config: Config, trained: TrainedRun) -> dict[str, Any]:
    """Replace `folder` by the run directory of a trained run. Return its summary."""
    dataset = load_data(config.data, config.seed)
    config = replace(config, data=replace(config.data, block_size=dataset.block_size))
    if folder.exists():
        shutil.rmtree(folder)
    with open_workdir(folder, config, dataset):
        checkpoints = open_checkpoints(folder)
        for state, dev_loss in {
            int(trained.best.step): (trained.best, trained.best_dev_loss),
            int(trained.last.step): (trained.last, trained.last_dev_loss),
        }.values():
            checkpoints.save(jax.device_put(state), dev_loss)
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in trained.lines]
        (folder / "metrics.jsonl").write_text("".join(lines), "utf-8")
        model = create_model(config.model, dataset.vocab.size, dataset.block_size)
        evaluate, variables = make_evaluate(model), trained.best.variables
        train, at_most = dataset.splits["train"], config.train.train_eval_examples
        summary = {
            "steps": int(trained.last.step),
            "best_step": int(trained.best.step),
            "train_loss": evaluate(variables, train, at_most),
            "dev_loss": trained.best_dev_loss,
            "test_loss": evaluate(variables, dataset.splits["test"], config.train.eval_examples),
            "num_params": num_params(trained.best.params),
            "seconds": max(line.get("seconds", 0.0) for line in trained.lines),
            "steps_per_second": None,  # unknown: `seconds` is the time of all runs together
            "device": device(),
            "versions": versions(),
        }
        write_summary(folder, summary)
    return summary

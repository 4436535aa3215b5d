"""The measurements of benchmarks.accelerator on Tiny Shakespeare."""

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.accelerator_settings import Record, Settings, num_parallel, start
from benchmarks.arithmetic import flops_per_step
from benchmarks.configs import config_of
from makemore_jax.config import Config
from makemore_jax.data_folder import find

# Dense bfloat16 FLOP/s from the manufacturers' data sheets, by a part of the device name.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "T4": 65e12,  # float16; the T4 has no bfloat16
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v6 lite": 918e12,
}


def shakespeare_config(is_quick: bool, name: str = "shakespeare") -> Config:
    """Return a config for a text, or a tiny version that trains on names.txt as one text."""
    config = config_of(name)
    if is_quick:
        config.data.path = "names.txt"
        config.data.block_size = 8
        config.data.train_fraction = 0.99
        config.model.n_layer, config.model.n_head, config.model.n_embd = 1, 2, 8
        config.train.batch_size, config.train.steps = 6, 6
        config.train.log_every = config.train.eval_every = config.train.sample_every = 2
        config.train.eval_examples = config.train.train_eval_examples = 8
    return config


def peak_flops(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device, or None if it is not in the table."""
    peaks = [p for name, p in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_kind)]
    return peaks[0] if peaks else None


def measure_shakespeare(settings: Settings, record: Record) -> None:
    """Train; record losses, time, tokens per second and model FLOPs utilization."""
    import jax
    import numpy as np

    from makemore_jax import assemble

    config = shakespeare_config(settings.is_quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _recorded_progress(folder, "run", record):
            summary = assemble.train(config, name)
        rates = [line["steps_per_second"] for line in _lines(folder) if "train_loss" in line]
        steps_per_second = float(np.median(rates))
        flops = flops_per_step(config) * steps_per_second
        kind = jax.devices()[0].device_kind
        peak = peak_flops(kind)
        tokens = config.train.batch_size * config.data.block_size
        losses = {"dev_loss": summary["dev_loss"], "best_step": summary["best_step"]}
        result = losses | {
            "step": summary["steps"],
            "seconds": summary["seconds"],
            "milliseconds": 1e3 / steps_per_second,
            "tokens_per_second": tokens * steps_per_second,
            "flops_per_second": flops,
            "utilization": peak and flops / (peak * jax.device_count()),
        }
        record("run", result)
        result["crops_loss"] = crops_loss(folder, config, 2 if settings.is_quick else 200)
        record("run", result)


def measure_shakespeare_best(settings: Settings, record: Record) -> None:
    """Train configs/shakespeare_best.py with each seed; record losses and seconds."""
    runs = {str(seed): {"seed": seed} for seed in settings.seeds}
    _train_best(settings, runs, record)


def measure_shakespeare_best_choices(settings: Settings, record: Record) -> None:
    """Train variants of configs/shakespeare_best.py on a part of train; record held-out losses.

    The dev split is not read: the last tenth of train is held out.
    """
    config = shakespeare_config(settings.is_quick, "shakespeare_best")
    text = Path(find(config.data.path)).read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "text.txt"
        part.write_text(text[: int(config.data.train_fraction * len(text))], "utf-8")
        fixed = {"data.path": str(part), "data.train_fraction": 0.9}
        runs = {choice: fixed | fields for choice, fields in settings.choices.items()}
        _train_best(settings, runs, record)


def _train_best(settings: Settings, runs: dict[str, dict[str, Any]], record: Record) -> None:
    """Train configs/shakespeare_best.py once per entry of `runs`, several at the same time.

    Each entry has the fields that differ.
    """

    def train(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with _recorded_progress(Path(folder), name, record):
                run = start(make_text_training, settings.is_quick, runs[name], folder)()
            record(name, run)

    with ThreadPoolExecutor(num_parallel(3)) as pool:
        list(pool.map(train, runs))


def make_text_training(
    is_quick: bool, fields: dict[str, Any], folder: str
) -> Callable[[], dict[str, Any]]:
    """Return the function () -> losses and seconds of configs/shakespeare_best.py with `fields`."""
    from makemore_jax import assemble

    def train() -> dict[str, Any]:
        config = shakespeare_config(is_quick, "shakespeare_best")
        for name, value in fields.items():
            group, _, field = name.rpartition(".")
            setattr(getattr(config, group) if group else config, field, value)
        summary = assemble.train(config, folder)
        names = ("num_params", "best_step", "train_loss", "dev_loss", "seconds")
        crops = crops_loss(Path(folder), config, 2 if is_quick else 200)
        return {name: summary[name] for name in names} | {
            "step": summary["steps"],
            "crops_loss": crops,
        }

    return train


def _lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    complete = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in complete]


@contextlib.contextmanager
def _recorded_progress(folder: Path, key: str, record: Record) -> Iterator[None]:
    """Record the lowest dev loss so far every two seconds, in case the time limit ends a run."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(2):
            lines = [line for line in _lines(folder) if "dev_loss" in line]
            if lines:
                best = min(lines, key=lambda line: line["dev_loss"])
                steps = {"best_step": best["step"], "step": lines[-1]["step"]}
                record(key, {"dev_loss": best["dev_loss"]} | steps)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def crops_loss(folder: Path, config: Config, num_batches: int) -> float:
    """Return the best model's mean loss on random crops of the dev split, as nanoGPT estimates it.

    nanoGPT draws 200 batches (train.py, estimate_loss).
    """
    import jax

    from makemore_jax import data, models
    from makemore_jax.assemble import create_model, load_data, open_checkpoints
    from makemore_jax.losses import mean_loss

    dataset = load_data(config.data, config.seed)
    split = dataset.splits["dev"]
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    shapes = models.variable_shapes(model, dataset.block_size)
    variables = open_checkpoints(folder, read_only=True).restore_items("best", shapes)

    @jax.jit
    def batch_loss(variables: Any, key: jax.Array) -> jax.Array:
        inputs, targets, _ = data.draw(split, key, config.train.batch_size)
        return mean_loss(model.apply(variables, inputs), targets)

    keys = jax.random.split(jax.random.key(config.seed), num_batches)
    return sum(float(batch_loss(variables, key)) for key in keys) / num_batches

"""The measurements of benchmarks.accelerator; each is one item of its page."""

import contextlib
import importlib.util
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import sides
from benchmarks.arithmetic import flops_per_step
from benchmarks.configs import config_of
from makemore_jax.cli import startup
from makemore_jax.config import Config

HAS_TORCH = importlib.util.find_spec("torch") is not None
KINDS = ("transformer", *(kind for kind in sides.KINDS if kind != "transformer"))
TORCH_VARIANTS = ("eager", "compiled", "cuda graphs")
OURS, MAKEMORE = "makemore_jax", "makemore's loop"

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

Record = Callable[[str, Any], None]  # (key, value) -> None; stores a result of the running item


BASE = {
    "model.kind": "modern",
    "model.networks": 1,
    "train.batch_size": 64,
    "optimizer.name": "muon",
    "optimizer.weight_decay": 0.1,
    "optimizer.learning_rate": 1e-3,
    "model.dropout": 0.3,
    "train.steps": 2_500,
}
WEIGHT_DECAY = BASE | {"optimizer.weight_decay": 1.0}
WITH_RATE = WEIGHT_DECAY | {"optimizer.learning_rate": 2e-3}
SHORTER = WITH_RATE | {"train.steps": 1_500}
DROPOUT = {"model.dropout": 0.4}
# The fields of configs/shakespeare_best.py that each choice sets.
CHOICES = {
    "one network, weight decay 0.1, learning rate 1e-3, dropout 0.3, 2,500 steps": BASE,
    "dropout 0.4": BASE | DROPOUT,
    "weight decay 1": WEIGHT_DECAY,
    "weight decay 1, dropout 0.4": WEIGHT_DECAY | DROPOUT,
    "weight decay 1, learning rate 2e-3": WITH_RATE,
    "weight decay 1, learning rate 2e-3, 1,500 steps": SHORTER,
    "weight decay 1, learning rate 2e-3, 1,500 steps, dropout 0.4": SHORTER | DROPOUT,
    "weight decay 1, learning rate 4e-3, 1,500 steps, dropout 0.4": {
        **SHORTER,
        **DROPOUT,
        "optimizer.learning_rate": 4e-3,
    },
}


class Settings(NamedTuple):
    """The sizes of all measurements."""

    kinds: tuple[str, ...] = KINDS
    rounds: int = 5
    seconds: float = 0.2  # per variant and round
    num_names: int = 10_000
    sampled: tuple[str, ...] = ("transformer", "gru", "mlp")
    swept: tuple[str, ...] = ("mlp", "gru")
    members: int = 64
    sweep_steps: int = 300
    seeds: tuple[int, ...] = (1337, 1338, 1339)  # of shakespeare_best; nanoGPT's is 1337
    choices: dict[str, dict[str, Any]] = CHOICES  # of shakespeare_best_choices
    parity_steps: int = 50
    is_quick: bool = False

    def only(self, kinds: list[str] | None, choices: list[str] | None) -> "Settings":
        """Return these settings for some of the models and choices. None: all."""
        fields = ("kinds", "sampled", "swept")
        chosen = {
            field: tuple(kind for kind in getattr(self, field) if kinds is None or kind in kinds)
            for field in fields
        }
        some = {name: self.choices[name] for name in choices or self.choices}
        return self._replace(choices=some, **chosen)


QUICK = Settings(
    kinds=("bigram",),
    rounds=1,
    seconds=0.01,
    num_names=30,
    sampled=("bigram",),
    swept=("bigram",),
    members=3,
    sweep_steps=2,
    seeds=(5,),
    choices={"dropout 0.4": {"model.dropout": 0.4}},
    parity_steps=2,
    is_quick=True,
)


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
    from makemore_jax.data.files import find

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
    variables = open_checkpoints(folder, read_only=True).restore_variables("best", shapes)

    @jax.jit
    def batch_loss(variables: Any, key: jax.Array) -> jax.Array:
        inputs, targets, _ = data.draw(split, key, config.train.batch_size)
        return mean_loss(model.apply(variables, inputs), targets)

    keys = jax.random.split(jax.random.key(config.seed), num_batches)
    return sum(float(batch_loss(variables, key)) for key in keys) / num_batches


def make_torch_trainer(*args: Any) -> Callable[[str, int], float | str]:
    """Return the function (variant, number of steps) -> seconds, or an error message."""
    from benchmarks import torch_side

    run = torch_side.make_trainer(*args)

    def run_or_report(variant: str, num_steps: int) -> float | str:
        try:
            return run(variant, num_steps)
        except Exception as error:  # torch.compile raises many types; other variants still count
            return f"{type(error).__name__}: {error!s:.200}"

    return run_or_report


def torch_variants() -> tuple[str, ...]:
    """Return the variants of PyTorch training that this machine supports."""
    if not HAS_TORCH:
        return ()
    from benchmarks import torch_side

    return tuple(variant for variant in TORCH_VARIANTS if variant in torch_side.variants())


def start(make: Callable[..., Callable], *args: Any) -> Callable:
    """Return `sides.Side(make, *args)`, a function that runs in its own process.

    On a TPU it runs in this process, since only one process can use the TPU.
    """
    import jax

    return make(*args) if jax.default_backend() == "tpu" else sides.Side(make, *args)


def num_parallel(cores: int) -> int:
    """Return how many measurements can warm up at the same time with `cores` cores each."""
    import jax

    return 1 if jax.default_backend() == "tpu" else max(1, (os.cpu_count() or 1) // cores)


def measure_train(settings: Settings, record: Record) -> None:
    """Record the milliseconds per step of each model and variant."""
    from benchmarks.jax_side import draw_batches, make_trainer
    from makemore_jax.assemble import load_data

    # Several models compile at the same time.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    variants = torch_variants()

    def warm_up(kind: str) -> dict[str, Callable[[], float] | str]:
        config = config_of(kind)
        ours = start(make_trainer, kind)
        ours(1)
        calls = sides.calls_in(settings.seconds, config.train.log_every * ours(1))
        timed = {OURS: lambda: ours(calls)}
        if not variants:
            return timed
        dataset = load_data(config.data, config.seed)
        batches = draw_batches(config, dataset, 20)
        sizes = dataset.vocab.size, dataset.block_size
        theirs = start(make_torch_trainer, kind, *sizes, batches, 2)
        for variant in variants:
            error = theirs(variant, 10)
            if isinstance(error, str):
                timed[variant] = error
                continue
            steps = sides.calls_in(settings.seconds, theirs(variant, 20) / 20, at_least=10)
            timed[variant] = lambda variant=variant, steps=steps: theirs(variant, steps) / steps
        return timed

    for kind, timed in _warm_up_in_groups(settings.kinds, warm_up):
        errors = {variant: error for variant, error in timed.items() if isinstance(error, str)}
        working = {variant: run for variant, run in timed.items() if variant not in errors}
        seconds = sides.alternate(working, settings.rounds)
        record(kind, {variant: 1e3 * time for variant, time in seconds.items()} | errors)


def _warm_up_in_groups(
    kinds: tuple[str, ...], warm_up: Callable[[str], Any]
) -> Iterator[tuple[str, Any]]:
    """Yield (kind, result) of every kind.

    Several kinds warm up at the same time, since most of this is compilation on the host. Nothing
    warms up while the caller measures.
    """
    size = num_parallel(5)
    with ThreadPoolExecutor(size) as pool:
        for start in range(0, len(kinds), size):
            group = kinds[start : start + size]
            yield from list(zip(group, pool.map(warm_up, group), strict=True))


def measure_sample(settings: Settings, record: Record) -> None:
    """Record the seconds for sampling names, here and in makemore's loop."""
    from benchmarks import sample_speed
    from makemore_jax.assemble import load_data

    num = settings.num_names

    def warm_up(kind: str) -> dict[str, Callable[[], float]]:
        sample = start(sample_speed.make_jax_sampler, kind)
        variants = {OURS: sample}
        if HAS_TORCH:
            config = config_of(kind)
            dataset = load_data(config.data, config.seed)
            sizes = dataset.vocab.chars, dataset.block_size
            variants[MAKEMORE] = start(sample_speed.make_torch_sampler, kind, *sizes, 2)
        timed = {}
        for variant, side in variants.items():
            side(num, 1)
            calls = sides.calls_in(settings.seconds, side(num, 1))
            timed[variant] = lambda side=side, calls=calls: side(num, calls)
        return timed

    for kind, timed in _warm_up_in_groups(settings.sampled, warm_up):
        record(kind, sides.alternate(timed, settings.rounds))


def measure_sweep(settings: Settings, record: Record) -> None:
    """Record the seconds of a single run and of a sweep, including compilation."""
    from benchmarks import sweep_cost

    for kind in settings.swept:
        numbers = (1, settings.members)
        record(kind, {str(n): sweep_cost.seconds(kind, n, settings.sweep_steps) for n in numbers})


def make_comparison(kind: str, steps: int) -> Callable[[], dict[str, Any]]:
    """Return the function () -> results of a lockstep comparison in float32."""
    import jax

    from makemore_jax.torch_parity.compare import compare

    def run() -> dict[str, Any]:
        with jax.default_matmul_precision("highest"):
            results = compare(config_of(kind), steps)
        return {name: results[name] for name in ("steps", "differences", "exceeded")}

    return run


def measure_parity(settings: Settings, record: Record) -> None:
    """Record the largest differences from PyTorch of each model."""
    if not HAS_TORCH:
        raise SystemExit("parity: needs torch")
    os.environ["OMP_NUM_THREADS"] = "2"  # of PyTorch on the CPU; several models run at once
    # Autotuning takes half of the compilation time, and parity must hold for any algorithm.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0"

    def compare(kind: str) -> None:
        record(kind, start(make_comparison, kind, settings.parity_steps)())

    with ThreadPoolExecutor(num_parallel(2)) as pool:
        list(pool.map(compare, settings.kinds))


class Item(NamedTuple):
    """A part of the benchmark and its time limit in seconds."""

    measure: Callable[[Settings, Record], None]
    limit: float
    is_default: bool = True  # measured without --items


ITEMS = {
    "shakespeare": Item(measure_shakespeare, 120),
    "shakespeare_best": Item(measure_shakespeare_best, 540, is_default=False),
    "shakespeare_best_choices": Item(measure_shakespeare_best_choices, 540, is_default=False),
    "train": Item(measure_train, 160),
    "sample": Item(measure_sample, 50),
    "sweep": Item(measure_sweep, 60),
    "parity": Item(measure_parity, 90),
}


def run_item(name: str, settings: Settings, results: Path) -> None:
    """Measure one item in this process. Append each result to a file of JSON lines."""
    lock = threading.Lock()

    def record(key: str, value: Any) -> None:
        line = json.dumps({"key": key, "value": value})
        with lock, results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    startup.configure_jax()
    record("machine", sides.machine())
    ITEMS[name].measure(settings, record)

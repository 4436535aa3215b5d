"""The measurements of benchmarks.accelerator; each is one item of its page."""

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import sides
from benchmarks.accelerator_settings import Record, Settings, num_parallel, start
from benchmarks.accelerator_text import (
    measure_shakespeare,
    measure_shakespeare_best,
    measure_shakespeare_best_choices,
)
from benchmarks.configs import config_of
from makemore_jax.cli import startup

HAS_TORCH = importlib.util.find_spec("torch") is not None
TORCH_VARIANTS = ("eager", "compiled", "cuda graphs")
OURS, MAKEMORE = "makemore_jax", "makemore's loop"


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

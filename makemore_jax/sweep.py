"""Train many runs together in one compiled program, and compare them.

    python -m makemore_jax.sweep --config configs/mlp.py \\
        --over optimizer.learning_rate=1e-4:1e-1:16 --seeds 4
    python -m makemore_jax.sweep --config configs/gru.py --over model.n_embd2=32,64,128

`--over FIELD=LOW:HIGH:NUM` stands for NUM values, evenly spaced on a logarithmic scale;
`--over FIELD=A,B,C` lists the values. Repeat `--over` to train all combinations. Every combination
is trained with each of `--seeds` seeds, starting from the seed of the config.

Each run computes what train.py computes for its settings. Runs that differ only in numbers of the
optimizer share one step under `vmap`, split over the devices. Fields that change shapes or code are
trained in groups, one after the other.

The sweep prints a table and writes sweep.json and sweep.png into --workdir. The run with the lowest
dev loss is saved in best/ of that folder; sample.py can sample from it. A run has diverged if its
loss is not finite, or if its final train loss is above both that of its first step and that of
uniform guessing. After Ctrl-C, run the same command again to resume: finished groups are kept.
"""

import copy
import importlib.util
import itertools
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import config_flags
from tqdm import tqdm

from makemore_jax import data
from makemore_jax.assemble import create_model, load_data
from makemore_jax.cli import command_line, config_flag, interrupts, progress, resources, startup
from makemore_jax.cli.fields import check_name, field_types
from makemore_jax.config import Config, flatten, validate
from makemore_jax.data import Split
from makemore_jax.errors import UserError
from makemore_jax.finished_groups import FinishedGroups
from makemore_jax.report.facts import show_value
from makemore_jax.sweep_run import Trained, write_run
from makemore_jax.text.dataset import Text
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import sum_losses
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import gradients, make_train_step
from makemore_jax.versions import device, versions
from makemore_jax.windows.calibrate import make_calibrate
from makemore_jax.workdir import write_json

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, or the name of one in configs/, such as mlp"
)
OVER = flags.DEFINE_multi_string(
    "over", [], "FIELD=LOW:HIGH:NUM or FIELD=A,B,C; repeat it for all combinations"
)
SEEDS = flags.DEFINE_integer("seeds", 1, "number of seeds for each combination")
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/sweep", "folder for sweep.json, sweep.png and the best run"
)

# Fields that may differ within one compiled program: numbers that the optimizer computes with.
NUMBERS = tuple(
    f"optimizer.{name}"
    for name in ("learning_rate", "b1", "b2", "weight_decay", "gamma", "min_learning_rate")
)

Values = dict[str, Any]  # the swept fields of one member, by dotted name


class Result(NamedTuple):
    """The outcome of one member. Its best dev loss is nan if it diverged."""

    values: Values
    seed: int
    train_loss: float  # the mean over the last log_every steps
    dev_loss: float  # after the last step
    best_dev_loss: float  # of all evaluations
    curve: list[float]  # mean train loss of every log_every steps
    trained: Trained | None = None  # of the best member of each compiled group alone

    @property
    def diverged(self) -> bool:
        """Whether it diverged, as the docstring of this module defines it."""
        return math.isnan(self.best_dev_loss)


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """'FIELD=LOW:HIGH:NUM' or 'FIELD=A,B,C' -> the field and its values. UserError names a flaw."""
    name, _, given = text.partition("=")
    check_name(name)
    if name == "seed":
        raise UserError("--over: seeds are asked for by --seeds")
    kind = field_types()[name]
    if found := re.fullmatch(r"([^:,]+):([^:,]+):(\d+)", given):
        try:
            low, high, num = float(found[1]), float(found[2]), int(found[3])
        except ValueError:
            raise UserError(f"--over: {text}: LOW and HIGH must be numbers") from None
        if not (0 < low < high < math.inf and num >= 2):
            raise UserError(f"--over: {text}: needs 0 < LOW < HIGH and NUM of at least 2")
        values = np.geomspace(low, high, num).tolist()
        return name, sorted({round(v) for v in values}) if kind is int else values
    if not given:
        raise UserError(f"--over: {text}: values are missing, as {name}=A,B,C or LOW:HIGH:NUM")
    return name, [_read(name, word) for word in given.split(",")]


def _read(name: str, word: str) -> Any:
    hint = field_types()[name]
    if word.lower() == "none":
        return None
    if hint is bool:
        return word.lower() in ("true", "1")
    for kind in (int, float) if hint is not str else ():
        try:
            return kind(word)
        except ValueError:
            pass
    return word  # `validate` tells where it is of the wrong type


def with_values(config: Config, values: Values) -> Config:
    """A copy of the config with these fields. UserError where one is out of its range."""
    config = copy.deepcopy(config)
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        setattr(getattr(config, group) if group else config, leaf, value)
    validate(config)
    if config.model.dropout_rng == "rbg":
        raise UserError(
            'model.dropout_rng: must be "threefry2x32" in a sweep; vmap changes the bits of rbg'
        )
    return config


def sweep(
    config: Config,
    axes: dict[str, list[Any]],
    num_seeds: int,
    finished: FinishedGroups | None = None,
) -> list[Result]:
    """Train all combinations of the axes' values with `num_seeds` seeds each, in that order.

    Groups that are in `finished` are taken from it, and each group that ends is added to it.
    """
    members = [
        dict(zip(axes, chosen, strict=True)) | {"seed": (config.seed + i) % 2**32}
        for chosen in itertools.product(*axes.values())
        for i in range(num_seeds)
    ]
    groups: dict[tuple, list[int]] = {}
    for number, values in enumerate(members):
        with_values(config, values)  # raises before anything is trained
        alike = tuple((k, v) for k, v in values.items() if k not in (*NUMBERS, "seed"))
        groups.setdefault(alike, []).append(number)
    results: dict[int, Result] = {}
    for i, numbers in enumerate(groups.values(), start=1):
        group = [members[number] for number in numbers]
        trained = finished.load(config, group) if finished else None
        if len(groups) > 1:
            state = "was finished before" if trained else f"{len(group)} runs"
            print(f"group {i} of {len(groups)}: {state}", file=sys.stderr, flush=True)
        if not trained:
            trained = train_together(config, group)
            if finished:
                finished.save(config, group, trained)
        results |= zip(numbers, trained, strict=True)
    return [results[number] for number in range(len(members))]


def train_together(config: Config, members: list[Values]) -> list[Result]:
    """Train members that differ in NUMBERS and seed alone, all in one program."""
    config = with_values(config, members[0])
    seeds = sorted({values["seed"] for values in members})
    datasets = {seed: load_data(config.data, seed) for seed in seeds}
    vocab, block_size = datasets[seeds[0]].vocab, datasets[seeds[0]].block_size
    model = create_model(config.model, vocab.size, block_size)
    shared = make_optimizer(config.optimizer, config.train.steps)
    keys = {seed: jax.random.split(jax.random.key(seed), 3) for seed in seeds}  # as in the loop
    states = {seed: state_lib.create(model, shared, keys[seed][0], block_size) for seed in seeds}

    mesh, spread = _over_devices(len(members))
    lies = NamedSharding(mesh, P("member"))  # from the start, or the second call compiles anew
    place = [seeds.index(values["seed"]) for values in members]
    padded = np.resize(np.arange(len(members)), -(-len(members) // mesh.size) * mesh.size)

    def stack(of_seed: dict[int, Any]) -> Any:
        """A tree for each seed -> one tree with the members leading."""
        return jax.tree.map(
            lambda *leaves: jax.device_put(jnp.stack(leaves)[np.array(place)[padded]], lies),
            *(of_seed[seed] for seed in seeds),
        )

    state = stack(states)
    splits = {
        name: stack(_alike({seed: take(d.splits[name]) for seed, d in datasets.items()}))
        for name, take in (
            ("train", lambda split: split),
            ("dev", lambda split: split.for_evaluation()),
        )
    }
    key_data = stack({seed: jax.random.key_data(keys[seed][1]) for seed in seeds})
    swept = {
        name: jax.device_put(np.array([members[i][name] for i in padded], np.float32), lies)
        for name in members[0]
        if name in NUMBERS and len({values[name] for values in members}) > 1
    }

    def train(num_steps: int) -> Callable[..., tuple[Any, Array]]:
        def one(state: Any, values: dict[str, Array], split: Split, key: Array) -> Any:
            """`num_steps` steps of one member -> state, loss of each step."""
            optimizer = make_optimizer(_with_numbers(config, values), config.train.steps)
            train_step = make_train_step(gradients(model), optimizer, config.train.batch_size)

            def body(state: Any, _: None) -> tuple[Any, Array]:
                state, metrics = train_step(state, split, jax.random.wrap_key_data(key))
                return state, metrics["train_loss"]

            return jax.lax.scan(body, state, length=num_steps)

        return jax.jit(spread(one), donate_argnums=0)

    trainers = {n: train(n) for n in set(_stretches(config))}
    evaluate = _make_evaluate(model, spread, datasets[seeds[0]].splits["dev"].for_evaluation())
    calibrate = jax.jit(spread(make_calibrate(model)))
    curves, best, dev = [], np.full(len(padded), np.inf), np.full(len(padded), np.nan)
    keep_best, best_state, evaluations = jax.jit(jax.vmap(_select)), None, []
    step, began, times, first_losses = 0, time.perf_counter(), [], []
    bar = tqdm(total=config.train.steps, unit=" steps", disable=None, leave=False)
    estimate = progress.Estimate(config.train.steps)
    for num_steps in _stretches(config):
        state, losses = trainers[num_steps](state, swept, splits["train"], key_data)
        losses = np.asarray(losses)
        interrupts.check()
        first_losses.append(losses[:, 0])
        curves.append(losses.mean(axis=1))
        times.append(time.perf_counter() - began)
        step += num_steps
        bar.update(num_steps)
        estimate.update(step)
        if step % config.train.eval_every == 0 or step == config.train.steps:
            if config.model.batch_norm == "calibrated":
                state = state.replace(model_state=calibrate(state.variables, splits["train"]))
            dev = evaluate(state.variables, splits["dev"])
            is_best = (dev < best) | (best_state is None)
            best_state = keep_best(is_best, state, state if best_state is None else best_state)
            best = np.fmin(best, dev)
            evaluations.append(dev)
    bar.close()
    curves = np.stack(curves, axis=1)
    # The model knows less than one that guesses uniformly, and less than before its first step.
    is_lost = curves[:, -1] > np.maximum(first_losses[0], math.log(vocab.size))
    best = np.where(np.isfinite(curves[:, -1] + dev) & ~is_lost, best, np.nan)[: len(members)]
    results = [
        Result(
            {k: v for k, v in values.items() if k != "seed"},
            values["seed"],
            float(curves[i, -1]),
            float(dev[i]),
            float(best[i]),
            curves[i].tolist(),
        )
        for i, values in enumerate(members)
    ]
    if np.isnan(best).all():
        return results
    i = int(np.nanargmin(best))
    states = [jax.device_get(jax.tree.map(lambda a: a[i], tree)) for tree in (best_state, state)]
    lines = _metrics_lines(config, curves[i], np.stack(evaluations)[:, i], times)
    trained = Trained(states[0], float(best[i]), states[1], float(dev[i]), lines)
    results[i] = results[i]._replace(trained=trained)
    return results


def _select(is_first: Array, first: Any, second: Any) -> Any:
    """One of two trees."""
    return jax.tree.map(partial(jnp.where, is_first), first, second)


def _metrics_lines(
    config: Config, curve: np.ndarray, evaluations: np.ndarray, times: list[float]
) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a member. The time is that of all members together."""
    lines, dev_losses = [], iter(evaluations.tolist())
    steps = np.cumsum(_stretches(config)).tolist()
    for step, train_loss, seconds in zip(steps, curve.tolist(), times, strict=True):
        lines.append({"step": step, "train_loss": train_loss, "seconds": seconds})
        if step % config.train.eval_every == 0 or step == config.train.steps:
            lines.append({"step": step, "dev_loss": next(dev_losses)})
    return [line for line in lines if all(map(math.isfinite, line.values()))]


def _stretches(config: Config) -> list[int]:
    """The numbers of steps between two looks at the losses."""
    every = (config.train.log_every, config.train.eval_every)
    stops = {n for e in every for n in range(e, config.train.steps, e)} | {config.train.steps}
    return np.diff([0, *sorted(stops)]).tolist()


def _with_numbers(config: Config, values: dict[str, Array]) -> Any:
    """The optimizer's config with numbers that are only known when the program runs."""
    optimizer = copy.copy(config.optimizer)
    for name, value in values.items():
        setattr(optimizer, name.partition(".")[2], value)
    return optimizer


def _alike(splits: dict[int, Split]) -> dict[int, Split]:
    """Splits of the same data, dealt out by different seeds, with arrays of one length."""
    if isinstance(next(iter(splits.values())), Text):
        return splits  # a text is cut by position
    most = max(len(split.stream) for split in splits.values())
    if len({split.size for split in splits.values()}) > 1:
        raise UserError(
            "--seeds: each seed's windows are of another number; data.split=lecture is the same "
            "for all"
        )
    return {
        seed: split.replace(stream=jnp.pad(split.stream, (0, most - len(split.stream))))
        for seed, split in splits.items()
    }


def _over_devices(num_members: int) -> tuple[Any, Callable]:
    """A mesh for so many members, and what spreads the function of one member over it."""
    devices = jax.devices()[:num_members]
    mesh = jax.make_mesh((len(devices),), ("member",), (AxisType.Auto,), devices=devices)

    def spread(one: Callable) -> Callable:
        return jax.shard_map(
            jax.vmap(one), mesh=mesh, in_specs=P("member"), out_specs=P("member"), check_vma=False
        )

    return mesh, spread


def _make_evaluate(model: Any, spread: Callable, like: Split) -> Callable[[Any, Any], np.ndarray]:
    """The function (params, splits) of all members -> exact loss of each, in nats per token."""

    def one(variables: Any, split: Split, indices: Array) -> Array:
        return sum_losses(model, variables, data.take_below(split, indices, split.size))

    sum_batches = jax.jit(spread(one))
    size, batch_size = like.size, like.batch_size()

    def evaluate(variables: Any, splits: Any) -> np.ndarray:
        count = len(jax.tree.leaves(splits)[0])
        sums = [
            sum_batches(variables, splits, jnp.tile(start + jnp.arange(batch_size), (count, 1)))
            for start in range(0, size, batch_size)
        ]
        loss, tokens = np.sum(jax.device_get(sums), axis=0, dtype=np.float64).T
        return loss / tokens

    return evaluate


class Row(NamedTuple):
    """One combination, over its seeds."""

    values: Values
    mean: float  # best dev loss over the seeds that did not diverge; nan if all did
    low: float
    high: float
    diverged: int  # number of seeds
    seeds: int


def over_seeds(results: list[Result]) -> list[Row]:
    """A row for each combination, in their order."""
    combinations: dict[tuple, list[Result]] = {}
    for result in results:
        combinations.setdefault(tuple(result.values.items()), []).append(result)
    rows = []
    for values, members in combinations.items():
        losses = [m.best_dev_loss for m in members if not m.diverged]
        spread = (statistics.mean(losses), min(losses), max(losses)) if losses else (math.nan,) * 3
        diverged = len(members) - len(losses)
        rows.append(Row(dict(values), *spread, diverged, seeds=len(members)))
    return rows


def as_table(rows: list[Row]) -> str:
    """Best dev loss of each combination; the lowest mean and those that diverged are marked."""
    names = list(rows[0].values)
    header = [*names, "dev loss, mean", "lowest", "highest", "diverged"]
    lines = [header, ["---"] * len(header)]
    lowest = min((row.mean for row in rows if not math.isnan(row.mean)), default=None)
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values.values()]
        if math.isnan(row.mean):
            cells += ["diverged", "", ""]
        else:
            cells += [f"{x:.4f}" for x in (row.mean, row.low, row.high)]
        cells[-3] += " (best)" if row.mean == lowest else ""
        lines.append([*cells, f"{row.diverged} of {row.seeds}" if row.diverged else ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    config = config_flag.read(CONFIG)
    if not OVER.value:
        raise UserError("--over is missing, as --over optimizer.learning_rate=1e-4:1e-1:16")
    if SEEDS.value < 1:
        raise UserError(f"--seeds: {SEEDS.value} must be at least 1")
    if importlib.util.find_spec("matplotlib") is None:  # told now, not after the training
        raise UserError("sweep.png needs matplotlib: pip install matplotlib")
    axes = dict(map(parse_axis, OVER.value))
    if len(axes) < len(OVER.value):
        raise UserError("--over: a field is given more than once")
    best = Path(WORKDIR.value) / "best"
    if best.exists() and not (best / "config.json").exists():
        raise UserError(f"--workdir: {best} would be replaced, but holds no run; move it away")
    startup.use_compilation_cache()
    startup.use_cores()
    startup.announce_compiling()
    interrupts.delay()
    began = time.perf_counter()
    finished = FinishedGroups(Path(WORKDIR.value))
    try:
        results = sweep(config, axes, SEEDS.value, finished)
    except KeyboardInterrupt:
        num = len(list(finished.folder.glob("*.pickle")))
        kept = f"{num} finished group{'' if num == 1 else 's'} kept in {finished.folder}"
        print(f"sweep: {kept}; run the same command to resume", file=sys.stderr)
        sys.exit(130)
    seconds = time.perf_counter() - began
    rows = over_seeds(results)
    print(as_table(rows))
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"config": flatten(config), "seconds": seconds, "device": device()}
    found |= {"versions": versions(), "members": [_member(result) for result in results]}
    write_json(folder / "sweep.json", found)

    from makemore_jax.plots.sweep import draw_sweep

    draw_sweep(rows, folder / "sweep.png")
    told = f"{len(results)} runs of {config.train.steps} steps in {seconds:.0f} s"
    print(f"\n{told}; all results are in {folder / 'sweep.json'} and {folder / 'sweep.png'}")
    if member := best_run(results):
        write_run(best, with_values(config, member.values | {"seed": member.seed}), member.trained)
        settings = ", ".join(f"{name}={show_value(value)}" for name, value in member.values.items())
        print(
            f"{best} is the best run, {settings}, seed {member.seed}, dev loss "
            f"{member.best_dev_loss:.4f}; {resources.command('sample')} --workdir {best} samples "
            "from it"
        )
    finished.delete()
    if all(math.isnan(row.mean) for row in rows):
        print("sweep: every run diverged", file=sys.stderr)
        sys.exit(1)


def best_run(results: list[Result]) -> Result | None:
    """The member with the lowest dev loss; None if all diverged."""
    candidates = [result for result in results if result.trained]
    return min(candidates, key=lambda result: result.best_dev_loss, default=None)


def _member(result: Result) -> dict[str, Any]:
    """A result for sweep.json."""
    fields = result._asdict() | {"diverged": result.diverged}
    del fields["trained"]
    return _finite(fields)


def _finite(tree: Any) -> Any:
    """The same with None for what is no number, which JSON can't write."""
    if isinstance(tree, dict):
        return {k: _finite(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_finite(v) for v in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


if __name__ == "__main__":
    command_line.run(main, __doc__, name="sweep")

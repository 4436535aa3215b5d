"""The one module that knows all parts. It assembles data, models, programs and runs.

The core does not import extensions, and programs import what they need from here.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from makemore_jax import config as config_lib
from makemore_jax import models, workdir
from makemore_jax.cli import interrupts, resources
from makemore_jax.config import Config, DataConfig, ModelConfig
from makemore_jax.data import Dataset, Split, draw, lines
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.kernels import layouts
from makemore_jax.kernels.layouts import Layout, with_layouts
from makemore_jax.metrics import Metrics, write_json
from makemore_jax.parallel import evaluation, processes, shardings
from makemore_jax.parallel.gradients import (
    gathered,
    in_microbatches,
    over_devices,
    stored_sharded,
    with_index_sharding,
)
from makemore_jax.parallel.mesh import make_mesh, model_config
from makemore_jax.parallel.shardings import StateShardings
from makemore_jax.text import dataset as text
from makemore_jax.training import run
from makemore_jax.training import state as state_lib
from makemore_jax.training.evaluate import make_evaluate
from makemore_jax.training.hooks import Hook
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.run import Parts, Programs, Run
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import (
    GradientFn,
    gradients,
    make_train_step,
    make_train_steps,
    step_keys,
)
from makemore_jax.windows import dataset as windows
from makemore_jax.windows.calibrate import make_calibrate
from makemore_jax.windows.window_mlp import WindowMLP

DATA_KINDS = {"lines": lines.load, "windows": windows.load, "text": text.load}
EXTENSION_MODELS = {"window_mlp": WindowMLP}
TIMED_STEP_MIN_FLOPS = 1e11  # two cores of a server took 12.7 s for a step of 1.1e12


def load_data(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Read and split the file `config.path`. UserError if the file or a field is unusable.

    `folder` is the working directory of a run, where a large text may have a file of tokens.
    """
    if config.kind not in DATA_KINDS:
        known = ", ".join(DATA_KINDS)
        hint = did_you_mean(config.kind, DATA_KINDS)
        raise UserError(f'data.kind: "{config.kind}" is not one of {known}{hint}')
    return DATA_KINDS[config.kind](config, seed, folder)


def create_model(
    config: ModelConfig, vocab_size: int, block_size: int, platform: str | None = None
) -> nn.Module:
    """Return `models.create` of any model, those of extensions included."""
    families = models.MODELS | EXTENSION_MODELS
    return models.create(config, vocab_size, block_size, platform, families)


def make_gradient_fn(
    model: nn.Module,
    mesh: Mesh,
    batch_layouts: list[Layout],
    num_microbatches: int = 1,
    state_shardings: StateShardings | None = None,
) -> GradientFn:
    """Return the gradient function of a model with all wrappers that its run needs.

    `num_microbatches` is the number on each device.
    """
    num_devices = mesh.shape["data"]
    gradient_fn = gradients(model)
    if getattr(model, "batch_norm", "none") != "none":  # statistics are those of all devices
        gradient_fn = with_index_sharding(gradient_fn, shardings.batch(mesh))
    else:
        if num_devices * num_microbatches > 1:
            gradient_fn = over_devices(in_microbatches(gradient_fn, num_microbatches), mesh)
        gradient_fn = with_layouts(gradient_fn, batch_layouts, num_devices * num_microbatches)
        gradient_fn = with_index_sharding(gradient_fn, shardings.replicated(mesh))
    return gathered(gradient_fn, state_shardings) if state_shardings else gradient_fn


def compile_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    batch_layouts: list[Layout],
    mesh: Mesh,
    num_microbatches: int = 1,
    state_shardings: StateShardings | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Return `make_train_steps` of the step with all wrappers."""
    gradient_fn = make_gradient_fn(model, mesh, batch_layouts, num_microbatches, state_shardings)
    train_step = make_train_step(gradient_fn, optimizer, batch_size)
    if state_shardings:
        train_step = stored_sharded(train_step, state_shardings)
    return shardings.serialize_on_cpu(make_train_steps(train_step), mesh)


def choose_layouts(
    split: Split, model: nn.Module, batch_size: int, num_devices: int, accumulate: int = 1
) -> tuple[list[Layout], int]:
    """Return the layouts of a batch and the number of microbatches on each device."""
    num = layouts.num_microbatches(batch_size // num_devices, split.block_size, accumulate)
    return layouts.choose(split, batch_size, model, num_devices * num), num


def make_programs(config: Config, dataset: Dataset) -> Programs:
    """Return the programs of a run on the config's mesh. UserError if a size does not divide."""
    block_size = dataset.block_size
    model = create_model(model_config(config), dataset.vocab.size, block_size)
    num_params = state_lib.num_params(models.param_shapes(model, block_size))
    batch = config.train.batch_size, num_params, config.train.accumulate, block_size
    mesh = make_mesh(config.mesh, *batch)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    everywhere, state_shardings = shardings.replicated(mesh), None
    if shardings.shards_state(mesh, config.mesh):
        shapes = state_lib.shapes(model, optimizer, block_size)
        state_shardings = shardings.infer_state_shardings(mesh, config.mesh, shapes)
    put = functools.partial(shardings.to_global_arrays, shardings=everywhere)

    def create_state(key: jax.Array) -> TrainState:
        if state_shardings:
            return state_lib.create(model, optimizer, key, block_size, state_shardings.stored)
        return put(state_lib.create(model, optimizer, key, block_size))

    def fetch(variables: Any) -> Any:
        is_whole = not state_shardings and not processes.are_many()
        return variables if is_whole else shardings.fetch_replicated(variables, mesh)

    sizes = config.train.batch_size, mesh.shape["data"], config.train.accumulate
    chosen, num_microbatches = choose_layouts(dataset.splits["train"], model, *sizes)
    train_steps = compile_steps(
        model, optimizer, sizes[0], chosen, mesh, num_microbatches, state_shardings
    )
    sums = evaluation.make_batch_sums(model, mesh)
    evaluate = make_evaluate(sums, mesh.shape["data"], shardings.fetch_sum)
    return Programs(model, create_state, train_steps, evaluate, put, fetch)


@contextlib.contextmanager
def hold(folder: Path, config: Config, dataset: Dataset) -> Iterator[None]:
    """Lock and prepare a working directory. The primary process holds it until the end."""
    with contextlib.ExitStack() as stack:
        processes.wait("checked")
        if processes.is_first():
            stack.enter_context(workdir.prepare(folder, config, dataset))
            dataset.prepare()
        processes.wait("prepared")
        yield


def open_metrics(folder: Path, start: int, config: Config) -> Metrics:
    """Return the log of a run. Processes other than the primary one write nothing."""
    metrics = Metrics(folder if processes.is_first() else None, start, config.train.steps)
    if start == 0:
        metrics.write_config(config_lib.flatten(config))
    return metrics


def make_hooks(run: Run, state: TrainState) -> list[Hook]:
    """Return the hooks for calibration, diagnostics and an early estimate of the time."""
    config, hooks = run.config, []
    if config.train.diagnose_every:
        hooks.append(make_diagnose_hook(run, state))
    if config.model.batch_norm == "calibrated":
        calibrate = make_calibrate(run.programs.model)

        def calibrate_state(state: TrainState) -> TrainState:
            model_state = calibrate(state.variables, run.train_split)
            return state.replace(model_state=jax.block_until_ready(model_state))

        train = config.train
        uses = train.eval_every, train.sample_every, train.checkpoint_every
        hooks.append(Hook(calibrate_state, uses, is_due_at_end=True))
    num_params = state_lib.num_params(state.params)
    steps = timed_steps(int(state.step), config, num_params, run.dataset.block_size)
    return [*hooks, Hook(lambda state: state, steps=steps)]


def timed_steps(start: int, config: Config, num_params: int, block_size: int) -> tuple[int, ...]:
    """Return the first steps of a process if each takes a CPU about a second or more.

    They are called one by one, for an early estimate: `log_every` of them could take hours. The
    first one compiles, the second one is timed.
    """
    flops = 6 * num_params * config.train.batch_size * block_size  # Kaplan et al. 2020, section 2.1
    is_slow = jax.default_backend() == "cpu" and flops > TIMED_STEP_MIN_FLOPS
    return (start + 1, start + 2) if is_slow else ()


def make_diagnose_hook(run: Run, state: TrainState) -> Hook:
    """Return the hook that writes statistics of the next step; write them for a new run."""
    from makemore_jax import diagnostics

    config, model = run.config, run.programs.model
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    diagnose = diagnostics.make_diagnose(model, optimizer)

    def write_diagnostics(state: TrainState) -> TrainState:
        step = int(state.step)
        data_key, dropout_key = step_keys(run.train_key, step)
        batch = draw(run.load(step, 1), data_key, config.train.batch_size)
        run.metrics.flush()
        run.metrics.write_diagnostics(step, diagnose(state, batch, dropout_key))
        return state

    if int(state.step) == 0:
        write_diagnostics(state)
    return Hook(write_diagnostics, (config.train.diagnose_every,))


@contextlib.contextmanager
def catch_signals() -> Iterator[Any]:
    """Give a function that returns the signal that any process has received, or 0."""
    with interrupts.StopSignals() as signals:
        yield lambda: processes.largest(signals.received)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write and print the summary of a run, on the primary process."""
    if not processes.is_first():
        return
    from makemore_jax.events import append_final_values  # tensorboard, which is slow to import

    write_json(folder / "summary.json", summary)
    append_final_values(folder, summary["steps"], {"test_loss": summary["test_loss"]})
    print(
        f"best model, of step {summary['best_step']}: test loss {summary['test_loss']:.4f}, "
        f"dev {summary['dev_loss']:.4f}, train {summary['train_loss']:.4f}\n"
        f"everything is in {folder}; {resources.command('sample')} --workdir {folder} draws from it"
    )


def train(config: Config, directory: str) -> dict[str, Any]:
    """Train with all extensions; see `training.run.train`."""
    parts = Parts(
        load_data=load_data,
        make_programs=make_programs,
        open_metrics=open_metrics,
        hold=hold,
        make_hooks=make_hooks,
        catch_signals=catch_signals,
        write_summary=write_summary,
    )
    return run.train(config, directory, parts)

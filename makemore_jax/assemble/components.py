"""Kinds of data, models, sampling, checkpoints and logging, including those of extensions."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from flax import linen as nn
from jax import Array

from makemore_jax import config as config_lib
from makemore_jax import known_lines, model_forms, models, workdir
from makemore_jax.cli import encodings, file_errors, paths, progress
from makemore_jax.config import Config, DataConfig, ModelConfig, flatten
from makemore_jax.data import Dataset
from makemore_jax.data_folder import find
from makemore_jax.decoding import DEFAULT_DECODING, Decoding, LanguageModel, Sample
from makemore_jax.errors import UserError, look_up
from makemore_jax.integrity import moved_data, resume, run_files, runs
from makemore_jax.integrity.lock import lock
from makemore_jax.metrics import Metrics, RunFiles
from makemore_jax.mixture.model import Mixture, mixture_rules
from makemore_jax.model_forms import ModernForms, TransformerForms
from makemore_jax.parallel import sampling
from makemore_jax.text import dataset as text
from makemore_jax.text import streaming
from makemore_jax.text.token_file import hash_text
from makemore_jax.versions import versions
from makemore_jax.windows import dataset as windows
from makemore_jax.windows.rules import window_rules
from makemore_jax.windows.window_mlp import WindowMLP

if TYPE_CHECKING:  # orbax is slow to import
    from makemore_jax.checkpoint import Checkpoints


def data_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield the rule that `data.long_lines` applies to lines only."""
    is_met = config.data.long_lines == "refuse" or config.data.kind == "lines"
    yield "data.long_lines", is_met, f"refuse for data.kind={config.data.kind}"


RULES = (*config_lib.RULES, data_rules, mixture_rules, window_rules)
DATA_KINDS = {"lines": known_lines.load, "windows": windows.load, "text": text.load}
EXTENSION_MODELS = {
    "window_mlp": WindowMLP,
    "transformer": TransformerForms,
    "modern": ModernForms,
    "mixture": Mixture,
}


def validate(config: Config) -> None:
    """Check a config as training does. Raise UserError for the first rule that it does not meet."""
    config_lib.validate(config, RULES)


def load_data(config: DataConfig, seed: int, folder: Path | None = None) -> Dataset:
    """Read and split the file `config.path`. Raise UserError if the file or a field is unusable.

    `folder` is the working directory of a run. A large text may have a file of tokens there.
    """
    load = look_up("data.kind", config.kind, DATA_KINDS)
    paths.check_address(config.path, "data.path")
    if not config.path:
        raise UserError("data.path is empty")
    path = find(config.path)
    if config.kind == "text" and _is_pipe(path):
        raise UserError(f"data.path: {path} can be read only once; save it as a file")
    encodings.check(path, config.encoding)
    with file_errors.reporting(path, config.encoding):
        dataset = load(replace(config, path=path), seed, folder)
    file_errors.check_characters(dataset.vocab.chars, path, config.encoding, "data.path")
    return dataset


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def create_model(
    config: ModelConfig, vocab_size: int, block_size: int, platform: str | None = None
) -> nn.Module:
    """Create a model of any family, including those of extensions; see `models.create`.

    The model has its fastest form on `platform`, "cpu", "gpu" or "tpu"; None: JAX's default.
    """
    families = models.MODELS | EXTENSION_MODELS
    model = models.create(config, vocab_size, block_size, families)
    return model_forms.for_platform(model, platform or jax.default_backend())


def sample(
    lm: LanguageModel,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = DEFAULT_DECODING,
    first: int = 0,
    check: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Sample lines or texts number `first` to `first + num - 1` of a key, on all devices.

    See `sampling.sample` for lines and `streaming.sample` for texts. `check` is called before each
    compiled call; it may raise an exception to end the sampling.
    """
    sample_kind = sampling.sample if lm.vocab.has_end else streaming.sample
    return sample_kind(lm, key, num, prompt, decoding, first, check)


def open_checkpoints(folder: str | Path, read_only: bool = False) -> "Checkpoints":
    """Return the checkpoints of a working directory, with checksums and retries."""
    from makemore_jax.integrity.checkpoints import VerifiedCheckpoints

    return VerifiedCheckpoints(folder, read_only)


def load_language_model(
    folder: str | Path, run: workdir.Run, checkpoint: str = "best", max_len: int | None = None
) -> LanguageModel:
    """Return the model of a run with the parameters of its `best` or `latest` checkpoint.

    `max_len` replaces the maximum length of its samples.
    """
    lm = restore_language_model(open_checkpoints(folder, read_only=True), run, checkpoint)
    return lm._replace(max_len=max_len or lm.max_len)


def restore_language_model(
    checkpoints: "Checkpoints", run: workdir.Run, checkpoint: str = "best"
) -> LanguageModel:
    """Return the model of a run with the parameters of one of its opened checkpoints."""
    block_size = run.config.data.block_size
    model = create_model(run.config.model, run.vocab.size, block_size)
    template = models.variable_shapes(model, block_size)
    variables = checkpoints.restore_items(checkpoint, template)
    return LanguageModel(model, variables, run.vocab, run.max_len, block_size)


def read_run(folder: str | Path) -> workdir.Run:
    """Return the run of a working directory. Raise UserError if it has none, or a damaged one."""
    run = runs.read(Path(folder))
    validate(run.config)
    return run


def find_data(
    run: workdir.Run, folder: str | Path | None = None, path: str | None = None
) -> Dataset | None:
    """Return the data of the run in `folder`. None if the file is missing or has changed.

    `path` is the file that the user names, if any. Raise UserError if it can't be used.
    """
    if path is None:
        path = moved_data.find_file(run, folder)
    else:
        path = find(path)
        with file_errors.reporting(path, run.config.data.encoding, "--data"):
            sha256 = hash_text(path)
        if sha256 != run.data_sha256:
            raise UserError(f"--data: {path} is not the file that the run was trained on")
    config = replace(run.config.data, path=path)
    return load_data(config, run.config.seed, folder and Path(folder)) if path else None


@contextlib.contextmanager
def open_workdir(folder: Path, config: Config, dataset: Dataset) -> Iterator[None]:
    """Lock a working directory, and write the config and the vocabulary of the run.

    Raise UserError if it has another run or other files, if it is locked, or if it can't be
    written.
    """
    resume.check(folder, config, dataset)
    with lock(folder):
        with runs.reporting_errors(folder):
            run_files.undo_replacements(folder)
            file = str(Path(find(config.data.path)).absolute())
            workdir.prepare(folder, config, dataset, data_file=file, versions=versions())
        yield


def open_metrics(folder: Path | None, start: int, config: Config) -> Metrics:
    """Return the logging of a training that starts at step `start`: files, TensorBoard, progress.

    Without a `folder` nothing is written or printed: only the primary process has one.
    """
    display = progress.TrainingProgress(start, config.train.steps, is_silent=folder is None)
    if folder is None:
        return Metrics(start, [], display)
    from makemore_jax.events import Events  # tensorboard, which is slow to import

    seconds = run_files.cut(folder, start, resume.repeats_results(folder, config, start))
    files, events = RunFiles(folder, start), Events(folder, start)
    if start == 0:
        events.write_config(flatten(config))
    return Metrics(start, [files, events], display, seconds)

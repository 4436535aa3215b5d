"""Collect everything that the page of a run shows. Nothing is written here.

plots/ draws the figures and page.py makes the HTML.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from makemore_jax import assemble, model_forms, workdir
from makemore_jax import config as config_lib
from makemore_jax.assemble import find_data, open_checkpoints, read_run, restore_language_model
from makemore_jax.cli import sample_rules
from makemore_jax.data.lines import LinesDataset, encode
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.mixture.model import Mixture
from makemore_jax.report import history
from makemore_jax.report.attention import attention_weights
from makemore_jax.report.bigrams import BigramTables, bigram_tables
from makemore_jax.report.embeddings import Projection, project_embeddings
from makemore_jax.report.facts import collect_facts
from makemore_jax.report.history import Curves, Diagnostics
from makemore_jax.report.samples import ReportedSample, describe_samples
from makemore_jax.report.surprise import Passage, choose_passage, name_surprise
from makemore_jax.training.state import num_params

MAX_TEXT_SAMPLES = 3  # samples of a model of one text; each is as long as many lines


class Report(NamedTuple):
    """The content of a page. Parts that a run does not have are None or an empty list."""

    title: str
    facts: dict[str, str]
    config: dict[str, Any]  # all fields by dotted name
    is_text: bool  # the run was trained on one text, not on lines
    vocab: Vocab
    curves: Curves | None
    best_step: int
    diagnostics: Diagnostics | None
    samples: list[ReportedSample]
    names: list[str]
    surprise: list[np.ndarray]  # (T,) for each name, in nats
    passage: Passage | None  # of a run on one text
    attention: list[np.ndarray]  # (n_layer, nh, T, T) for each name; of a mixture's first network
    embeddings: Projection | None  # of all tokens, in token order; of a mixture's first network
    bigrams: BigramTables | None


def collect(
    folder: Path, names: list[str] | None, seed: int, num: int, data: str | None = None
) -> Report:
    """Collect the report of the run in `folder`, with `num` samples. `data` is a moved data file.

    The default for `names` is three of dev, or three samples if the data is missing. Raise
    UserError if there is no run in the folder, or for a name that the model can't read.
    """
    run = read_run(folder)
    is_text = run.config.data.kind == "text"
    if is_text and names is not None:
        raise UserError("--names: only for a run on lines; this run was trained on one text")
    if names is not None:
        check_names(names, run.vocab, run.max_len)
    lm, best_step = load_best_model(folder, run)
    dataset = find_data(run, folder, data)
    num = min(num, MAX_TEXT_SAMPLES) if is_text else num
    samples = assemble.sample(lm, jax.random.key(seed), num)
    curves = history.read_curves(folder, run)
    parameters = num_params(lm.variables["params"])
    parameter_order = history.parameter_order(lm.model, run.config.data.block_size)
    lines = None if is_text else dataset
    if is_text:
        names = []
    elif names is None:
        names = default_names(lines, [sample.text for sample in samples])
    return Report(
        title=folder.resolve().name,
        facts=collect_facts(folder, run, curves, parameters, best_step, dataset),
        config=config_lib.flatten(run.config),
        is_text=is_text,
        vocab=lm.vocab,
        curves=curves,
        best_step=best_step,
        diagnostics=history.read_diagnostics(folder, parameter_order),
        samples=describe_samples(samples, lines),
        names=names,
        surprise=name_surprise(lm, names) if names else [],
        passage=choose_passage(lm, dataset, samples[0].text) if is_text else None,
        attention=attention_weights(first_network(lm), names) if names else [],
        embeddings=project_embeddings(first_network(lm)),
        bigrams=lines and bigram_tables(lm, encode(lines.words["train"], lm.vocab, lm.max_len)),
    )


def load_best_model(folder: Path, run: workdir.Run) -> tuple[LanguageModel, int]:
    """Load the model with the lowest dev loss. -> the model, its step"""
    checkpoints = open_checkpoints(folder, read_only=True)
    lm = restore_language_model(checkpoints, run)
    # Attention weights are captured per layer, so the layers must be separate modules.
    return lm._replace(model=model_forms.unrolled(lm.model)), checkpoints.steps()["best"]


def first_network(lm: LanguageModel) -> LanguageModel:
    """Return the first network of a mixture. Any other model is returned as it is."""
    if not isinstance(lm.model, Mixture):
        return lm
    variables = {"params": lm.variables["params"]["members_0"]}
    return lm._replace(model=lm.model.network(parent=None), variables=variables)


def check_names(names: list[str], vocab: Vocab, max_len: int) -> None:
    """Raise UserError for a name that is empty, too long, or has an unknown character."""
    if not all(names):
        raise UserError("--names: a name is empty; separate names by commas, as in emma,olivia")
    sample_rules.check_lines(names, vocab, max_len, "--names")


def default_names(dataset: LinesDataset | None, samples: list[str]) -> list[str]:
    """Return the first three names of dev, or the first three samples without a dataset."""
    names = dataset.words["dev"] if dataset else [text for text in samples if text] or samples
    return list(dict.fromkeys(names))[:3]

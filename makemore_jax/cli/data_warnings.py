"""What a user should know about the data and the settings before training starts."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from makemore_jax.cli import encodings
from makemore_jax.config import Config, DataConfig, flatten
from makemore_jax.data import Dataset, files
from makemore_jax.data.lines import LinesDataset
from makemore_jax.data_folder import find

TYPICAL_SHARE = 0.99  # the share of lines that are not longer than typical
LONG_FACTOR = 4  # a line this many times as long as the typical ones is worth a warning
# Fields, and the values of another field for which they are used.
USES = {
    "data.split": ("data.kind", ("lines", "windows")),
    "data.train_fraction": ("data.kind", ("text",)),
    "data.memory_map": ("data.kind", ("text",)),
    "model.momentum": ("model.batch_norm", ("running",)),
    "optimizer.b1": ("optimizer.name", ("adamw", "muon")),
    "optimizer.b2": ("optimizer.name", ("adamw", "muon")),
    "optimizer.min_learning_rate": ("optimizer.schedule", ("cosine", "nanogpt")),
    "optimizer.decay_steps": ("optimizer.schedule", ("cosine", "nanogpt")),
    "optimizer.step_size": ("optimizer.schedule", ("step",)),
    "optimizer.gamma": ("optimizer.schedule", ("step",)),
}


def data_warnings(config: DataConfig, dataset: Dataset) -> Iterator[str]:
    """Yield one line for each thing about the data that is probably not intended."""
    if encodings.is_misread_utf8(find(config.path), config.encoding):
        yield (
            f"data.encoding: {config.path} is valid UTF-8 but is read as {config.encoding}; "
            "leave the option out if the characters look wrong"
        )
    if config.kind == "lines" and (num := _num_indented(config)):
        begin = "line begins" if num == 1 else "lines begin"
        yield (
            f"data.path: {num:,} {begin} with spaces or tabs, which are removed; data.kind=text "
            "keeps them"
        )
    if config.kind == "lines" and config.block_size is None and config.long_lines != "refuse":
        yield "data.long_lines: not used without data.block_size: no line is too long"
    if config.kind == "lines" and config.block_size is None and isinstance(dataset, LinesDataset):
        yield from _long_line(dataset)


def unused_settings(config: Config) -> Iterator[str]:
    """Yield one line for each field that is changed but not used."""
    values, defaults = flatten(config), flatten(Config())
    for name in USES:
        if values[name] != defaults[name] and (problem := why_unused(name, values)):
            yield problem


def why_unused(name: str, values: dict[str, Any]) -> str:
    """Return why a field is not used with these values of all fields, "" if it is."""
    if name not in USES:
        return ""
    other, uses = USES[name]
    return "" if values[other] in uses else f"{name}: not used with {other}={values[other]}"


def _num_indented(config: DataConfig) -> int:
    if not os.path.isfile(path := find(config.path)):  # a pipe can be read only once
        return 0
    text, _ = files.read(path, config.encoding)
    return sum(line[0] in " \t" and not line.isspace() for line in text.splitlines() if line)


def _long_line(dataset: LinesDataset) -> Iterator[str]:
    """Yield a warning if a few lines are much longer than all others: they set the block size."""
    words = [word for part in dataset.words.values() for word in part]
    typical = int(np.quantile([len(word) for word in words], TYPICAL_SHARE, method="lower"))
    longest = max(words, key=len)
    if len(longest) + 1 >= LONG_FACTOR * (typical + 1):
        yield (
            f"data.block_size: is {dataset.block_size} because of the line {longest[:20]!r}..., "
            f"which has {len(longest):,} characters; {TYPICAL_SHARE:.0%} of the lines have at most "
            f"{typical}. Training is faster with --config.data.block_size={typical + 1} "
            "--config.data.long_lines=drop (or cut)"
        )

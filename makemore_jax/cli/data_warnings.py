"""What a user should know about the data and the settings before training starts."""

from collections.abc import Iterator

import numpy as np

from makemore_jax.cli import encodings
from makemore_jax.config import DataConfig, OptimizerConfig
from makemore_jax.data import Dataset, files
from makemore_jax.data.lines import LinesDataset
from makemore_jax.data_folder import find

TYPICAL_SHARE = 0.99  # the share of lines that are not longer than typical
LONG_FACTOR = 4  # a line this many times as long as the typical ones is worth a warning
# The schedules that read a field.
SCHEDULES_OF = {
    "min_learning_rate": ("cosine", "nanogpt"),
    "decay_steps": ("cosine", "nanogpt"),
    "step_size": ("step",),
    "gamma": ("step",),
}


def data_warnings(config: DataConfig, dataset: Dataset) -> Iterator[str]:
    """Yield one line for each thing about the data that is probably not intended."""
    if encodings.is_misread_utf8(find(config.path), config.encoding):
        yield (
            f"data.encoding: {config.path} is valid UTF-8 but is read as {config.encoding}; "
            "leave the option out if the characters look wrong"
        )
    if config.kind != "text" and (num := _num_indented(config)):
        yield (
            f"data.path: {num:,} lines of {config.path} begin with spaces or tabs, which are "
            "removed; data.kind=text keeps them"
        )
    if config.kind == "lines" and config.block_size is None and isinstance(dataset, LinesDataset):
        yield from _long_line(dataset)


def unused_settings(config: OptimizerConfig) -> Iterator[str]:
    """Yield one line for each field that the schedule does not read and that is not its default."""
    for name, schedules in SCHEDULES_OF.items():
        if config.schedule not in schedules and getattr(config, name) != getattr(
            OptimizerConfig(), name
        ):
            yield f"optimizer.{name}: not used by optimizer.schedule={config.schedule}"


def _num_indented(config: DataConfig) -> int:
    text, _ = files.read(find(config.path), config.encoding)
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

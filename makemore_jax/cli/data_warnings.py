"""What a user should know about the data before training starts."""

from collections.abc import Iterator

import numpy as np

from makemore_jax.cli import encodings
from makemore_jax.config import DataConfig
from makemore_jax.data import Dataset
from makemore_jax.data.lines import LinesDataset
from makemore_jax.data_folder import find

TYPICAL_SHARE = 0.99  # the share of lines that are not longer than typical
LONG_FACTOR = 4  # a line this many times as long as the typical ones is worth a warning


def data_warnings(config: DataConfig, dataset: Dataset) -> Iterator[str]:
    """Yield one line for each thing about the data that is probably not intended."""
    if encodings.is_misread_utf8(find(config.path), config.encoding):
        yield (
            f"data.encoding: {config.path} is valid UTF-8 but is read as {config.encoding}; "
            "leave the option out if the characters look wrong"
        )
    if config.kind == "lines" and config.block_size is None and isinstance(dataset, LinesDataset):
        yield from _long_line(dataset)


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

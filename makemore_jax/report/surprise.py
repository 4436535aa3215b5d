"""The surprise of a model, -ln p in nats, at each character of a name or of a text."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax.cli import sample_rules
from makemore_jax.data import lines
from makemore_jax.decoding import LanguageModel
from makemore_jax.losses import token_losses
from makemore_jax.text import dataset as text_lib
from makemore_jax.text.dataset import Text, TextDataset
from makemore_jax.windows.whole_lines import read_lines

PASSAGE_CHARS = 400


def name_surprise(lm: LanguageModel, names: list[str]) -> list[np.ndarray]:
    """Return the surprise of each character of each name and of its end: (T,), in nats.

    Raise UserError if a name is too long or has an unknown character.
    """
    sample_rules.check_lines(names, lm.vocab, lm.max_len, "names")
    if not names:
        return []
    width = max(map(len, names)) + 1
    split = lines.encode(names, lm.vocab, lm.max_len)
    inputs, targets, _ = split.take(jnp.arange(len(names)), width)
    losses = np.asarray(_token_losses(lm.model, lm.variables, inputs, targets))
    return [row[: len(name) + 1] for row, name in zip(losses, names, strict=True)]


class Passage(NamedTuple):
    """The beginning of a text, and the surprise of each character except the first."""

    text: str
    nats: np.ndarray  # (len(text) - 1,)
    source: str  # "dev text" or "first sample"


def choose_passage(lm: LanguageModel, dataset: TextDataset | None, sample: str) -> Passage:
    """Return the beginning of the dev text, or of a sample if the data is missing."""
    if dataset is not None:
        try:
            return Passage(*read_passage(lm, dataset.splits["dev"]), "dev text")
        except OSError:  # the token file was deleted
            pass
    split = text_lib.encode(sample, lm.vocab, lm.block_size)
    return Passage(*read_passage(lm, split), "first sample")


def read_passage(
    lm: LanguageModel, split: Text, max_chars: int = PASSAGE_CHARS
) -> tuple[str, np.ndarray]:
    """Return the first characters of a split and the surprise of each except the first, in nats.

    Crops overlap by half. Every prediction after the first crop has a context of at least T / 2
    characters.
    """
    T = lm.block_size
    stride = max(1, T // 2)
    num_targets = min(max_chars, split.num_chars) - 1
    num_crops = 1 + max(0, -(-(num_targets - T) // stride))
    indices = np.arange(num_crops)
    inputs, targets, _ = split.replace(stride=stride).load(lambda: indices).take(jnp.array(indices))
    losses = np.asarray(_token_losses(lm.model, lm.variables, inputs, targets))  # (B, T)

    def join(crops: np.ndarray) -> np.ndarray:
        """Concatenate the crops without the overlaps. (B, T) -> (num_targets,)"""
        return np.concatenate([crops[0], crops[1:, T - stride :].ravel()])[:num_targets]

    tokens = [int(inputs[0, 0]), *join(np.asarray(targets)).tolist()]
    return "".join(lm.vocab.chars[token] for token in tokens), join(losses)


@partial(jax.jit, static_argnums=0)
def _token_losses(model: nn.Module, variables: Any, inputs: Array, targets: Array) -> Array:
    return token_losses(read_lines(model, variables, inputs), targets)

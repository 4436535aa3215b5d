"""How surprising each character of a text is to its model."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax import models
from makemore_jax.decoding import LanguageModel
from makemore_jax.losses import token_losses
from makemore_jax.text.dataset import Text, TextDataset, encode

PASSAGE_CHARS = 400


class Passage(NamedTuple):
    """The beginning of a text, and the surprise of each character but the first."""

    text: str
    nats: np.ndarray  # (len(text) - 1,), -ln p given at least T / 2 characters before, if any
    source: str  # "dev text", or "first sample" if the data is gone


def choose_passage(lm: LanguageModel, dataset: TextDataset | None, sample: str) -> Passage:
    """The beginning of the dev text; that of a sample if the data is gone."""
    if dataset is not None:
        try:
            return Passage(*read_passage(lm, dataset.splits["dev"]), "dev text")
        except OSError:  # the file of tokens is gone
            pass
    return Passage(*read_passage(lm, encode(sample, lm.vocab, lm.block_size)), "first sample")


def read_passage(
    lm: LanguageModel, split: Text, max_chars: int = PASSAGE_CHARS
) -> tuple[str, np.ndarray]:
    """The first characters of a split, and -ln p in nats of each but the first.

    Crops overlap by half, so that each prediction behind the first crop sees at least T / 2
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
        """All targets of the first crop, then of each crop those that no crop before it has."""
        return np.concatenate([crops[0], crops[1:, T - stride :].ravel()])[:num_targets]

    tokens = [int(inputs[0, 0]), *join(np.asarray(targets)).tolist()]
    return "".join(lm.vocab.chars[token] for token in tokens), join(losses)


@partial(jax.jit, static_argnums=0)
def _token_losses(model: nn.Module, variables: Any, inputs: Array, targets: Array) -> Array:
    return token_losses(models.read_lines(model, variables, inputs), targets)

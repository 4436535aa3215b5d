"""Sample only lines that are not in the data."""

from jax import Array

from makemore_jax import assemble
from makemore_jax.decoding import (
    DEFAULT_DECODING,
    MIN_TEMPERATURE,
    Decoding,
    LanguageModel,
    Sample,
)
from makemore_jax.known_lines import KnownLines

MAX_ROUNDS = 100


def sample_new(
    lm: LanguageModel,
    dataset: KnownLines,
    key: Array,
    num: int,
    prompt: str = "",
    decoding: Decoding = DEFAULT_DECODING,
) -> list[Sample]:
    """Return `num` sampled lines that are in no split of the data and were not cut.

    Stop after `MAX_ROUNDS * num` samples, and return fewer if there are not enough.
    """
    new: list[Sample] = []
    for i in range(MAX_ROUNDS):
        samples = assemble.sample(lm, key, num, prompt, decoding, first=i * num)
        places = dataset.found_in([s.text for s in samples], [s.is_cut for s in samples])
        new += [line for line, place in zip(samples, places, strict=True) if place == "new"]
        # All greedy lines are equal.
        if len(new) >= num or decoding.temperature < MIN_TEMPERATURE:
            break
    return new[:num]

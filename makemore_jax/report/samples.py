"""Samples of a model, and the training lines nearest to them."""

import math
from typing import NamedTuple

import numpy as np

from makemore_jax.decoding import Sample
from makemore_jax.known_lines import KnownLines

WORD_BATCH = 4_096  # words that edit_distances processes in one call


class ReportedSample(NamedTuple):
    """A sample and its relation to the data. The last three are None if the data is missing."""

    text: str
    log_prob: float  # nats, including the end of the line
    found_in: str | None  # "train", "dev", "test", "new" or "cut"
    nearest: str | None  # the training line with the smallest edit distance
    edits: int | None  # that distance


def describe_samples(samples: list[Sample], dataset: KnownLines | None) -> list[ReportedSample]:
    """Compare samples with the lines of a dataset. The order stays the same."""
    if dataset is None:
        return [ReportedSample(s.text, s.log_prob, None, None, None) for s in samples]
    texts = [sample.text for sample in samples]
    places = dataset.found_in(texts, [sample.is_cut for sample in samples])
    nearest = nearest_words(texts, dataset.words["train"])
    return [
        ReportedSample(sample.text, sample.log_prob, place, word, edits)
        for sample, place, (word, edits) in zip(samples, places, nearest, strict=True)
    ]


def nearest_words(texts: list[str], words: list[str]) -> list[tuple[str, int]]:
    """Return the nearest word to each text, and its edit distance.

    Ties go to the word with the length closest to the text's, then to the first word.
    """
    words = list(dict.fromkeys(words))
    sizes = np.array([len(word) for word in words])
    return [_nearest_word(text, words, np.abs(sizes - len(text))) for text in texts]


def _nearest_word(text: str, words: list[str], min_edits: np.ndarray) -> tuple[str, int]:
    """Try words in the order of `min_edits` (N,), the lower bounds of their distances."""
    order = np.argsort(min_edits, kind="stable")
    best, fewest = "", math.inf
    for start in range(0, len(order), WORD_BATCH):
        batch = order[start : start + WORD_BATCH]
        if min_edits[batch[0]] >= fewest:
            break
        distances = edit_distances(text, [words[i] for i in batch])
        if distances.min() < fewest:
            best, fewest = words[batch[distances.argmin()]], int(distances.min())
    return best, fewest


def edit_distances(text: str, words: list[str]) -> np.ndarray:
    """Return the Levenshtein distance of a text from each word. -> (N,)

    The algorithm of Wagner and Fischer (1974) runs for all words at once.
    """
    size = max(1, *map(len, words))
    chars = np.array(words, dtype=f"U{size}").view(np.uint32).reshape(len(words), size)
    columns = np.arange(size + 1)
    row = np.tile(columns, (len(words), 1))  # from the empty text to the first j characters
    for i, char in enumerate(text, start=1):
        new = np.full_like(row, i)
        new[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (chars != ord(char)))
        # Insertions move along the row: entry j is the minimum over k <= j of new[k] + j - k.
        row = np.minimum.accumulate(new - columns, axis=1) + columns
    return row[np.arange(len(words)), [len(word) for word in words]]

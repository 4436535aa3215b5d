"""What a trained model has learnt, as numbers.

`collect` computes everything and writes nothing; plots/ draws it; page.py turns it into HTML.
"""

import dataclasses
import math
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from makemore_jax import config as config_lib
from makemore_jax import data, history, models, sampling, workdir
from makemore_jax.assemble import create_model, load_data
from makemore_jax.data.lines import Dataset, Lines, encode
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel, Sample
from makemore_jax.errors import UserError
from makemore_jax.facts import collect_facts
from makemore_jax.history import Curves, Inside
from makemore_jax.losses import token_losses
from makemore_jax.passage import Passage, choose_passage
from makemore_jax.text.dataset import TextDataset
from makemore_jax.training.state import num_params

EDGE = "•"  # how the token 0, where a line begins and ends, is shown
MOST_LINES = 2_000  # over the beginnings of so many the learnt bigrams are averaged
WORDS_AT_ONCE = 4_096  # whose distances are computed together


class Plane(NamedTuple):
    """Points in the two directions in which they differ most."""

    points: np.ndarray  # (N, 2)
    shares: np.ndarray  # (2,) of the variance


class Bigrams(NamedTuple):
    """p(next | current), a row for each current token. A row is nan where the token never stood."""

    learnt: np.ndarray  # (V, V)
    counted: np.ndarray  # (V, V)

    @property
    def difference(self) -> float:
        """The mean absolute difference over all pairs whose first token both know."""
        return float(np.nanmean(np.abs(self.learnt - self.counted)))


class Drawn(NamedTuple):
    """A sample, and what it has to do with the data; None where the data are gone."""

    text: str
    log_prob: float  # nats, the end included
    found_in: str | None
    nearest: str | None  # the training line with the fewest edits between it and the text
    edits: int | None


MOST_TEXTS = 3  # samples of a run on a text, each as long as many lines


class Report(NamedTuple):
    """All that is shown. None, or an empty list, is what this run or its family does not have."""

    title: str
    facts: dict[str, str]
    config: dict[str, Any]  # every field by its dotted name
    is_text: bool  # whether the run was trained on one text, not on lines
    vocab: Vocab
    curves: Curves | None
    best_step: int
    inside: Inside | None
    samples: list[Drawn]
    names: list[str]
    surprise: list[np.ndarray]  # of each name (T,), in nats
    passage: Passage | None  # of a run on one text
    attention: list[np.ndarray]  # of each name (n_layer, nh, T, T)
    characters: Plane | None  # of all tokens, in their order
    bigrams: Bigrams | None


def collect(folder: Path, names: list[str] | None, seed: int, num: int) -> Report:
    """Compute everything from the run in `folder`; `names` None: three of dev, or three samples.

    UserError where there is no run, or for a name that its model can't read.
    """
    run = workdir.read(folder)
    is_text = run.config.data.kind == "text"
    if is_text and names is not None:
        raise UserError("--names: only for a run on lines; this one was trained on one text")
    if names is not None:
        check_names(names, run.vocab, run.max_len)
    lm, best_step = load(folder, run)
    dataset = find_data(run, folder)
    drawn = sampling.sample(lm, jax.random.key(seed), min(num, MOST_TEXTS) if is_text else num)
    block_size = run.config.data.block_size
    curves = history.read_curves(folder, run)
    parameters = num_params(lm.variables["params"])
    facts = collect_facts(folder, run, curves, parameters, best_step, dataset)
    passage = choose_passage(lm, dataset, drawn[0].text) if is_text else None
    lines = None if is_text else dataset
    if is_text:
        names = []
    elif names is None:
        names = default_names(lines, [line.text for line in drawn])
    return Report(
        title=folder.resolve().name,
        facts=facts,
        config=config_lib.flatten(run.config),
        is_text=is_text,
        vocab=lm.vocab,
        curves=curves,
        best_step=best_step,
        inside=history.read_inside(folder, history.in_order_of_use(lm.model, block_size)),
        samples=place_samples(drawn, lines),
        names=names,
        surprise=surprise(lm, names) if names else [],
        passage=passage,
        attention=attention_weights(lm, names) if names else [],
        characters=embedded_characters(lm),
        bigrams=lines and bigrams(lm, encode(lines.words["train"], lm.vocab, lm.max_len)),
    )


def load(folder: Path, run: workdir.Run) -> tuple[LanguageModel, int]:
    """The model of a run with the best parameters by dev loss, and the step that those are of."""
    from makemore_jax.checkpoint import Checkpoints  # orbax, which is slow to import

    block_size = run.config.data.block_size
    # The attention maps are outputs of the modules of each layer.
    model = models.unrolled(create_model(run.config.model, run.vocab.size, block_size))
    checkpoints = Checkpoints(folder, read_only=True)
    variables = checkpoints.restore_variables("best", models.variable_shapes(model, block_size))
    lm = LanguageModel(model, variables, run.vocab, run.max_len, block_size)
    return lm, checkpoints.steps()["best"]


def find_data(run: workdir.Run, folder: Path) -> Dataset | TextDataset | None:
    """The data of the run in `folder`; None if it is gone or has changed."""
    config = dataclasses.replace(run.config.data, path=run.data_file)
    try:
        dataset = load_data(config, run.config.seed, folder)
    except UserError:
        return None
    return dataset if dataset.sha256 == run.data_sha256 else None


def check_names(names: list[str], vocab: Vocab, max_len: int) -> None:
    """UserError for a name that is empty, too long, or of characters that training never saw."""
    if not all(names):
        raise UserError("--names: one of them is empty; they are given as emma,olivia")
    for name in names:
        if unknown := vocab.unknown(name):
            raise UserError(f"--names: training never saw {unknown[0]!r}, which is in {name!r}")
        if len(name) >= max_len:
            raise UserError(
                f"--names: {name[:40]!r} has {len(name)} characters; "
                f"the lines of this model have at most {max_len - 1}"
            )


def default_names(dataset: Dataset | None, drawn: list[str]) -> list[str]:
    """The first three of dev, which training has not seen; without data the first three drawn."""
    known = dataset.words["dev"] if dataset else [text for text in drawn if text] or drawn
    return list(dict.fromkeys(known))[:3]


def embedded_characters(lm: LanguageModel) -> Plane | None:
    """The embedding of every token, projected; None for a family that embeds none."""
    wte = lm.variables["params"].get("wte")
    if wte is None:
        return None
    # The MLP has a row more, for what lies before a line: it is no character.
    return project(np.asarray(wte["embedding"])[: lm.vocab.size])


def project(rows: np.ndarray) -> Plane:
    """Principal component analysis: (N, C) -> the first two components.

    A component's sign is free; here its largest coordinate, in absolute value, is positive.
    """
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    u, s = (np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 2)]) for a in (u, s))  # where C or N is 1
    points = (u * s)[:, :2]
    largest = points[np.abs(points).argmax(axis=0), [0, 1]]
    variance = s**2
    return Plane(points * np.where(largest < 0, -1, 1), variance[:2] / max(variance.sum(), 1e-300))


def kind_of(label: str) -> str:
    """'vowel', 'consonant' or, for all else, 'other'; accents do not count."""
    if not label.isalpha():
        return "other"
    return "vowel" if unicodedata.normalize("NFD", label)[0].lower() in "aeiou" else "consonant"


def labels(vocab: Vocab) -> list[str]:
    """How each token is shown."""
    return [shown(char) for char in (*[""][: vocab.has_end], *vocab.chars)]


def shown(char: str) -> str:
    """A character that can be seen; no character is the edge of a line."""
    if not char:
        return EDGE
    if char.isspace():
        return "␣"
    return char if char.isprintable() else "�"


def _captured(lm: LanguageModel, names: list[str]) -> list[dict[str, Array]]:
    """What the linear layers of each attention gave: [{"c_attn": (B, T, 3 C), "c_proj": ...}]."""
    params = lm.variables["params"]
    blocks = [f"h_{i}" for i in range(len(params))]
    blocks = [name for name in blocks if "attn" in params.get(name, {})]
    if not blocks:
        return []
    width = max(map(len, names)) + 1
    tokens, *_ = encode(names, lm.vocab, lm.max_len).take(jnp.arange(len(names)), width)

    @jax.jit
    def intermediates(variables: Any) -> Any:
        _, kept = lm.model.apply(
            variables,
            tokens,
            capture_intermediates=lambda module, _: module.name in ("c_attn", "c_proj"),
            mutable=["intermediates"],
        )
        return kept["intermediates"]

    kept = intermediates(lm.variables)
    return [
        {layer: found["__call__"][0] for layer, found in kept[name]["attn"].items()}
        for name in blocks
    ]


def attention_weights(lm: LanguageModel, names: list[str]) -> list[np.ndarray]:
    """For each name what every layer and head looks at, (n_layer, nh, T, T), T = characters + 1.

    Row t is the distribution over the tokens up to t, the first being the 0 that begins the line.
    An empty list for a family without attention (Vaswani et al. 2017, section 3.2.1).
    """
    captured = _captured(lm, names)
    if not captured:
        return []
    by_layer = [_weights(found["c_attn"], lm.model.n_head) for found in captured]
    by_name = np.stack(by_layer, axis=1)  # (B, n_layer, nh, T, T)
    sizes = [len(name) + 1 for name in names]
    return [of[..., :T, :T] for of, T in zip(by_name, sizes, strict=True)]


@partial(jax.jit, static_argnums=1)
def _weights(qkv: Array, n_head: int) -> Array:
    """(B, T, 3 C) -> (B, nh, T, T)"""
    B, T, _ = qkv.shape
    q, k, _ = (a.reshape(B, T, n_head, -1) for a in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf))


def surprise(lm: LanguageModel, names: list[str]) -> list[np.ndarray]:
    """-ln p of each character of each name given those before it, and of its end: (T,), in nats."""
    width = max(map(len, names)) + 1
    inputs, targets, _ = encode(names, lm.vocab, lm.max_len).take(jnp.arange(len(names)), width)
    losses = np.asarray(_token_losses(lm.model, lm.variables, inputs, targets))
    return [of[: len(name) + 1] for of, name in zip(losses, names, strict=True)]


@partial(jax.jit, static_argnums=0)
def _token_losses(model: nn.Module, variables: Any, inputs: Array, targets: Array) -> Array:
    return token_losses(models.read_lines(model, variables, inputs), targets)


def bigrams(lm: LanguageModel, split: Lines) -> Bigrams:
    """The learnt table over the first lines of a split beside the one counted over all of them."""
    return Bigrams(learnt_bigrams(lm, split), counted_bigrams(split, lm.vocab.size))


def learnt_bigrams(lm: LanguageModel, split: Lines, at_most: int = MOST_LINES) -> np.ndarray:
    """p(next | current), the mean of the predictions wherever the current token stands. (V, V)

    Over the first `at_most` lines. What a model knows beyond the current token is averaged out.
    """
    size, batch_size, V = min(split.size, at_most), split.batch_size(), lm.vocab.size

    @jax.jit
    def sums(variables: Any, split: Lines, indices: Array) -> tuple[Array, Array]:
        """The predictions added up by current token (V, V), and how many they are (V,)."""
        inputs, targets, _ = data.take_below(split, indices, size)
        stands = jax.nn.one_hot(inputs, V) * (targets != -1)[..., None]  # (B, T, V)
        probs = jax.nn.softmax(models.read_lines(lm.model, variables, inputs))
        return jnp.einsum("btc,btn->cn", stands, probs), stands.sum(axis=(0, 1))

    parts = [
        sums(lm.variables, split, start + jnp.arange(batch_size))
        for start in range(0, size, batch_size)
    ]
    total, count = (
        np.sum(np.stack(part), axis=0, dtype=np.float64) for part in zip(*parts, strict=True)
    )
    return _rows(total, count)


def counted_bigrams(split: Lines, vocab_size: int) -> np.ndarray:
    """p(next | current) by counting how often each pair stands in a split. (V, V)"""
    stream = np.asarray(split.stream)
    counts = np.zeros((vocab_size, vocab_size))
    np.add.at(counts, (stream[:-1], stream[1:]), 1)
    return _rows(counts, counts.sum(axis=1))


def _rows(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return total / count[:, None]  # 0 / 0 is nan: the token never stood


def edit_distances(text: str, words: list[str]) -> np.ndarray:
    """How many characters must be put in, left out or replaced to make each word of a text. (N,)

    Levenshtein's distance by Wagner and Fischer 1974, for all words at once.
    """
    size = max(1, *map(len, words))
    chars = np.array(words, dtype=f"U{size}").view(np.uint32).reshape(len(words), size)
    place = np.arange(size + 1)
    row = np.tile(place, (len(words), 1))  # from no character to the first j of each word
    for i, char in enumerate(text, start=1):
        new = np.full_like(row, i)
        new[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (chars != ord(char)))
        # To put in a character goes along the row, so that each entry is the least of those
        # before it plus their distance in place.
        row = np.minimum.accumulate(new - place, axis=1) + place
    return row[np.arange(len(words)), [len(word) for word in words]]


def nearest(texts: list[str], words: list[str]) -> list[tuple[str, int]]:
    """For each text the word with the fewest edits, and how many; the first of equals in length."""
    words = list(dict.fromkeys(words))
    sizes = np.array([len(word) for word in words])
    return [_nearest(text, words, np.abs(sizes - len(text))) for text in texts]


def _nearest(text: str, words: list[str], at_least: np.ndarray) -> tuple[str, int]:
    """`at_least` (N,) edits are needed for each word: those with the fewest are looked at first."""
    order = np.argsort(at_least, kind="stable")
    best, fewest = "", math.inf
    for start in range(0, len(order), WORDS_AT_ONCE):
        some = order[start : start + WORDS_AT_ONCE]
        if at_least[some[0]] >= fewest:
            break
        found = edit_distances(text, [words[i] for i in some])
        if found.min() < fewest:
            best, fewest = words[some[found.argmin()]], int(found.min())
    return best, fewest


def place_samples(drawn: list[Sample], dataset: Dataset | None) -> list[Drawn]:
    """The samples in the order in which they were drawn, with where they are found."""
    if dataset is None:
        return [Drawn(line.text, line.log_prob, None, None, None) for line in drawn]
    texts = [line.text for line in drawn]
    places = dataset.found_in(texts, [line.is_cut for line in drawn])
    near = nearest(texts, dataset.words["train"])
    return [
        Drawn(line.text, line.log_prob, place, *n)
        for line, place, n in zip(drawn, places, near, strict=True)
    ]

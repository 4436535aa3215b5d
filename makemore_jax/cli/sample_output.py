"""What sample.py reads and prints: samples by place, an endless text, scores, JSON.

Functions import what needs jax, so that sample.py starts quickly.
"""

import functools
import itertools
import json
import math
import signal
import sys
from typing import TYPE_CHECKING

from makemore_jax.cli import command_line, interrupts, progress
from makemore_jax.errors import UserError

if TYPE_CHECKING:
    import jax

    from makemore_jax.data.lines import Dataset
    from makemore_jax.decoding import Decoding, LanguageModel, Sample
    from makemore_jax.workdir import Run

SHOW_SCORING = functools.partial(progress.track, action="scoring")


def read_input(name: str, encoding: str) -> str:
    """Return the text to score, from the file `name` or, for "-", from standard input."""
    from makemore_jax.data import files

    if name == "-":
        raw = sys.stdin.buffer.read() if sys.stdin else b""
        text = files.decode(raw, "standard input", encoding, "--score")
    else:
        text, _ = files.read(name, encoding, "--score")
    if not text.strip():
        raise UserError(f"--score: {name} has no lines")
    return text


def find_data(run: "Run") -> "Dataset | None":
    """Return the data of a run, to find samples in it; None, with a warning, without it."""
    from makemore_jax import assemble

    dataset = assemble.find_data(run)
    if dataset is None:
        command_line.warn(
            f"{run.data_file} is gone or has changed; samples are not marked as train, dev, test "
            "or new"
        )
    return dataset


def print_stream(
    lm: "LanguageModel", key: "jax.Array", prompt: str, decoding: "Decoding", max_len: int | None
) -> None:
    """Print one text while it is sampled, until it has `max_len` characters or is interrupted."""
    import numpy as np

    from makemore_jax.text import streaming

    num_chars = max_len and streaming.num_new_chars(prompt, max_len)
    parts = streaming.stream(lm, key, np.arange(1), prompt, decoding)
    print(prompt, end="", flush=True)
    chars = (char for tokens, _ in parts for char in lm.vocab.decode_rows(tokens)[0])
    with interrupts.StopSignals([signal.SIGINT]) as signals:
        for char in itertools.islice(chars, num_chars):
            signals.check()
            print(char, end="", flush=True)
        print()


def print_samples(samples: "list[Sample]", dataset: "Dataset | None", as_json: bool) -> None:
    """Print samples grouped by the split that contains them, or as JSON in the sampled order."""
    from makemore_jax.text.dataset import RULE

    texts, is_cut = [line.text for line in samples], [line.is_cut for line in samples]
    if as_json:
        places = dataset.found_in(texts, is_cut) if dataset else [None] * len(samples)
        for line, place in zip(samples, places, strict=True):
            print_json({"text": line.text, "log_prob": line.log_prob, "found_in": place})
    elif dataset is None:
        print(*texts, sep=f"\n{RULE}\n" if any("\n" in text for text in texts) else "\n")
    else:
        print(*dataset.show(texts, is_cut), sep="\n")


def print_scores(lm: "LanguageModel", text: str, as_json: bool) -> None:
    """Print the log-probability and the loss per token of each line, then the loss over all."""
    from makemore_jax import sampling
    from makemore_jax.data.lines import split_lines

    lines = split_lines(text)
    log_probs = sampling.score(lm, lines, SHOW_SCORING)
    num_tokens = sum(len(line) + 1 for line in lines)  # the end of a line is a token too
    total_loss = -math.fsum(log_probs) / num_tokens
    for line, log_prob in zip(lines, log_probs, strict=True):
        loss = -log_prob / (len(line) + 1)
        if as_json:
            print_json({"text": line, "log_prob": log_prob, "loss": loss})
        else:
            print(f"{log_prob:9.3f}  {loss:6.3f}  {line}")
    if as_json:
        print_json({"summary": {"lines": len(lines), "tokens": num_tokens, "loss": total_loss}})
    else:
        print(f"{len(lines)} lines, {num_tokens} tokens, loss {total_loss:.4f} nats per token")


def print_text_score(lm: "LanguageModel", text: str, name: str, as_json: bool) -> None:
    """Print the loss of a text: every character but the first once, in contexts side by side.

    `name` is the file of the text, for error messages.
    """
    from makemore_jax.text import dataset as text_data
    from makemore_jax.training.evaluate import make_batch_sums, make_evaluate

    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as training reads it
    if unknown := lm.vocab.unknown(text):
        raise UserError(f"--score: training never saw {unknown[0]!r}, which is in {name}")
    if len(text) < 2:
        raise UserError("--score: a text needs two characters or more")
    split = text_data.encode(text, lm.vocab, lm.block_size)
    loss = make_evaluate(make_batch_sums(lm.model), track=SHOW_SCORING)(lm.variables, split)
    if as_json:
        print_json({"summary": {"characters": len(text), "loss": loss}})
    else:
        print(f"{len(text)} characters, loss {loss:.4f} nats per character")


def print_json(content: dict) -> None:
    """Print one line of JSON, with escapes if stdout is not UTF-8, as on Windows."""
    is_utf8 = (sys.stdout.encoding or "utf-8").lower() in ("utf-8", "utf8")
    print(json.dumps(content, ensure_ascii=not is_utf8))

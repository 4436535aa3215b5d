"""What sample.py reads and prints: samples by place, an endless text, scores, JSON.

Functions import what needs jax, so that sample.py starts quickly.
"""

import codecs
import functools
import itertools
import json
import math
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from makemore_jax.cli import command_line, file_errors, interrupts, output, progress, sample_rules
from makemore_jax.data_folder import find
from makemore_jax.errors import UserError

if TYPE_CHECKING:
    import jax

    from makemore_jax.decoding import Decoding, LanguageModel, Sample
    from makemore_jax.known_lines import KnownLines
    from makemore_jax.workdir import Run

# json.dumps escapes the other control characters and line breaks.
JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
TRACK_SCORING = functools.partial(progress.track, action="scoring")


def read_input(name: str | None, encoding: str) -> str | None:
    """Return the text to score, from the file `name` or, for "-", from standard input.

    Return None without a name.
    """
    from makemore_jax.data import files

    if name is None:
        return None
    path = "standard input" if name == "-" else find(name)
    with file_errors.reporting(path, encoding, "--score"):
        if name == "-":
            raw = sys.stdin.buffer.read() if sys.stdin else b""
            text = raw.decode(encoding).removeprefix("\ufeff")
        else:
            text, _ = files.read(path, encoding)
    file_errors.check_characters(set(text), path, encoding, "--score")
    if not text.strip():
        raise UserError(f"--score: {path} has no lines")
    return text


def find_data(run: "Run", folder: str, path: str | None) -> "KnownLines | None":
    """Return the data of the run in `folder`, to find samples in it.

    `path` is the data file, if the user names it. Print a warning and return None if there is no
    such file. Return None for a run on one text: its samples are in no split.
    """
    from makemore_jax import assemble

    if not run.vocab.has_end:
        return None
    dataset = assemble.find_data(run, folder, path)
    if dataset is None:
        command_line.warn(
            f"{run.data_file} is gone or has changed; samples are not marked as train, dev, test "
            "or new. If the file was moved, name it with --data"
        )
    return dataset


def new_sampler(dataset: "KnownLines | None") -> "Callable[..., list[Sample]]":
    """Return a function like `assemble.sample` whose lines are not in the data.

    It warns if it finds too few. UserError without the data.
    """
    from makemore_jax import new_lines

    if dataset is None:
        raise UserError("--new_only: needs the data of the run; name it with --data")

    def sample(lm: "LanguageModel", key: "jax.Array", num: int, *options: object) -> list:
        samples = new_lines.sample_new(lm, dataset, key, num, *options)
        if len(samples) < num:
            command_line.warn(f"found {len(samples)} new lines, then gave up")
        return samples

    return sample


def print_stream(
    lm: "LanguageModel", key: "jax.Array", prompt: str, decoding: "Decoding", max_len: int | None
) -> None:
    """Print one text while it is sampled, until it has `max_len` characters or is interrupted."""
    import numpy as np

    from makemore_jax.text import streaming

    num_chars = max_len and streaming.num_new_chars(prompt, max_len)
    parts = streaming.stream(lm, key, np.arange(1), prompt, decoding)
    chars = (char for tokens, _ in parts for char in lm.vocab.decode_rows(tokens)[0])
    chars = itertools.islice(chars, num_chars)
    with interrupts.StopSignals([signal.SIGINT]) as signals:
        first = next(chars, "")  # compiles, and may say so before the text begins
        print(prompt, first, sep="", end="", flush=True)
        for char in chars:
            signals.check()
            print(char, end="", flush=True)
        print()


def print_samples(samples: "list[Sample]", dataset: "KnownLines | None", as_json: bool) -> None:
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


def print_score(lm: "LanguageModel", text: str, name: str, as_json: bool) -> None:
    """Print the scores of lines or of one text. `name` is its file, for error messages."""
    if lm.vocab.has_end:
        print_line_scores(lm, text, as_json)
    else:
        print_text_score(lm, text, name, as_json)


def print_line_scores(lm: "LanguageModel", text: str, as_json: bool) -> None:
    """Print the log-probability and the loss per token of each line, then the loss over all."""
    from makemore_jax import scoring
    from makemore_jax.data.lines import split_lines

    lines = split_lines(text)
    log_probs = scoring.score(lm, lines, TRACK_SCORING)
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
        num_lines = f"{len(lines)} line{'' if len(lines) == 1 else 's'}"
        print(f"{num_lines}, {num_tokens} tokens, loss {total_loss:.4f} nats per token")


def print_text_score(lm: "LanguageModel", text: str, name: str, as_json: bool) -> None:
    """Print the loss of a text: every character but the first once, in contexts side by side."""
    from makemore_jax.text import dataset as text_data
    from makemore_jax.training.evaluate import make_evaluate

    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as training reads it
    sample_rules.check_characters(lm.vocab, text, "--score", name)
    if len(text) < 2:
        raise UserError("--score: a text needs two characters or more")
    split = text_data.encode(text, lm.vocab, lm.block_size)
    loss = make_evaluate(lm.model, TRACK_SCORING)(lm.variables, split)
    if as_json:
        print_json({"summary": {"characters": len(text), "loss": loss}})
    else:
        print(f"{len(text)} characters, loss {loss:.4f} nats per character")


def print_json(content: dict) -> None:
    """Print one line of JSON, with escapes if stdout is not UTF-8, as on Windows.

    Control characters and all Unicode line breaks are escaped: terminals execute the former, and
    programs may split the output at the latter. Numbers that are not finite become null.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a notebook's may have none
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    text = json.dumps(output.without_infinity(content), ensure_ascii=not is_utf8)
    print(text.translate(JSON_ESCAPES))

"""Sample lines or texts from a trained model, or score given ones.

    python sample.py --workdir runs/transformer --num 50
    python sample.py --workdir runs/transformer --prompt jo --temperature 0.8 --format json
    python sample.py --workdir runs/transformer --score names.txt
    python sample.py --workdir runs/shakespeare --stream --prompt "KING RICHARD:"

It reads the checkpoints in the working directory. Training may still be running.
Samples are grouped by the split that contains them; `new` is in no split, `cut` reached the maximum
length before it ended.
"""

from makemore_jax.cli import interrupts

if __name__ == "__main__":
    interrupts.exit_immediately()

import dataclasses
import functools
import itertools
import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from makemore_jax.cli import command_line, progress
from makemore_jax.errors import UserError

if TYPE_CHECKING:  # functions import what needs jax, so that --help and mistakes are quick
    import jax

    from makemore_jax.data.lines import Dataset
    from makemore_jax.decoding import Decoding, LanguageModel, Sample
    from makemore_jax.workdir import Run

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
NUM = flags.DEFINE_integer("num", None, "number of lines (20) or texts (1)")
PROMPT = flags.DEFINE_string("prompt", "", "start of every line or text")
MAX_LEN = flags.DEFINE_integer(
    "max_len",
    None,
    "maximum characters of a line; characters of a text (500; no limit with --stream)",
)
STREAM = flags.DEFINE_bool("stream", False, "write one endless text, character by character")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "softmax temperature; 0 is greedy")
TOP_K = flags.DEFINE_integer("top_k", None, "sample from the k most probable characters")
TOP_P = flags.DEFINE_float(
    "top_p", None, "nucleus sampling: the smallest set of characters with total probability p"
)
SEED = flags.DEFINE_integer("seed", 3407, "seed of the samples")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "lowest dev loss, or latest"
)
NEW_ONLY = flags.DEFINE_bool("new_only", False, "only lines that are not in the data")
FORMAT = flags.DEFINE_enum(
    "format", "text", ["text", "json"], "grouped lines, or one JSON object per sample"
)
SCORE = flags.DEFINE_string("score", None, "score the lines or the text of this file (- is stdin)")

SHOW_SCORING = functools.partial(progress.track, action="scoring")


def main() -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    for flag in (NUM, MAX_LEN):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name}: {flag.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")

    import jax

    from makemore_jax import sampling, workdir
    from makemore_jax.cli import startup
    from makemore_jax.data.lines import split_lines
    from makemore_jax.decoding import Decoding

    decoding = Decoding(TEMPERATURE.value, TOP_K.value, TOP_P.value)
    decoding.check()
    startup.use_compilation_cache()
    startup.announce_compiling()
    startup.use_cores()
    run = workdir.read(Path(WORKDIR.value))
    is_text = run.config.data.kind == "text"
    refuse_flags(is_text)
    given = read_given(run) if SCORE.value is not None else None
    lm = load(run)
    if given:
        if is_text:
            print_score_of_text(lm, given)
        else:
            words = split_lines(given)
            print_scores(words, sampling.score(lm, words, SHOW_SCORING))
        return

    key = jax.random.key(SEED.value)
    if STREAM.value:
        print_stream(lm, key, decoding)
        return
    num = NUM.value or (1 if is_text else 20)
    dataset = None if is_text else find_data(run)
    if NEW_ONLY.value:
        if dataset is None:
            raise UserError(f"--new_only: needs the data of the run, {run.data_file}")
        samples = sampling.sample_new(lm, dataset, key, num, PROMPT.value, decoding)
        if len(samples) < num:
            command_line.warn(f"found {len(samples)} new lines, then gave up")
    else:
        samples = sampling.sample(lm, key, num, PROMPT.value, decoding)
    print_samples(samples, dataset)


def refuse_flags(is_text: bool) -> None:
    """UserError for what lines, or texts, do not have."""
    if STREAM.value and not is_text:
        raise UserError("--stream: needs a run on data.kind=text; this run was trained on lines")
    if NEW_ONLY.value and is_text:
        raise UserError("--new_only: needs a run on lines; this run was trained on one text")
    if STREAM.value and (NUM.value is not None or FORMAT.value == "json"):
        raise UserError("--stream: can't be combined with --num or --format=json")


def load(run: "Run") -> "LanguageModel":
    """The model of a run with the parameters of the checkpoint that is asked for."""
    from makemore_jax import models
    from makemore_jax.assemble import create_model
    from makemore_jax.checkpoint import Checkpoints
    from makemore_jax.decoding import LanguageModel

    block_size, max_len = run.config.data.block_size, run.max_len
    if run.config.data.kind == "text":
        max_len = MAX_LEN.value or max_len
    elif MAX_LEN.value is not None:
        max_len = min(max_len, MAX_LEN.value + 1)  # a line's end is a token too
    model = create_model(run.config.model, run.vocab.size, block_size)
    like = models.variable_shapes(model, block_size)
    checkpoints = Checkpoints(WORKDIR.value, read_only=True)
    variables = checkpoints.restore_variables(CHECKPOINT.value, like)
    return LanguageModel(model, variables, run.vocab, max_len, block_size)


def read_given(run: "Run") -> str:
    """The text that is to be scored."""
    from makemore_jax.data import files

    encoding = run.config.data.encoding
    if SCORE.value == "-":
        raw = sys.stdin.buffer.read() if sys.stdin else b""
        text = files.decode(raw, "standard input", encoding, "--score")
    else:
        text, _ = files.read(SCORE.value, encoding, "--score")
    if not text.strip():
        raise UserError(f"--score: {SCORE.value} has no lines")
    return text


def find_data(run: "Run") -> "Dataset | None":
    """Load the data of a run, to look samples up in it; None if it is gone or has changed."""
    from makemore_jax.assemble import load_data

    config = dataclasses.replace(run.config.data, path=run.data_file)
    try:
        dataset = load_data(config, run.config.seed)
    except UserError:
        dataset = None
    if dataset is None or dataset.sha256 != run.data_sha256:
        command_line.warn(
            f"{run.data_file} is gone or has changed; samples are not marked as train, dev, test "
            "or new"
        )
        return None
    return dataset


def print_stream(lm: "LanguageModel", key: "jax.Array", decoding: "Decoding") -> None:
    """One text as it is drawn, until --max_len or an interruption."""
    import numpy as np

    from makemore_jax.text import streaming

    wanted = MAX_LEN.value and streaming.num_to_draw(PROMPT.value, MAX_LEN.value)
    parts = streaming.stream(lm, key, np.arange(1), PROMPT.value, decoding)
    print(PROMPT.value, end="", flush=True)
    chars = (char for tokens, _ in parts for char in lm.vocab.decode_rows(tokens)[0])
    # Recorded, not raised: an exception is lost if it comes while jax calls back into Python.
    interruptions: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interruptions.append(number))
    try:
        for char in itertools.islice(chars, wanted):
            if interruptions:
                raise KeyboardInterrupt
            print(char, end="", flush=True)
        print()
    finally:
        signal.signal(signal.SIGINT, before)


def print_samples(samples: "list[Sample]", dataset: "Dataset | None") -> None:
    """As text sorted by where they are found, as JSON in the order in which they were drawn."""
    from makemore_jax.text.dataset import RULE

    texts, is_cut = [line.text for line in samples], [line.is_cut for line in samples]
    if FORMAT.value == "json":
        places = dataset.found_in(texts, is_cut) if dataset else [None] * len(samples)
        for line, place in zip(samples, places, strict=True):
            found = {"text": line.text, "log_prob": line.log_prob, "found_in": place}
            print_json(found)
    elif dataset is None:
        print(*texts, sep=f"\n{RULE}\n" if any("\n" in text for text in texts) else "\n")
    else:
        print(*dataset.show(texts, is_cut), sep="\n")


def print_json(content: dict) -> None:
    """Print one line of JSON, with escapes if stdout is not UTF-8, as on Windows."""
    is_utf8 = (sys.stdout.encoding or "utf-8").lower() in ("utf-8", "utf8")
    print(json.dumps(content, ensure_ascii=not is_utf8))


def print_score_of_text(lm: "LanguageModel", given: str) -> None:
    """The loss of a text, every character but the first once, in contexts side by side."""
    from makemore_jax.text import dataset as text_data
    from makemore_jax.training.evaluate import make_evaluate

    given = given.replace("\r\n", "\n").replace("\r", "\n")  # as training reads it
    if unknown := lm.vocab.unknown(given):
        raise UserError(f"--score: training never saw {unknown[0]!r}, which is in {SCORE.value}")
    if len(given) < 2:
        raise UserError("--score: a text needs two characters or more")
    split = text_data.encode(given, lm.vocab, lm.block_size)
    loss = make_evaluate(lm.model, track=SHOW_SCORING)(lm.variables, split)
    if FORMAT.value == "json":
        print_json({"summary": {"characters": len(given), "loss": loss}})
    else:
        print(f"{len(given)} characters, loss {loss:.4f} nats per character")


def print_scores(words: list[str], log_probs: list[float]) -> None:
    """Each line with its log-probability and its loss per token, then the loss over all tokens."""
    tokens = sum(len(word) + 1 for word in words)  # a line's end is a token too
    total = {"lines": len(words), "tokens": tokens, "loss": -math.fsum(log_probs) / tokens}
    for word, log_prob in zip(words, log_probs, strict=True):
        loss = -log_prob / (len(word) + 1)
        if FORMAT.value == "json":
            found = {"text": word, "log_prob": log_prob, "loss": loss}
            print_json(found)
        else:
            print(f"{log_prob:9.3f}  {loss:6.3f}  {word}")
    if FORMAT.value == "json":
        print_json({"summary": total})
    else:
        print(f"{total['lines']} lines, {tokens} tokens, loss {total['loss']:.4f} nats per token")


if __name__ == "__main__":
    command_line.run(main, __doc__)

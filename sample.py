"""Draw lines from a trained model, or score lines with it.

    python sample.py --workdir runs/transformer --num 50
    python sample.py --workdir runs/transformer --prompt jo --temperature 0.8 --format json
    python sample.py --workdir runs/transformer --score names.txt

It reads what training wrote into the working directory, also while the training still runs.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
from absl import flags

from makemore_jax import command_line, data, models, sampling, startup, workdir
from makemore_jax.data import lines, text_file
from makemore_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "where the run lives")
NUM = flags.DEFINE_integer("num", 20, "how many lines to draw")
PROMPT = flags.DEFINE_string("prompt", "", "what every line begins with")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "below 1 more likely, 0 the likeliest line")
TOP_K = flags.DEFINE_integer("top_k", None, "draw among the k likeliest characters only")
TOP_P = flags.DEFINE_float("top_p", None, "draw among the likeliest that together reach p only")
SEED = flags.DEFINE_integer("seed", 3407, "another seed draws other lines")
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "which state to use")
NEW_ONLY = flags.DEFINE_bool("new_only", False, "only lines that are nowhere in the data")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "json: one object a line")
SCORE = flags.DEFINE_string("score", None, "score the lines of this file (- is stdin) instead")


def main() -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; the folder that train.py wrote, as runs/transformer")
    if NUM.value < 1:
        raise UserError(f"--num: {NUM.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")
    decoding = sampling.Decoding(TEMPERATURE.value, TOP_K.value, TOP_P.value)
    decoding.check()
    startup.use_compilation_cache()
    startup.use_cores()
    run = workdir.read(Path(WORKDIR.value))
    words = read_lines(run) if SCORE.value is not None else None
    lm = load(run)
    if words:
        print_scores(words, sampling.score(lm, words))
        return

    dataset = find_data(run)
    key = jax.random.key(SEED.value)
    if NEW_ONLY.value:
        if dataset is None:
            raise UserError(f"--new_only: needs the data of the run, {run.data_file}")
        samples = sampling.sample_new(lm, dataset, key, NUM.value, PROMPT.value, decoding)
        if len(samples) < NUM.value:
            print(f"sample.py: found {len(samples)} new lines, then gave up", file=sys.stderr)
    else:
        samples = sampling.sample(lm, key, NUM.value, PROMPT.value, decoding)
    print_samples(samples, dataset)


def load(run: workdir.Run) -> sampling.LanguageModel:
    """The model of a run with the parameters of the checkpoint that is asked for."""
    from makemore_jax.checkpoint import Checkpoints  # orbax, which is slow to import

    block_size = run.config.data.block_size
    model = models.create(run.config.model, run.vocab.size, block_size)
    like = models.variable_shapes(model, block_size)
    checkpoints = Checkpoints(WORKDIR.value, read_only=True)
    variables = checkpoints.restore_variables(CHECKPOINT.value, like)
    return sampling.LanguageModel(model, variables, run.vocab, run.max_len)


def read_lines(run: workdir.Run) -> list[str]:
    """The lines that are to be scored."""
    encoding = run.config.data.encoding
    if SCORE.value == "-":
        raw = sys.stdin.buffer.read() if sys.stdin else b""
        text = text_file.decode(raw, "standard input", encoding, "--score")
    else:
        text, _ = text_file.read(SCORE.value, encoding, "--score")
    words = lines.split_lines(text)
    if not words:
        raise UserError(f"--score: {SCORE.value} has no lines")
    return words


def find_data(run: workdir.Run) -> lines.Dataset | None:
    """The data of a run, to tell which lines it holds; None where it is gone or has changed."""
    config = dataclasses.replace(run.config.data, path=run.data_file)
    try:
        dataset = data.load(config, run.config.seed)
    except UserError:
        dataset = None
    if dataset is None or dataset.sha256 != run.data_sha256:
        print(
            f"sample.py: {run.data_file} is gone or has changed, so where lines are found is "
            "not told",
            file=sys.stderr,
        )
        return None
    return dataset


def print_samples(samples: list[sampling.Sample], dataset: lines.Dataset | None) -> None:
    """As text sorted by where they are found, as JSON in the order in which they were drawn."""
    texts = [line.text for line in samples]
    if FORMAT.value == "json":
        places = dataset.found_in(texts) if dataset else [None] * len(samples)
        for line, place in zip(samples, places, strict=True):
            found = {"text": line.text, "log_prob": line.log_prob, "found_in": place}
            print(json.dumps(found, ensure_ascii=False))
    elif dataset is None:
        print(*texts, sep="\n")
    else:
        for place, sorted_in in dataset.by_place(texts).items():
            if sorted_in:
                print(f"{place}:", *sorted_in, sep="\n  ")


def print_scores(words: list[str], log_probs: list[float]) -> None:
    """Each line with its log-probability and its loss per token, then the loss over all tokens."""
    tokens = sum(len(word) + 1 for word in words)  # a line's end is a token too
    total = {"lines": len(words), "tokens": tokens, "loss": -math.fsum(log_probs) / tokens}
    for word, log_prob in zip(words, log_probs, strict=True):
        loss = -log_prob / (len(word) + 1)
        if FORMAT.value == "json":
            found = {"text": word, "log_prob": log_prob, "loss": loss}
            print(json.dumps(found, ensure_ascii=False))
        else:
            print(f"{log_prob:9.3f}  {loss:6.3f}  {word}")
    if FORMAT.value == "json":
        print(json.dumps({"summary": total}))
    else:
        print(f"{total['lines']} lines, {tokens} tokens, loss {total['loss']:.4f} nats per token")


if __name__ == "__main__":
    command_line.run(main, __doc__)

"""Try random files as data: each is kept exactly, or refused in one line.

    python -m benchmarks.any_text --files 10000

Hypothesis writes the files: any Unicode text in one of several encodings, or any bytes. Each is
loaded as lines or as one text, with an encoding that is right or wrong. A file that is accepted
must come back from its tokens, from vocab.json and from the JSON output, character by character.
Some of them also train a bigram model for a few steps, resume it and sample from it.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks import sides
from makemore_jax import assemble, workdir
from makemore_jax.cli import sample_output
from makemore_jax.config import Config, DataConfig
from makemore_jax.data import Dataset, lines
from makemore_jax.decoding import Sample
from makemore_jax.errors import UserError

ENCODINGS = (
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"),
    *("latin-1", "cp1252", "koi8-r", "gb18030", "shift_jis", "euc-kr", "unicode_escape"),
)
ENDS = ("\n", "\n", "\n", "\r\n", "\r", "\u2028", "\x85", "\f", "")
BLOCK_SIZE = 3


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, DataConfig]:
    """Draw the bytes of a file, and how a user reads it."""
    is_usual = draw(st.integers(0, 7)) > 0  # most files are text that is read as it was written
    chars = st.characters(exclude_categories=["Cs"], exclude_characters="\0" if is_usual else "")
    part = st.tuples(st.text(chars, max_size=9), st.sampled_from(ENDS))
    parts = draw(st.lists(part, min_size=12 if is_usual else 0, max_size=40))
    text = "".join(line + end for line, end in parts)
    encoding = draw(st.sampled_from(ENCODINGS))
    raw, named = text.encode(encoding, "ignore"), encoding
    if not is_usual:
        raw = draw(st.one_of(st.just(raw), st.binary(max_size=200)))
        named = draw(st.sampled_from(ENCODINGS))
    kind = draw(st.sampled_from(("lines", "text")))
    long_lines = draw(st.sampled_from(("refuse", "drop", "cut"))) if kind == "lines" else "refuse"
    block_size = BLOCK_SIZE if kind == "text" or long_lines != "refuse" else None
    config = DataConfig(kind=kind, encoding=named, block_size=block_size, long_lines=long_lines)
    return raw, config


def check(raw: bytes, config: DataConfig, folder: Path, trains: bool = False) -> str:
    """Try a file and return "refused", "lines" or "text". AssertionError if it is not kept."""
    config.path = str(folder / "file.txt")
    Path(config.path).write_bytes(raw)
    try:
        dataset = assemble.load_data(config, seed=1)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        return "refused"
    expected = raw.decode(config.encoding).removeprefix("\ufeff")
    found = decode(dataset)
    if config.kind == "text":
        assert found == [expected.replace("\r\n", "\n").replace("\r", "\n")]
    else:
        kept = lines.split_lines(expected)
        size = dataset.block_size - 1
        if config.long_lines == "drop":
            kept = [line for line in kept if len(line) <= size]
        elif config.long_lines == "cut":
            kept = [line[:size].strip() for line in kept]
        assert Counter(found) == Counter(kept)
        samples = [Sample(line, -1.0) for line in found]
        printed = capture(lambda: sample_output.print_samples(samples, dataset, as_json=True))
        assert [json.loads(line)["text"] for line in printed.splitlines()] == found
    run = Config(data=config)
    workdir.prepare(folder / "written", run, dataset)
    assert workdir.read(folder / "written").vocab == dataset.vocab
    if trains:
        train(run, dataset, folder / "run")
    return config.kind


def decode(dataset: Dataset) -> list[str]:
    """Return all lines of a dataset, or its text, from the tokens."""
    if not dataset.vocab.has_end:
        splits = [dataset.splits[name] for name in ("train", "dev")]
        tokens = np.concatenate([np.asarray(split.tokens) for split in splits])
        return dataset.vocab.decode_rows(tokens[None])
    found = []
    for name in ("train", "dev", "test"):
        split = dataset.splits[name]
        stream, starts = np.asarray(split.stream), np.asarray(split.starts)
        rows = np.zeros((split.size, dataset.block_size), int)
        for row, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
            row[: end - start - 1] = stream[start + 1 : end]
        found += dataset.vocab.decode_rows(rows)
    return found


def train(config: Config, dataset: Dataset, folder: Path) -> None:
    """Train a bigram model, resume it, and check that its samples are made of the vocabulary."""
    config.model.kind, config.train.batch_size = "bigram", 2
    config.train.log_every = config.train.eval_every = config.train.sample_every = 1
    for steps in (1, 2):
        config.train.steps = steps
        capture(lambda: assemble.train(config, str(folder)))
    run = workdir.read(folder)
    lm = assemble.load_language_model(folder, run)
    samples = assemble.sample(lm, jax.random.key(0), 5)
    for sample in samples:
        assert not run.vocab.unknown(sample.text)
        tokens = np.array([[*run.vocab.encode(sample.text), 0][: len(sample.text) + 1]])
        tokens = tokens if run.vocab.has_end else tokens[:, :-1]
        assert run.vocab.decode_rows(tokens) == [sample.text]
    written = (folder / "samples.txt").read_text("utf-8").split("\n")
    assert [line for line in written if line.startswith("step ")] == [
        f"step {step}, samples" for step in (1, 2)
    ]


def capture(call: Callable[[], None]) -> str:
    """Return what a function prints to stdout."""
    printed, rest = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(rest):
        call()
    return printed.getvalue()


def check_many(num: int, train_every: int = 0, number: int = 1) -> Counter:
    """Check `num` random files. Return how many were refused, kept as lines or text, and trained.

    Every `train_every`-th accepted file trains. The same `number` gives the same files.
    """
    counts = Counter()

    @seed(number)
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller example would take minutes to find
        suppress_health_check=list(HealthCheck),
    )
    @given(files())
    def try_file(drawn: tuple[bytes, DataConfig]) -> None:
        accepted = counts["lines"] + counts["text"]
        trains = bool(train_every) and accepted // train_every >= counts["trained"]
        with tempfile.TemporaryDirectory() as folder:
            outcome = check(*drawn, Path(folder), trains)
        counts[outcome] += 1
        counts["trained"] += trains and outcome != "refused"

    try_file()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument(
        "--train-every", type=int, default=100, help="train on one of this many accepted files"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=sides.OUT)
    args = parser.parse_args()
    counts = check_many(args.files, args.train_every, args.seed)
    num = counts["refused"] + counts["lines"] + counts["text"]
    header = ["files", "refused in one line", "kept as lines", "kept as text", "of these trained"]
    row = [num, counts["refused"], counts["lines"], counts["text"], counts["trained"]]
    table = sides.as_table(header, [[f"{value:,}" for value in row]])
    sides.report("any_text", table, {"files": num, "counts": dict(counts)}, args.out)


if __name__ == "__main__":
    main()

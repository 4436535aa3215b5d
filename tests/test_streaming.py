"""Streaming text: equality with a loop without a cache, and the flags of sample.py."""

import itertools
import json
import os
import signal
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    ROOT,
    VOCAB,
    assert_one_line,
    needs_signals,
    quick_of,
    run,
    small_config,
    small_model,
)

from makemore_jax import assemble, workdir
from makemore_jax.assemble import load_data
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import DEFAULT_DECODING, Decoding, LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.text import streaming

BLOCK = 19  # one call draws 16 tokens, so that the second call fills the context
CHARS = Vocab(tuple("\n abcdefghijk"), has_end=False)
KEY = jax.random.key(7)
GREEDY = Decoding(temperature=0)
NUM = 41  # number of tokens drawn: more than two contexts


@cache
def small_lm(kind: str) -> LanguageModel:
    model, params = small_model(kind, VOCAB, BLOCK)
    params = jax.tree.map(lambda a: 1.5 * a, params)  # so that the context has more influence
    return LanguageModel(model, {"params": params}, CHARS, max_len=37, block_size=BLOCK)


@partial(jax.jit, static_argnames="model")
def next_token(model, variables, context, count, key, temperature):
    """Return the token after the first `count` of a context (BLOCK,), and log-probs (V,)."""
    log_probs = jax.nn.log_softmax(model.apply(variables, context[None])[0, count - 1])
    drawn = jax.random.categorical(key, log_probs / temperature)
    return jnp.where(temperature == 0, jnp.argmax(log_probs), drawn), log_probs


def read_context(lm: LanguageModel, tokens: list[int], key=KEY, temperature: float = 0):
    """Return the token after these, and log-probs (V,), without any cache."""
    last = tokens[-BLOCK:]
    context = np.zeros(BLOCK, np.int32)
    context[: len(last)] = last
    return next_token(lm.model, lm.variables, context, len(last), key, float(temperature))


def sample_without_cache(lm: LanguageModel, number: int, prompt: str, temperature: float):
    """Return the NUM tokens after a prompt and their log-probabilities."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(KEY, number), np.arange(NUM))
    tokens, log_probs = lm.vocab.encode(prompt or "\n"), []
    for key in keys:
        token, next_log_probs = read_context(lm, tokens, key, temperature)
        tokens.append(int(token))
        log_probs.append(float(next_log_probs[tokens[-1]]))
    return tokens[-NUM:], log_probs


def sample_stream(lm: LanguageModel, number: int, prompt: str, decoding: Decoding):
    """Return the first NUM tokens of a stream and their log-probabilities."""
    parts = streaming.stream(lm, KEY, np.array([number]), prompt, decoding)
    first_parts = itertools.islice(parts, NUM // streaming.TOKENS_PER_CALL + 2)
    tokens, log_probs = (np.concatenate(a, axis=1)[0, :NUM] for a in zip(*first_parts, strict=True))
    return tokens.tolist(), log_probs


LONG = "abcdefghi k" * 3
PROMPTS = ["", "abc", "abcd", LONG[:18], LONG[:19], LONG]


@pytest.mark.versions
@pytest.mark.parametrize("kind", quick_of(["transformer", "mlp", "gru", "cnn"], ["gru"]))
def test_a_stream_equals_a_loop_without_a_cache(kind):
    """Use prompts of 1, 3, 4, 18, 19 and 33 characters and a context of 19."""
    lm = small_lm(kind)
    for prompt, temperature in itertools.product(PROMPTS, (0, 0.8)):
        tokens, log_probs = sample_stream(lm, 4, prompt, Decoding(temperature))
        expected, expected_log_probs = sample_without_cache(lm, 4, prompt, temperature)
        assert tokens == expected
        np.testing.assert_allclose(log_probs, expected_log_probs, atol=2e-4)


@pytest.mark.slow
def test_top_k_and_top_p_in_and_after_the_first_context():
    lm = small_lm("mlp")
    greedy, _ = sample_stream(lm, 0, "abc", GREEDY)
    assert sample_stream(lm, 0, "abc", Decoding(top_k=1))[0] == greedy
    drawn, _ = sample_stream(lm, 0, "abc", Decoding(top_k=4, top_p=0.8))
    assert drawn != greedy
    tokens, max_rank = CHARS.encode("abc"), 0
    for token in drawn:
        probs = np.exp(read_context(lm, tokens)[1])
        first_four = np.sort(probs)[-4:]
        more_likely = first_four[first_four > probs[token]]
        assert probs[token] >= first_four[0]
        assert more_likely.sum() < 0.8 * first_four.sum()
        max_rank = max(max_rank, len(more_likely))
        tokens.append(token)
    assert max_rank > 0


@pytest.mark.versions
def test_a_text_depends_only_on_its_number(monkeypatch):
    """The first of several texts equals a single text, also if they need several calls."""
    lm = small_lm("gru")
    five = [text.text for text in assemble.sample(lm, KEY, 5)]
    assert len(set(five)) == 5
    assert [text.text for text in assemble.sample(lm, KEY, 1)] == five[:1]
    assert [text.text for text in assemble.sample(lm, KEY, 1, first=3)] == five[3:4]
    monkeypatch.setattr(streaming, "MAX_CONTEXT_TOKENS", BLOCK)
    assert [text.text for text in assemble.sample(lm, KEY, 5)] == five
    assert [text.text for text in assemble.sample(lm, jax.random.key(8), 5)] != five


@pytest.mark.parametrize("prompt", ["", "ab\nc", LONG])
def test_a_sample_is_a_prefix_of_the_stream(prompt):
    lm = small_lm("gru")
    for max_len in (lm.max_len, len(prompt) + 1):
        (sample,) = assemble.sample(lm._replace(max_len=max_len), KEY, 1, prompt)
        tokens, log_probs = sample_stream(lm, 0, prompt, DEFAULT_DECODING)
        num = max_len - len(prompt)
        assert sample.text == prompt + CHARS.decode_rows(np.array([tokens[:num]]))[0]
        assert len(sample.text) == max_len
        assert sample.log_prob == pytest.approx(float(log_probs[:num].sum()), abs=1e-4)


def test_a_check_ends_the_sampling_of_a_text():
    """Training checks for signals before each call; a text may take minutes."""
    checks = iter([None, None])
    with pytest.raises(StopIteration):
        streaming.sample(small_lm("gru")._replace(max_len=64), KEY, 1, check=lambda: next(checks))


def test_without_a_newline_the_default_prompt_is_the_first_character():
    lm = small_lm("gru")._replace(vocab=Vocab(tuple("abcdefghijklm"), has_end=False))
    assert sample_stream(lm, 0, "", GREEDY)[0] == sample_stream(lm, 0, "a", GREEDY)[0]


def test_bad_prompts():
    lm = small_lm("gru")
    with pytest.raises(UserError, match="--prompt: training never saw 'é', 'Z'"):
        streaming.stream(lm, KEY, np.arange(1), "aéZé", DEFAULT_DECODING)
    with pytest.raises(UserError, match="--prompt: training never saw 'é'"):
        assemble.sample(lm, KEY, 1, prompt="é")
    with pytest.raises(UserError, match="--prompt: 37 characters must be fewer than --max_len=37"):
        assemble.sample(lm, KEY, 1, prompt="a" * 37)
    with pytest.raises(UserError, match="--temperature: -1 must be a number from 0 to 1e"):
        streaming.stream(lm, KEY, np.arange(1), "a", Decoding(-1))


# The command line.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a short run. Its text of 3,001 characters is in the parent folder."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text").write_text((ROOT / "names.txt").read_text("utf-8")[:3001], "utf-8")
    fields = (
        *(f"data.path={folder / 'text'}", "data.kind=text", f"data.block_size={BLOCK}"),
        *("model.n_embd=10", "model.n_embd2=11", "train.steps=20", "train.num_samples=0"),
    )
    flags = [f"--config.{field}" for field in fields]
    done = run("train.py", "--config=configs/mlp.py", *flags, "--workdir", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_max_len_limits_a_stream(trained):
    command = ("sample.py", "--workdir", trained, "--prompt", "an", "--max_len", "61")
    done = run(*command, "--stream")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 62
    assert done.stdout.startswith("an")
    assert done.stdout.endswith("\n")
    drawn = run(*command, "--num=2", "--format=json").stdout.splitlines()
    first, second = (json.loads(line)["text"] for line in drawn)
    assert first + "\n" == done.stdout
    assert len(second) == 61
    assert second != first


@pytest.fixture
def stream(trained):
    """Start a process that writes an endless text."""
    command = [sys.executable, "sample.py", "--workdir", str(trained), "--stream"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Use no buffer: `communicate` would not return bytes that the buffer has read ahead.
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, bufsize=0, **pipes) as process:
        yield process
        process.kill()


def read(process, num):
    """Return the first `num` bytes that a process writes."""
    written = b""
    while len(written) < num and (part := process.stdout.read(num - len(written))):
        written += part
    assert len(written) == num
    return written


@pytest.mark.slow
@needs_signals
def test_an_interrupted_stream_prints_no_error(stream, trained):
    written = read(stream, 200)
    stream.send_signal(signal.SIGINT)
    rest, errors = stream.communicate(timeout=60)
    assert (stream.returncode, errors) == (130, b"")
    written = (written + rest)[:1000].decode()
    whole = run("sample.py", "--workdir", trained, "--stream", "--max_len", "1000").stdout
    assert len(whole) == 1001
    assert whole.startswith(written)


def test_a_stream_to_a_closed_pipe_prints_no_error(stream):
    read(stream, 50)
    stream.stdout.close()
    stream.wait(timeout=60)
    assert stream.stderr.read() == b""


def test_the_score_of_the_dev_text_is_the_dev_loss(trained, tmp_path):
    """The kind of line ends does not matter."""
    content = (trained.parent / "text").read_text("utf-8")[int(0.9 * 3001) :]
    mixed = content.replace("\n", "\r\n").replace("\r\n", "\r", 3)
    (tmp_path / "dev").write_bytes(mixed.encode())
    flags = ("--score", tmp_path / "dev", "--checkpoint=latest")
    done = run("sample.py", "--workdir", trained, *flags, "--format=json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    expected = json.loads((trained / "summary.json").read_text("utf-8"))["dev_loss"]
    assert summary["characters"] == len(content)
    assert summary["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def run_of_lines(tmp_path_factory):
    """Return the folder of a run on lines that has not trained yet."""
    folder = tmp_path_factory.mktemp("lines")
    config = small_config("bigram")
    dataset = load_data(config.data, config.seed)
    config.data.block_size = dataset.block_size
    workdir.prepare(folder, config, dataset)
    return folder


BAD = [
    (("--stream", "--num=2"), "--stream: can't be combined with --num"),
    (("--stream", "--prompt=anZé"), "--prompt: training never saw 'Z', 'é'"),
    (
        ("--stream", "--prompt=anna", "--max_len=4"),
        "--prompt: 4 characters must be fewer than --max_len=4",
    ),
    (("--new_only",), "--new_only: needs a run on lines"),
    (("--data=names.txt",), "--data: needs a run on lines; this run was trained on one text"),
    (("--score={trained}/config.json",), "--score: training never saw '{{', which is in"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input(flags, message, trained):
    flags = [flag.format(trained=trained) for flag in flags]
    done = run("sample.py", "--workdir", trained, *flags)
    assert_one_line(done, "sample.py", message.format())


def test_lines_have_no_stream(run_of_lines):
    done = run("sample.py", "--workdir", run_of_lines, "--stream")
    assert_one_line(done, "sample.py", "--stream: needs a run on data.kind=text")

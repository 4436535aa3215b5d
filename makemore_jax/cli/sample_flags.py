"""The flags of sample.py and their rules."""

from typing import TYPE_CHECKING

from absl import flags
from absl.flags import FLAGS

from makemore_jax.cli import sample_rules
from makemore_jax.cli.fields import NUM_SAMPLES, check_flag
from makemore_jax.config import AT_LEAST_1, SEED
from makemore_jax.errors import UserError

if TYPE_CHECKING:
    from makemore_jax.decoding import Decoding
    from makemore_jax.workdir import Run


# The flags that do not apply to --score.
SAMPLING_FLAGS = (
    *("num", "prompt", "max_len", "stream", "temperature", "top_k", "top_p"),
    *("seed", "new_only", "data"),
)

flags.disclaim_key_flags()  # they are flags of the program that calls `define`


def define() -> None:
    """Define the flags."""
    flags.DEFINE_string("workdir", None, "folder of the run")
    flags.DEFINE_integer("num", None, "number of lines (20) or texts (1)")
    flags.DEFINE_string("prompt", "", "start of every line or text")
    flags.DEFINE_integer(
        "max_len",
        None,
        "maximum characters of a line; characters of a text (500; no limit with --stream)",
    )
    flags.DEFINE_bool("stream", False, "write one endless text, character by character")
    flags.DEFINE_float("temperature", 1.0, "softmax temperature; 0 is greedy")
    flags.DEFINE_integer("top_k", None, "sample from the k most probable characters")
    flags.DEFINE_float(
        "top_p", None, "nucleus sampling: the smallest set of characters with total probability p"
    )
    flags.DEFINE_integer("seed", 3407, "seed of the samples")
    flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "lowest dev loss, or latest")
    flags.DEFINE_bool("new_only", False, "only lines that are not in the data")
    flags.DEFINE_string("data", None, "data file of the run, if it was moved")
    flags.DEFINE_enum("format", "text", ["text", "json"], "plain text, or one JSON object per line")
    flags.DEFINE_string("score", None, "score the lines or the text of this file (- is stdin)")


def check() -> None:
    """Raise UserError for a flag without a usable value, or for flags that exclude each other."""
    if FLAGS.workdir is None:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    check_flag("num", FLAGS.num, NUM_SAMPLES)
    check_flag("max_len", FLAGS.max_len, AT_LEAST_1)
    check_flag("seed", FLAGS.seed, SEED)
    if FLAGS.score is not None:
        for name in SAMPLING_FLAGS:
            if FLAGS[name].present:
                raise UserError(f"--{name}: can't be combined with --score, which samples nothing")
    if FLAGS.stream and (FLAGS.num is not None or FLAGS.format == "json"):
        raise UserError("--stream: can't be combined with --num or --format=json")


def check_for(run: "Run") -> None:
    """Raise UserError for a flag that a run on lines, or on one text, does not have."""
    is_text = not run.vocab.has_end
    names, needed, trained = ("stream",), "data.kind=text", "lines"
    if is_text:
        names, needed, trained = ("new_only", "data"), "lines", "one text"
    for name in names:
        if FLAGS[name].value:
            raise UserError(f"--{name}: needs a run on {needed}; this run was trained on {trained}")


def decoding() -> "Decoding":
    """Return how to sample a token. Raise UserError for a value out of its range."""
    from makemore_jax.decoding import Decoding

    decoding = Decoding(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p)
    sample_rules.check_decoding(decoding)
    return decoding


def max_tokens(run: "Run") -> int | None:
    """Return the maximum number of tokens of a sample, or None without --max_len."""
    if FLAGS.max_len is None or not run.vocab.has_end:
        return FLAGS.max_len
    return min(run.max_len, FLAGS.max_len + 1)  # the end of a line is a token too

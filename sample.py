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

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from makemore_jax.cli import command_line, sample_output
from makemore_jax.errors import UserError

if TYPE_CHECKING:  # functions import what needs jax, so that --help and errors are quick
    import jax

    from makemore_jax.decoding import Decoding, LanguageModel
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
DATA = flags.DEFINE_string("data", None, "data file of the run, if it was moved")
FORMAT = flags.DEFINE_enum(
    "format", "text", ["text", "json"], "grouped lines, or one JSON object per sample"
)
SCORE = flags.DEFINE_string("score", None, "score the lines or the text of this file (- is stdin)")


def main() -> None:
    check_flags()

    import jax

    from makemore_jax import workdir
    from makemore_jax.cli import startup
    from makemore_jax.decoding import Decoding

    decoding = Decoding(TEMPERATURE.value, TOP_K.value, TOP_P.value)
    decoding.check()
    startup.use_compilation_cache()
    startup.announce_compiling()
    startup.use_cores()
    run = workdir.read(Path(WORKDIR.value))
    check_flags_for(run)
    key, as_json = jax.random.key(SEED.value), FORMAT.value == "json"
    if SCORE.value is not None:
        text = sample_output.read_input(SCORE.value, run.config.data.encoding)
        if run.vocab.has_end:
            sample_output.print_scores(load_model(run), text, as_json)
        else:
            sample_output.print_text_score(load_model(run), text, SCORE.value, as_json)
    elif STREAM.value:
        lm = load_model(run)
        sample_output.print_stream(lm, key, PROMPT.value, decoding, MAX_LEN.value)
    else:
        print_samples(run, key, decoding, as_json)


def check_flags() -> None:
    """UserError for a flag without a usable value."""
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    for flag in (NUM, MAX_LEN):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name}: {flag.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")


def check_flags_for(run: "Run") -> None:
    """UserError for a flag that a run on lines, or on one text, does not have."""
    is_text = not run.vocab.has_end
    if STREAM.value and not is_text:
        raise UserError("--stream: needs a run on data.kind=text; this run was trained on lines")
    if NEW_ONLY.value and is_text:
        raise UserError("--new_only: needs a run on lines; this run was trained on one text")
    if STREAM.value and (NUM.value is not None or FORMAT.value == "json"):
        raise UserError("--stream: can't be combined with --num or --format=json")


def load_model(run: "Run") -> "LanguageModel":
    """Return the model of a run with the parameters of --checkpoint."""
    from makemore_jax.assemble import load_language_model

    max_len = MAX_LEN.value
    if run.vocab.has_end and max_len is not None:
        max_len = min(run.max_len, max_len + 1)  # the end of a line is a token too
    return load_language_model(WORKDIR.value, run, CHECKPOINT.value, max_len)


def print_samples(run: "Run", key: "jax.Array", decoding: "Decoding", as_json: bool) -> None:
    """Sample lines or texts and print them."""
    from makemore_jax import assemble
    from makemore_jax.new_lines import sample_new

    lm = load_model(run)
    num = NUM.value or (20 if lm.vocab.has_end else 1)
    dataset = sample_output.find_data(run, WORKDIR.value, DATA.value) if lm.vocab.has_end else None
    if not NEW_ONLY.value:
        samples = assemble.sample(lm, key, num, PROMPT.value, decoding)
    elif dataset is None:
        raise UserError("--new_only: needs the data of the run; name it with --data")
    else:
        samples = sample_new(lm, dataset, key, num, PROMPT.value, decoding)
        if len(samples) < num:
            command_line.warn(f"found {len(samples)} new lines, then gave up")
    sample_output.print_samples(samples, dataset, as_json)


if __name__ == "__main__":
    command_line.run(main, __doc__)

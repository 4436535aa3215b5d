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

from absl import flags

from makemore_jax.cli import command_line, sample_flags

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


def main() -> None:
    sample_flags.check()

    import jax  # takes a second, which --help and mistakes do not wait for

    from makemore_jax import assemble, workdir
    from makemore_jax.cli import sample_output, startup
    from makemore_jax.decoding import Decoding

    decoding = Decoding(TEMPERATURE.value, TOP_K.value, TOP_P.value)
    decoding.check()
    startup.use_compilation_cache()
    startup.announce_compiling()
    startup.use_cores()
    run = workdir.read(Path(WORKDIR.value))
    sample_flags.check_for(run)
    text = sample_output.read_input(SCORE.value, run)
    max_len = sample_flags.max_tokens(run)
    lm = assemble.load_language_model(WORKDIR.value, run, CHECKPOINT.value, max_len)
    key, as_json = jax.random.key(SEED.value), FORMAT.value == "json"
    if text is not None:
        sample_output.print_score(lm, text, SCORE.value, as_json)
    elif STREAM.value:
        sample_output.print_stream(lm, key, PROMPT.value, decoding, MAX_LEN.value)
    else:
        dataset = sample_output.find_data(run)
        sample = sample_output.new_sampler(run, dataset) if NEW_ONLY.value else assemble.sample
        num = NUM.value or (20 if run.vocab.has_end else 1)
        samples = sample(lm, key, num, PROMPT.value, decoding)
        sample_output.print_samples(samples, dataset, as_json)


if __name__ == "__main__":
    command_line.run(main, __doc__)

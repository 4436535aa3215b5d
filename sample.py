"""Sample lines or texts from a trained model, or score a file.

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

from absl.flags import FLAGS

from makemore_jax.cli import command_line, sample_flags

sample_flags.define()


def main() -> None:
    sample_flags.check()

    import jax  # takes a second: --help and flag errors need not wait for it

    from makemore_jax import assemble
    from makemore_jax.cli import sample_output, startup

    decoding = sample_flags.decoding()
    startup.use_compilation_cache()
    startup.announce_compiling()
    startup.configure_jax()
    run = assemble.read_run(FLAGS.workdir)
    sample_flags.check_for(run)
    text = sample_output.read_input(FLAGS.score, run.config.data.encoding)
    max_len = sample_flags.max_tokens(run)
    lm = assemble.load_language_model(FLAGS.workdir, run, FLAGS.checkpoint, max_len)
    key, as_json = jax.random.key(FLAGS.seed), FLAGS.format == "json"
    if text is not None:
        sample_output.print_score(lm, text, FLAGS.score, as_json)
    elif FLAGS.stream:
        sample_output.print_stream(lm, key, FLAGS.prompt, decoding, FLAGS.max_len)
    else:
        dataset = sample_output.find_data(run, FLAGS.workdir, FLAGS.data)
        sample = sample_output.new_sampler(dataset) if FLAGS.new_only else assemble.sample
        num = FLAGS.num or (20 if run.vocab.has_end else 1)
        samples = sample(lm, key, num, FLAGS.prompt, decoding)
        sample_output.print_samples(samples, dataset, as_json)


if __name__ == "__main__":
    command_line.run(main, __doc__)

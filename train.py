"""Train a model on a text file, or resume training.

    python train.py --config configs/transformer.py
    python train.py --config configs/gru.py --config.model.n_embd2=128 --workdir runs/wide
    python train.py --config configs/mlp.py --config.data.path=pokemon.txt --workdir runs/pokemon

The config file defines the experiment; any field can be overridden. All results are saved in the
working directory. If it already has a run, training resumes from there.
"""

from makemore_jax.cli import interrupts

if __name__ == "__main__":
    interrupts.exit_immediately()

from absl import flags
from ml_collections import config_flags

from makemore_jax.cli import command_line, config_flag, output, process_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, or the name of one in configs/, such as transformer"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (by default runs/CONFIG_NAME)")
process_flags.define()


def main() -> None:
    config = config_flag.read(CONFIG)

    from makemore_jax.cli import startup  # imports jax: --help and flag errors need not wait for it

    output.outlive_terminal()
    startup.use_compilation_cache()
    startup.configure_jax()
    with process_flags.connected():
        from makemore_jax import assemble

        assemble.train(config, WORKDIR.value or f"runs/{config_flag.name()}")


if __name__ == "__main__":
    command_line.run(main, __doc__)

"""Train a model on a text file, or go on training it.

    python train.py --config configs/transformer.py
    python train.py --config configs/gru.py --config.model.n_embd2=128 --workdir runs/wide
    python train.py --config configs/mlp.py --config.data.path=pokemon.txt --workdir runs/pokemon

The config file says what the experiment is, and any field of it can be overridden. Everything goes
into the working directory; giving the same one again resumes what is there.
"""

from makemore_jax import interrupts

if __name__ == "__main__":
    interrupts.exit_immediately()

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax import command_line
from makemore_jax.config import Config
from makemore_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment: a file of configs/")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "where the run lives; by default runs/<name of the config file>"
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "one of several processes; on a cluster that jax knows no more is needed"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of the first of them")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many they are")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")


def main() -> None:
    config = CONFIG.value
    if not isinstance(config, Config):
        raise UserError(f"--config: get_config() gives {type(config).__name__}, not a Config")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem

    from makemore_jax import processes, startup  # imported here so that --help is quick

    startup.use_compilation_cache()
    startup.use_cores()
    if DISTRIBUTED.value:
        processes.meet(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)

    with processes.together():
        from makemore_jax.training import loop

        loop.train(config, WORKDIR.value or f"runs/{name}")


if __name__ == "__main__":
    command_line.run(main, __doc__)

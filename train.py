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

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax.cli import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, or the name of one in configs/, such as transformer"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run (by default runs/ and the name of the config)"
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "train in multiple processes; JAX detects most clusters by itself"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of the first process")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "index of this process, from 0")


def main() -> None:
    config = command_line.read_config(CONFIG)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem

    from makemore_jax.cli import startup
    from makemore_jax.parallel import processes

    startup.use_compilation_cache()
    startup.use_cores()
    if DISTRIBUTED.value:
        processes.meet(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)

    if processes.is_first():
        startup.announce_compiling(sys.stdout)
    with processes.together():
        from makemore_jax import assemble

        assemble.train(config, WORKDIR.value or f"runs/{name}")


if __name__ == "__main__":
    command_line.run(main, __doc__)

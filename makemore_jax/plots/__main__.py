"""Pictures of runs. But for the lectures', the only file that knows matplotlib.

    python -m makemore_jax.plots --workdir runs/transformer
    python -m makemore_jax.plots --workdir runs/transformer --names emma,olivia --num 50

Draws what the best model of a run has learnt, into plots/ of its folder: PNGs, and index.html with
all of them in it, which needs neither a network nor the other files. It shows the loss and the
learning rate; what train.diagnose_every found inside; samples, and the training lines nearest to
them; how surprising each character of some names is, and where attention looks in them; the
characters' embeddings; and the bigrams.
"""

from pathlib import Path

from absl import flags

from makemore_jax import command_line, report, startup
from makemore_jax.errors import UserError


def main() -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; the folder that train.py wrote, as runs/transformer")
    if NUM.value < 1:
        raise UserError(f"--num: {NUM.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")
    if NAMES.value == []:
        raise UserError("--names: none is given; they are given as emma,olivia")
    from makemore_jax.plots.write import write  # UserError without matplotlib

    startup.use_compilation_cache()
    startup.use_cores()
    found = report.collect(Path(WORKDIR.value), NAMES.value, SEED.value, NUM.value)
    folder = Path(WORKDIR.value) / "plots"
    write(found, folder)
    print(f"{folder / 'index.html'} shows it; the figures are next to it")


if __name__ == "__main__":
    # Not further up: the other commands, which import this file, have flags of these names.
    WORKDIR = flags.DEFINE_string("workdir", None, "the run; plots/ in it is written")
    NAMES = flags.DEFINE_list("names", None, "look at these, as emma,olivia; else at three of dev")
    SEED = flags.DEFINE_integer("seed", 3407, "another seed draws other samples")
    NUM = flags.DEFINE_integer("num", 20, "how many samples to draw")
    command_line.run(main, __doc__, name="plots")

"""Draw what a run has learned, or compare runs, on one HTML page.

    python -m makemore_jax.plots --workdir runs/transformer
    python -m makemore_jax.plots --workdir runs/transformer --names emma,olivia --num 50
    python -m makemore_jax.plots --workdir runs/transformer --workdir runs/gru

With one run: writes figures and index.html into plots/ of its folder. The page contains the
figures and needs neither a network nor other files. It shows the config, device and duration; loss
and learning rate; what train.diagnose_every recorded; samples, and the training lines nearest to
them; the surprise (negative log-probability) of each character of some names, or of a passage of a
text; attention; embeddings; bigrams.

With several runs: prints one table with the differences between their configs, their losses and
their speed, and writes it with all loss curves in one chart to runs/comparison or --out.
"""

from pathlib import Path

from absl import flags

from makemore_jax import comparison, report
from makemore_jax.cli import command_line, startup
from makemore_jax.errors import UserError


def main() -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    if NUM.value < 1:
        raise UserError(f"--num: {NUM.value} must be at least 1")
    if not 0 <= SEED.value < 2**32:
        raise UserError(f"--seed: {SEED.value} must be between 0 and 4294967295")
    if NAMES.value == []:
        raise UserError("--names: no name is given; separate names by commas, as in emma,olivia")
    folders = list(map(Path, WORKDIR.value))
    if len(folders) > 1:
        compare(folders, Path(OUT.value or "runs/comparison"))
    else:
        show(folders[0], Path(OUT.value or folders[0] / "plots"))


def show(workdir: Path, out: Path) -> None:
    """Write the page of one run."""
    from makemore_jax.plots.write import write  # UserError without matplotlib

    startup.use_compilation_cache()
    startup.use_cores()
    write(report.collect(workdir, NAMES.value, SEED.value, NUM.value), out)
    print(f"open {out / 'index.html'} in a browser; the figures are next to it")


def compare(workdirs: list[Path], out: Path) -> None:
    """Print the table of some runs and write their page."""
    from makemore_jax.plots.comparison import write_comparison  # UserError without matplotlib

    for flag in (NAMES, SEED, NUM):
        if flags.FLAGS[flag.name].present:
            raise UserError(f"--{flag.name}: only with one --workdir; comparing runs draws nothing")
    runs = comparison.read_runs(workdirs)
    write_comparison(runs, out)
    print(comparison.as_markdown(runs))
    if not comparison.have_same_data(runs):
        print("\ndev and test data differ between these runs: compare their losses only roughly")
    print(f"\nopen {out / 'index.html'} in a browser; the figures are next to it")


if __name__ == "__main__":
    # Defined here, not above: programs that import this file have flags of the same names.
    WORKDIR = flags.DEFINE_multi_string("workdir", [], "folder of a run; repeat it to compare runs")
    OUT = flags.DEFINE_string(
        "out", None, "folder to write to (by default plots/ of the run, or runs/comparison)"
    )
    NAMES = flags.DEFINE_list(
        "names", None, "names to examine, such as emma,olivia (by default three of dev)"
    )
    SEED = flags.DEFINE_integer("seed", 3407, "seed of the samples")
    NUM = flags.DEFINE_integer("num", 20, "number of samples")
    command_line.run(main, __doc__, name="plots")

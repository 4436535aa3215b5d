"""Write an HTML page about a run, or a page that compares several runs.

    python -m makemore_jax.plots --workdir runs/transformer
    python -m makemore_jax.plots --workdir runs/transformer --names emma,olivia --num 50
    python -m makemore_jax.plots --workdir runs/transformer --workdir runs/gru

With one run: writes figures and index.html to plots/ in its folder. The page contains the figures
and needs no network and no other files. It shows the config, device and duration; loss and learning
rate; the layer statistics of train.diagnose_every; samples and the nearest training lines; the
surprise (negative log-probability) of each character of some names, or of a passage of a text;
attention; embeddings; bigrams.

With several runs: prints a table with the differences between their configs, their losses and their
speed. Writes the table and a chart of all losses to runs/comparison or --out.
"""

from pathlib import Path

from absl import flags

from makemore_jax import config as config_lib
from makemore_jax.cli import command_line, startup
from makemore_jax.cli.fields import NUM_SAMPLES, check_flag
from makemore_jax.errors import UserError
from makemore_jax.integrity.untrusted import check_links
from makemore_jax.report import comparison
from makemore_jax.report.collect import collect


def main() -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder of a run, such as runs/transformer")
    check_flag("num", NUM.value, NUM_SAMPLES)
    check_flag("seed", SEED.value, config_lib.SEED)
    if NAMES.value == []:
        raise UserError("--names is empty; separate names by commas, as in emma,olivia")
    folders = list(map(Path, WORKDIR.value))
    if len(folders) > 1:
        write_comparison_page(folders, Path(OUT.value or "runs/comparison"))
    else:
        write_page(folders[0], Path(OUT.value or folders[0] / "plots"))


def write_page(workdir: Path, out: Path) -> None:
    """Write the page of one run."""
    from makemore_jax.plots.write import write  # UserError without matplotlib

    if not OUT.value:
        check_links(workdir)
    startup.use_compilation_cache()
    startup.configure_jax()
    report = collect(workdir, NAMES.value, SEED.value, NUM.value, DATA.value)
    write(report, out, "--out" if OUT.value else "--workdir")
    print(f"open {out / 'index.html'} in a browser; the figures are next to it")


def write_comparison_page(workdirs: list[Path], out: Path) -> None:
    """Print the table that compares some runs, and write their page."""
    from makemore_jax.plots.comparison import write_comparison  # UserError without matplotlib

    for flag in (NAMES, SEED, NUM, DATA):
        if flags.FLAGS[flag.name].present:
            raise UserError(f"--{flag.name}: only with one --workdir; a comparison has no samples")
    runs = comparison.read_runs(workdirs)
    write_comparison(runs, out)
    print(comparison.as_markdown(runs))
    if not comparison.have_same_data(runs):
        print(f"\n{comparison.DIFFERENT_DATA}")
    print(f"\nopen {out / 'index.html'} in a browser; the figures are next to it")


if __name__ == "__main__":
    # Flags are global, and programs that import this module define flags of the same names.
    WORKDIR = flags.DEFINE_multi_string("workdir", [], "folder of a run; repeat it to compare runs")
    OUT = flags.DEFINE_string(
        "out", None, "folder to write to (by default plots/ of the run, or runs/comparison)"
    )
    NAMES = flags.DEFINE_list(
        "names", None, "names to examine, such as emma,olivia (by default three of dev)"
    )
    SEED = flags.DEFINE_integer("seed", 3407, "seed of the samples")
    NUM = flags.DEFINE_integer("num", 20, "number of samples")
    DATA = flags.DEFINE_string("data", None, "data file of the run, if it was moved")
    command_line.run(main, __doc__, name="plots")

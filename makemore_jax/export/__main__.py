"""Export a trained model for programs that have jax, numpy and flatbuffers, but not this project.

    python -m makemore_jax.export --workdir runs/transformer --out exported/transformer

docs/export.md describes the files and has a loader.
"""

from pathlib import Path

from absl import flags

from makemore_jax.cli import command_line
from makemore_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
OUT = flags.DEFINE_string("out", None, "folder to write to; it must be new or empty")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "lowest dev loss, or latest"
)


def main() -> None:
    for flag, hint in ((WORKDIR, "runs/transformer"), (OUT, "exported/transformer")):
        if flag.value is None:
            raise UserError(f"--{flag.name} is missing; give a folder, such as {hint}")
    command_line.require_modules("export", "flatbuffers")  # jax.export needs it to serialize
    from makemore_jax.cli import startup
    from makemore_jax.export.files import export_run

    startup.configure_jax()
    export_run(Path(WORKDIR.value), Path(OUT.value), CHECKPOINT.value)
    print(f"{OUT.value}: the {CHECKPOINT.value} model of {WORKDIR.value}")


if __name__ == "__main__":
    command_line.run(main, __doc__, name="export")

"""Convert a trained model from PyTorch to a run of this project, or back.

    python -m makemore_jax.torch_parity.convert from-torch model.pt \\
        --data data/makemore_names.txt --workdir runs/from-makemore
    python -m makemore_jax.torch_parity.convert from-torch out/ckpt.pt \\
        --data data/tinyshakespeare.txt --workdir runs/from-nanogpt
    python -m makemore_jax.torch_parity.convert to-torch --workdir runs/gru model.pt

from-torch reads the model.pt of makemore.py, the ckpt.pt of nanoGPT's train.py, or the same tensors
as .npz or .safetensors. It makes a run that sample.py and train.py can use. The file determines the
family, the sizes and, for nanoGPT, the settings of the training; --config gives what is not in the
file. If the file has the state of AdamW, training continues with it. Opening .pt files needs torch
2.10 or newer. The vocabulary comes from
--data, the text that the model was trained on, or from --meta, nanoGPT's meta.pkl.

to-torch writes a ckpt.pt for nanoGPT if the model is nanoGPT's: a transformer with tied weights and
model.activation=gelu_exact. Otherwise it writes a model.pt that makemore's model of the same sizes
loads with strict=True. --meta names the meta.pkl to write for nanoGPT's sample.py.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from makemore_jax.cli import command_line, config_flag, resources, startup
from makemore_jax.config import Config
from makemore_jax.errors import UserError
from makemore_jax.torch_parity.exporting import to_torch
from makemore_jax.torch_parity.importing import from_torch

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "from-torch: config file, or the name of one in configs/"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run to write (from-torch) or to read (to-torch)"
)
DATA = flags.DEFINE_string("data", None, "from-torch: text that the model was trained on")
META = flags.DEFINE_string("meta", None, "nanoGPT's meta.pkl, to read or to write")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "to-torch: lowest dev loss, or latest"
)


def check_flags(direction: str) -> None:
    """Raise UserError for a flag that the direction does not use."""
    unused = ("config", "data") if direction == "to-torch" else ("checkpoint",)
    for name in unused:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: not used with {direction}")


def main(arguments: list[str]) -> None:
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of the run to write or to read")
    if len(arguments) != 2 or arguments[0] not in ("from-torch", "to-torch"):
        raise UserError("expected from-torch FILE or to-torch FILE; see --help")
    check_flags(arguments[0])
    startup.configure_jax()
    direction, file, folder = arguments[0], Path(arguments[1]), Path(WORKDIR.value)
    meta = None if META.value is None else Path(META.value)
    if direction == "to-torch":
        try:
            program = to_torch(folder, file, CHECKPOINT.value, meta)
        except ModuleNotFoundError as error:
            raise UserError(f"to-torch: needs {error.name}: pip install {error.name}") from None
        print(f"{file}: the {CHECKPOINT.value} weights of {folder}, for {program}")
        return
    if CONFIG.value is None and DATA.value is None and meta is None:
        raise UserError(
            "--data is missing; give the text that the model was trained on, or --meta with "
            "nanoGPT's meta.pkl"
        )
    config = config_flag.read(CONFIG) if CONFIG.value else Config()
    converted = from_torch(file, config, folder, DATA.value, meta)
    loss = "" if converted.dev_loss is None else f", dev loss {converted.dev_loss:.4f}"
    optimizer = f" of step {converted.step} with its optimizer" if converted.has_moments else ""
    print(f"{folder}: a run with the weights of {file}{optimizer}{loss}")
    if (folder / "config.py").exists():
        command = resources.command("train", "--config", folder / "config.py", "--workdir", folder)
        print(f"{command} continues it")


if __name__ == "__main__":
    command_line.run(main, __doc__, config_required=False, name="convert")

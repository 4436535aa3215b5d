"""Files that belong to the package but are outside its folder: scripts, configs/ and names.txt.

In a checkout they are next to the package. A wheel has copies in `_resources` (pyproject.toml).
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

_COPIES = Path(__file__).parent.with_name("_resources")
IS_WHEEL = _COPIES.is_dir()
FOLDER = _COPIES if IS_WHEEL else Path(__file__).parent.parent.parent
CONFIGS = FOLDER / "configs"


def config_names() -> list[str]:
    """Return the names of the bundled configs, such as "transformer"."""
    return sorted(file.stem for file in CONFIGS.glob("*.py"))


def find_names(path: str) -> str:
    """Return `path`, or the bundled names.txt for a "names.txt" that does not exist."""
    return str(FOLDER / path) if path == "names.txt" and not os.path.exists(path) else path


def program_name() -> str:
    """Return the name that starts every message: train.py, makemore-train, or plots (-m)."""
    program = Path(sys.argv[0])
    return program.parent.name if program.name == "__main__.py" else program.name


def is_train() -> bool:
    """Return whether this program is train.py."""
    return program_name() in ("train.py", "makemore-train")


def command(name: str, *arguments: object) -> str:
    """Return the command that runs a script: "python train.py", or "makemore-train" of a wheel.

    Arguments are quoted for the shell.
    """
    is_console_command = program_name().startswith("makemore-")
    script = f"makemore-{name}" if IS_WHEEL or is_console_command else f"python {name}.py"
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return " ".join([script, join(map(str, arguments))]).strip()


def adapt(text: str) -> str:
    """Return a docstring with the commands of this installation."""
    text = re.sub(r"python (train|sample)\.py", lambda match: command(match[1]), text)
    is_script = command("train").endswith(".py")
    return text if is_script else re.sub(r"configs/(\w+)\.py", r"\1", text)

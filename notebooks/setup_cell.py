# @title Set up: find the project, install what is missing, show the devices
import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_project() -> Path:
    """Return the folder of the checkout, of an uploaded archive, or of a new clone."""
    here = Path.cwd()
    for folder in (here, *here.parents, here / "makemore_jax"):
        if (folder / "makemore_jax" / "__init__.py").exists():
            return folder
    archives = [*here.glob("makemore_jax*.zip"), *here.glob("makemore_jax*.tar.gz")]
    if archives:
        unpacked = here / "unpacked"
        shutil.unpack_archive(archives[0], unpacked)
        return next(unpacked.rglob("makemore_jax/__init__.py")).parent.parent
    subprocess.run(["git", "clone", "--depth=1", "{repository}", "makemore_jax"], check=True)
    return here / "makemore_jax"


project = find_project()
os.chdir(project)
sys.path.insert(0, str(project))
print(f"project: {project}")

from makemore_jax.notebook import setup

setup.install_missing(project)
setup.use_devices()

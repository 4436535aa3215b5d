# @title Set up: find the project, install what is missing, show the devices
import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_project(kaggle_input: Path = Path("/kaggle/input")) -> Path:
    """Return the folder of the checkout, an uploaded archive, a Kaggle data set or a new clone."""
    here = Path.cwd()
    for folder in (here, *here.parents, here / "makemore_jax"):
        if (folder / "makemore_jax" / "__init__.py").exists():
            return folder
    for archive in [*here.glob("makemore_jax*.zip"), *here.glob("makemore_jax*.tar.gz")]:
        shutil.unpack_archive(archive, here / "unpacked")
    for package in (here / "unpacked").rglob("makemore_jax/__init__.py"):
        return package.parent.parent
    for package in kaggle_input.rglob("makemore_jax/__init__.py"):  # read-only, so copy it
        return Path(shutil.copytree(package.parent.parent, here / "makemore_jax"))
    subprocess.run(["git", "clone", "--depth=1", "{repository}", "makemore_jax"], check=True)
    return here / "makemore_jax"


project = find_project()
os.chdir(project)
sys.path.insert(0, str(project))
print(f"project: {project}")

from makemore_jax.notebook import setup

setup.install_missing(project)
setup.use_devices()

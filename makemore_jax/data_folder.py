"""The folder `data/` of downloaded files, and a second folder for files that are missing there."""

import os
from pathlib import Path

DATA_FOLDER = "data"
DATA_VARIABLE = "MAKEMORE_DATA"  # names the second folder


def find(path: str) -> str:
    """Return `path`, or for a missing data/NAME the file NAME in the folder MAKEMORE_DATA."""
    file, folder = Path(path), os.environ.get(DATA_VARIABLE)
    if folder and file.parent == Path(DATA_FOLDER) and not file.exists():
        second = Path(folder) / file.name
        return str(second) if second.is_file() else path
    return path

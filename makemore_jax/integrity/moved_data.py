"""The data file of a run whose project was moved, cloned or mounted elsewhere."""

from pathlib import Path, PureWindowsPath

from makemore_jax.data_folder import find
from makemore_jax.text.token_file import hash_text
from makemore_jax.workdir import Run


def find_file(run: Run, folder: str | Path | None) -> str | None:
    """Return the path of the data of the run in `folder`, recognized by its hash, or None.

    It is the file that was trained on, the file that `data.path` names now, or a file at the same
    place relative to a folder that contains the run: a moved project keeps its structure.
    """
    places = [run.data_file, find(run.config.data.path)]
    if folder is not None:
        names = PureWindowsPath(run.data_file).parts[1:]  # splits paths of all systems
        for parent in Path(folder).absolute().parents:
            places += [str(parent.joinpath(*names[i:])) for i in range(len(names))]
    return next((file for file in dict.fromkeys(places) if _has_hash(file, run.data_sha256)), None)


def _has_hash(file: str, sha256: str) -> bool:
    try:
        return Path(file).is_file() and hash_text(file) == sha256
    except OSError:
        return False

"""The data file of a run whose project was moved, cloned or mounted elsewhere."""

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from makemore_jax.data.files import find
from makemore_jax.workdir import Run


def data_files(run: Run, folder: str | Path | None) -> Iterator[str]:
    """Yield each existing file that may be the data of the run in `folder`. Compare its hash.

    These are the file that was trained on, the file that `data.path` names now, and files at the
    same place relative to a folder that contains the run: a moved project keeps its structure.
    """
    places = [run.data_file, find(run.config.data.path)]
    if folder is not None:
        names = PureWindowsPath(run.data_file).parts[1:]  # splits paths of all systems
        for parent in Path(folder).absolute().parents:
            places += [str(parent.joinpath(*names[i:])) for i in range(len(names))]
    yield from (place for place in dict.fromkeys(places) if Path(place).is_file())

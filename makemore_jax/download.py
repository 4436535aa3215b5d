"""Download the course's two texts: python -m makemore_jax.download names|shakespeare

Each text is saved in `data/` and its sha256 is checked. Files are looked up in `data/` first, then
in the folder that the environment variable MAKEMORE_DATA names. A text that exists in either is not
downloaded again. Configs, lectures and commands resolve a path like `data/NAME` by the same rule.
"""

import contextlib
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

from makemore_jax.cli import command_line
from makemore_jax.cli.arguments import Parser
from makemore_jax.data_folder import DATA_FOLDER, DATA_VARIABLE
from makemore_jax.errors import UserError

MAX_BYTES = 2**24  # of a download; both texts are smaller
_GITHUB = "https://raw.githubusercontent.com/karpathy"


class Source(NamedTuple):
    """The file name of a text, its address and the checksum of its content."""

    file: str
    url: str
    sha256: str


SOURCES = {
    "names": Source(
        "makemore_names.txt",
        f"{_GITHUB}/makemore/master/names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
    "shakespeare": Source(
        "tinyshakespeare.txt",
        f"{_GITHUB}/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def locate(name: str, folder: str | Path = DATA_FOLDER) -> Path | None:
    """Return the file of a source in `folder` or in MAKEMORE_DATA, None if neither has it."""
    for candidate in (folder, os.environ.get(DATA_VARIABLE)):
        if candidate and (file := Path(candidate) / SOURCES[name].file).is_file():
            return file
    return None


def download(name: str, folder: str | Path = DATA_FOLDER, url: str | None = None) -> Path:
    """Return the verified file of a source. Download it to `folder` if `locate` returns None.

    Raise UserError, and keep no partial file, if the network, the disk or the checksum fails.
    """
    source = SOURCES[name]
    if file := locate(name, folder):
        _check(file.read_bytes(), source.sha256, file, "delete it and try again")
        return file
    url = url or source.url
    target = Path(folder) / source.file
    manually = f"save the file as {target}, or set {DATA_VARIABLE} to the folder that has it"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read(MAX_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"{url} can't be fetched: {reason}; {manually}") from None
    _check(content, source.sha256, url, manually)
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{target} can't be written: {error.strerror}") from None
    return target


def _check(content: bytes, sha256: str, origin: Path | str, advice: str) -> None:
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(
            f"{origin} is not the expected text: its sha256 is {actual}, not {sha256}; {advice}"
        )


def main() -> None:
    parser = Parser("download", __doc__)
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("--folder", default=DATA_FOLDER, help="save it in this folder (data)")
    parser.add_argument("--url", help="download it from this address instead")
    parsed = parser.parse_args()
    command_line.call("download", lambda: _run(parsed.name, parsed.folder, parsed.url))


def _run(name: str, folder: str, url: str | None) -> None:
    file = download(name, folder, url)
    is_elsewhere = file.parent != Path(folder)
    path = Path(DATA_FOLDER) / file.name if is_elsewhere else file  # configs resolve both
    origin = f" (from {DATA_VARIABLE})" if is_elsewhere else ""
    print(f"{file}{origin}: use it with --config.data.path={path}")


if __name__ == "__main__":
    main()

"""Fetch the two texts of the course: python -m makemore_jax.data.download names|shakespeare

Each goes into `data/` and is checked by its sha256. Where the environment variable MAKEMORE_DATA
names a folder that holds the file, it is taken from there and nothing is downloaded.
"""

import argparse
import hashlib
import os
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

from makemore_jax.errors import UserError

_GITHUB = "https://raw.githubusercontent.com/karpathy"


class Source(NamedTuple):
    """Where a text comes from, and how it is known to be the right one."""

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


def locate(name: str, folder: str = "data") -> Path | None:
    """The file of a source, in MAKEMORE_DATA or else in `folder`; None where it is in neither."""
    for place in (os.environ.get("MAKEMORE_DATA"), folder):
        if place and (file := Path(place) / SOURCES[name].file).is_file():
            return file
    return None


def download(name: str, folder: str = "data", url: str | None = None) -> Path:
    """The checked file of a source, downloaded only where it is not at hand.

    UserError if the network, the disk or the checksum fails; then nothing is left behind.
    """
    source = SOURCES[name]
    if found := locate(name, folder):
        _check(found.read_bytes(), source.sha256, found)
        return found
    url = url or source.url
    target = Path(folder) / source.file
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise UserError(f"{url} can't be fetched: {getattr(error, 'reason', error)}") from None
    _check(content, source.sha256, url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target} can't be written: {error.strerror}") from None
    return target


def _check(content: bytes, sha256: str, where: Path | str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{where} is not the text expected: its sha256 is {found}, not {sha256}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m makemore_jax.data.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("--folder", default="data", help="where to put it (data)")
    parser.add_argument("--url", help="take it from here instead")
    arguments = parser.parse_args()
    try:
        file = download(arguments.name, arguments.folder, arguments.url)
    except UserError as error:
        print(f"download: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{file}: use it with --config.data.path={file}")


if __name__ == "__main__":
    main()

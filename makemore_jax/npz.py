"""Read an .npz file that may be damaged or hostile."""

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

MAX_EXPANSION = 100  # uncompressed size divided by the size of the file


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name. Pickled objects are refused.

    An array needs no more memory than its part of the file expands to, whatever its header says.
    OSError, ValueError or zipfile.BadZipFile if the file can't be read.
    """
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_EXPANSION * file.stat().st_size:
            raise ValueError(f"it expands to {size:,} bytes")
        for info in archive.infolist():
            member = io.BytesIO(_read_member(archive, info))
            _check_header(member, info)
            member.seek(0)
            array = np.lib.format.read_array(member, allow_pickle=False)
            arrays[info.filename.removesuffix(".npy")] = array
    return arrays


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (RuntimeError, EOFError, zlib.error) as error:  # encrypted, damaged
        raise ValueError(f"{info.filename}: {error}") from None


def _check_header(member: io.BytesIO, info: zipfile.ZipInfo) -> None:
    """Raise ValueError if a header announces more values than the member of the archive holds."""
    is_first_version = np.lib.format.read_magic(member) == (1, 0)
    read_header = np.lib.format.read_array_header_2_0
    if is_first_version:
        read_header = np.lib.format.read_array_header_1_0
    shape, _, dtype = read_header(member)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{info.filename} announces {dtype}{list(shape)}, but is shorter")

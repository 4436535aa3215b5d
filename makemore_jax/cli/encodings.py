"""Recognize the encoding of a file from its first bytes, and files that are not text."""

import codecs
import os

from makemore_jax.errors import UserError

HEAD_BYTES = 2**16  # read from the beginning of a file
BOMS = {  # UTF-32-LE first: its mark begins with that of UTF-16-LE
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8",
}
BINARY_FORMATS = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive, as Word documents are",
    b"%PDF-": "a PDF document",
}
CONTROL_BYTES = {*range(32)} - set(b"\t\n\v\f\r\x1b")


def is_known(encoding: str) -> bool:
    """Return whether Python can decode bytes to text with this encoding."""
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError:  # some encodings need more bytes
        return True
    except (LookupError, ValueError):
        return False
    return True


def read_head(path: str) -> bytes:
    """Return the first bytes of a file; none if it can't be read, or only once, as a pipe."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def check(path: str, encoding: str) -> None:
    """Raise UserError if the file is not text, or if its encoding is clearly not `encoding`."""
    head = read_head(path)
    if kind := _binary_format(head):
        raise UserError(f"data.path: {path} is {kind}, not a text file")
    actual = recognize(head)
    if actual and not _is_compatible(head, actual, encoding):
        hint = f"name its encoding: --config.data.encoding={actual}"
        raise UserError(f"data.path: {path} is {actual}, not {encoding}; {hint}")


def advice(path: str, flag: str, encoding: str, is_decoded: bool = False) -> str:
    """Return the part of a message that follows 'PATH is not utf-8'.

    `is_decoded`: all bytes are valid in this encoding, but the characters are not text.
    """
    head = read_head(path)
    if kind := _binary_format(head):
        return f"; it is {kind}"
    actual = recognize(head)
    if actual == _name(encoding) or (is_decoded and actual == "utf-8"):
        actual = None
    if flag != "data.path":
        return ", as the data of the run is" + (f"; it is {actual}: convert it" if actual else "")
    if actual:
        return f"; name its encoding: --config.data.encoding={actual}"
    if is_decoded:
        return "; remove it, or give a text file"
    if set(head) & CONTROL_BYTES:
        return "; it has control characters, which text files do not have"
    return "; name its encoding, as in --config.data.encoding=latin-1"


def recognize(head: bytes) -> str | None:
    """Return the encoding of a text with these first bytes, if it is UTF-8, UTF-16 or UTF-32.

    Without a byte order mark, UTF-16 is recognized by zero bytes: the upper half of each space,
    digit, Latin letter and line break.
    """
    for mark, encoding in BOMS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" not in head:
        return "utf-8" if _decode(head, "utf-8") is not None else None
    zeros = [head[i::4].count(0) for i in range(4)]
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    for encoding, upper, lower in (
        ("utf-32-le", zeros[3], zeros[0]),  # the highest byte is always 0
        ("utf-32-be", zeros[0], zeros[3]),
        ("utf-16-le", odd, even),
        ("utf-16-be", even, odd),
    ):
        text = _decode(head, encoding)
        if text and upper > 10 * lower and ("\n" in text or upper > len(text) / 2):
            return encoding
    return None


def is_misread_utf8(path: str, encoding: str) -> bool:
    """Return whether a file that is read in an 8-bit encoding is valid UTF-8 and not ASCII.

    Text in an 8-bit encoding is almost never valid UTF-8 by chance.
    """
    head = read_head(path)
    return not head.isascii() and _name(encoding) != "utf-8" and recognize(head) == "utf-8"


def _is_compatible(head: bytes, actual: str, encoding: str) -> bool:
    """Return whether bytes recognized as `actual` can be text in `encoding`."""
    if actual == "utf-8":  # `is_misread_utf8` finds 8-bit encodings
        return not _name(encoding).startswith(("utf-16", "utf-32"))
    return _decode(head, encoding) == _decode(head, actual)


def _name(encoding: str) -> str:
    """Return the usual name of an encoding. Unknown names are reported where a file is decoded."""
    try:
        return codecs.lookup(encoding).name.removesuffix("-sig")
    except (LookupError, ValueError):
        return encoding


def _binary_format(head: bytes) -> str:
    return next((kind for magic, kind in BINARY_FORMATS.items() if head.startswith(magic)), "")


def _decode(head: bytes, encoding: str) -> str | None:
    """Return the text of the first bytes, without a last incomplete character; None if invalid."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head).removeprefix("\ufeff")
    except (LookupError, ValueError):
        return None

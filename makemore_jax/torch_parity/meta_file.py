"""nanoGPT's meta.pkl, {vocab_size, itos, stoi}: the characters of a data set by their tokens."""

import hashlib
import pickle
import pickletools
from pathlib import Path
from typing import Any

from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.torch_parity.files import first_line

MAX_META_BYTES = 2**26  # a meta.pkl with all characters of Unicode has less

# The instructions of a pickle that has only dicts, lists, strings and integers. None of them
# imports, calls or allocates more than the file has.
MEMO = {"BINPUT", "LONG_BINPUT"}
PLAIN_OPCODES = MEMO | {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2"),
}


def read_meta(file: Path) -> tuple[Vocab, str]:
    """Return the vocabulary in nanoGPT's meta.pkl and the sha256 of the file.

    The file is a pickle, which could run code. This reads only dicts, lists, strings and integers.
    Raise UserError for any other content.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise UserError(f"--meta: {file} can't be read: {error.strerror}") from None
    try:
        if len(raw) > MAX_META_BYTES:
            raise ValueError(f"it has more than {MAX_META_BYTES:,} bytes")
        _check_opcodes(raw)
        chars = _chars(pickle.loads(raw))
    except Exception as error:  # damaged pickles raise many types
        raise UserError(f"--meta: {file} is not nanoGPT's meta.pkl: {first_line(error)}") from None
    return Vocab(chars, has_end=False), hashlib.sha256(raw).hexdigest()


def _check_opcodes(raw: bytes) -> None:
    """Raise ValueError if a pickle has more than dicts, lists, strings and integers."""
    for opcode, argument, position in pickletools.genops(raw):
        if opcode.name not in PLAIN_OPCODES:
            raise ValueError(f"it has {opcode.name} at byte {position}, which was not executed")
        if opcode.name in MEMO and argument > len(raw):  # a table of this length is allocated
            raise ValueError(f"it announces {argument:,} entries in {len(raw):,} bytes")
        if opcode.name == "STOP" and position + 1 != len(raw):
            raise ValueError("it has more after its end")


def _chars(meta: Any) -> tuple[str, ...]:
    """Return the characters in the order of their tokens. Raise ValueError if they have none."""
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(itos, dict):
        if set(itos) != set(range(len(itos))):
            raise ValueError("the tokens of itos are not 0, 1, 2, ...")
        itos = [itos[i] for i in range(len(itos))]
    if not itos or not isinstance(itos, list):
        raise ValueError("it has no itos, the characters by token")
    if not all(isinstance(char, str) and len(char) == 1 for char in itos):
        raise ValueError("itos has entries that are not one character")
    if len(set(itos)) != len(itos) or meta.get("vocab_size", len(itos)) != len(itos):
        raise ValueError("the characters of itos are not as many as its tokens")
    return tuple(itos)


def write_meta(file: Path, vocab: Vocab) -> None:
    """Write a vocabulary as nanoGPT's meta.pkl."""
    itos = dict(enumerate(vocab.chars))
    content = {"vocab_size": vocab.size, "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    file.write_bytes(pickle.dumps(content, protocol=4))

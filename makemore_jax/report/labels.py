"""How tokens and characters are shown on a page and in figures."""

import unicodedata

from makemore_jax.data.vocabulary import Vocab

EDGE = "•"  # stands for token 0, the start and the end of a line


def token_labels(vocab: Vocab) -> list[str]:
    """Return a label for each token, in token order."""
    chars = ["", *vocab.chars] if vocab.has_end else vocab.chars
    return [char_label(char) for char in chars]


def char_label(char: str) -> str:
    """Return a visible form of a character. The empty string is the edge of a line."""
    if not char:
        return EDGE
    if char.isspace():
        return "␣"
    return char if char.isprintable() else "�"


def char_class(label: str) -> str:
    """Return 'vowel', 'consonant' or 'other'. Accents are ignored."""
    if not label.isalpha():
        return "other"
    return "vowel" if unicodedata.normalize("NFD", label)[0].lower() in "aeiou" else "consonant"

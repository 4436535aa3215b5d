"""How tokens and characters are shown on a page and in figures."""

import unicodedata

from makemore_jax.data.vocabulary import Vocab

EDGE = "•"  # stands for token 0, the start and the end of a line
MARK_BASE = "◌"  # carries an accent that has no letter
VISIBLE = {"": EDGE, " ": "␣", "\n": "↵", "\t": "⇥"}

# The alphabets with vowels and consonants, and their vowels by the names that Unicode gives them.
VOWELS = {
    "LATIN": {*"AEIOU", "AE", "OE", "DOTLESS I", "OPEN E", "OPEN O", "SCHWA", "TURNED E"},
    "GREEK": {"ALPHA", "EPSILON", "ETA", "IOTA", "OMICRON", "UPSILON", "OMEGA"},
    "CYRILLIC": {
        *("A", "E", "I", "O", "U", "IE", "IO", "YERU", "YU", "YA", "YI"),
        *("UKRAINIAN IE", "BYELORUSSIAN-UKRAINIAN I", "STRAIGHT U", "BARRED O", "SCHWA"),
    },
}
NEITHER = {"HARD SIGN", "SOFT SIGN"}
CATEGORIES = {"L": "letter", "M": "mark", "N": "number", "P": "punctuation"}


def token_labels(vocab: Vocab) -> list[str]:
    """Return a label for each token, in token order."""
    chars = ["", *vocab.chars] if vocab.has_end else vocab.chars
    return [char_label(char) for char in chars]


def char_label(char: str) -> str:
    """Return a visible form of a character. The empty string is the edge of a line."""
    if char in VISIBLE:
        return VISIBLE[char]
    if not char.isprintable():
        return code_point(char)
    return MARK_BASE + char if unicodedata.category(char)[0] == "M" else char


def code_point(char: str) -> str:
    """Return the code point of a character, such as "U+200D"."""
    return f"U+{ord(char):04X}"


def char_class(label: str) -> str:
    """Return the class of a character by its label. Accents are ignored.

    It is 'vowel' or 'consonant' in the Latin, Greek and Cyrillic alphabets, 'letter' in other
    scripts, or 'mark', 'number', 'punctuation', 'other'.
    """
    char = label.removeprefix(MARK_BASE)
    if len(char) != 1 or label in VISIBLE.values():
        return "other"
    kind = CATEGORIES.get(unicodedata.category(char)[0], "other")
    # A name is "LATIN SMALL LETTER E WITH ACUTE" or "GREEK SMALL LETTER FINAL SIGMA".
    script, _, rest = unicodedata.name(char, "").partition(" ")
    _, is_letter, letter = rest.partition("LETTER ")
    letter = letter.partition(" WITH ")[0]
    if kind != "letter" or script not in VOWELS or not is_letter or letter in NEITHER:
        return kind
    return "vowel" if letter in VOWELS[script] else "consonant"

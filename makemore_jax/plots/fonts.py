"""Choose fonts for the characters of a figure, from all fonts of the computer."""

import functools
from collections.abc import Sequence

import matplotlib
from matplotlib import font_manager

from makemore_jax.cli import command_line
from makemore_jax.report.labels import code_point

# These have a placeholder for every character, or symbols at the code points of letters.
NO_TEXT_FONTS = ("Last Resort", "LastResort", "Adobe Blank", "STIX", "cm")


def drawable(labels: Sequence[str]) -> list[str]:
    """Return labels that figures can show, and let matplotlib use the fonts that they need.

    A character that no font has becomes its code point, such as "U+4E2D", with one warning. Call
    this before matplotlib creates the text.
    """
    fonts = {char: _font_with(char) for label in labels for char in label}
    if None in fonts.values():
        _warn_once()
    families = matplotlib.rcParams["font.family"]
    new = dict.fromkeys(font for font in fonts.values() if font and font not in families)
    matplotlib.rcParams["font.family"] = [*families, *new]
    shown = {char: char if font else code_point(char) for char, font in fonts.items()}
    return ["".join(shown[char] for char in label) for label in labels]


@functools.cache
def _font_with(char: str) -> str | None:
    """Return the family of a font that has a glyph for a character. None if there is none.

    Try the default font, "sans-serif", first.
    """
    default = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    if ord(char) in _code_points(default):
        return "sans-serif"
    return next((f.name for f in _other_fonts() if ord(char) in _code_points(f.fname)), None)


@functools.cache
def _other_fonts() -> list[font_manager.FontEntry]:
    """Return the upright fonts of normal weight. Sans-serif fonts come first."""
    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, "normal", "regular", "book")
        and not font.name.startswith(NO_TEXT_FONTS)
    ]
    return sorted(fonts, key=lambda font: ("Sans" not in font.name, font.name))


@functools.cache
def _code_points(file: str) -> frozenset[int]:
    """Return the characters of a font file; none if matplotlib can't use it."""
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.cache
def _warn_once() -> None:
    command_line.warn(
        "the fonts of this computer lack some of the characters; figures show code points, such as "
        "U+4E2D, instead. Install Noto Sans fonts to show all scripts"
    )

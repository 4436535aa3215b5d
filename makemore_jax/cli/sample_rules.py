"""What can be sampled and scored: rules about prompts, lines and the options of decoding."""

import unicodedata
from typing import TYPE_CHECKING

from makemore_jax.cli.fields import check_flag
from makemore_jax.config import AT_LEAST_1, SHARE
from makemore_jax.errors import UserError

if TYPE_CHECKING:
    from makemore_jax.data.vocabulary import Vocab
    from makemore_jax.decoding import Decoding, LanguageModel

MAX_TEMPERATURE = 1e30  # float32 has no numbers above 3e38
FORMS = ("NFC", "NFD", "NFKC", "NFKD")  # of Unicode normalization


def check_decoding(decoding: "Decoding") -> None:
    """Raise UserError if a field is out of its range."""
    if not 0 <= decoding.temperature <= MAX_TEMPERATURE:
        must = f"a number from 0 to {MAX_TEMPERATURE:g}"
        raise UserError(f"--temperature: {decoding.temperature} must be {must}")
    check_flag("top_k", decoding.top_k, AT_LEAST_1)
    check_flag("top_p", decoding.top_p, SHARE)


def check_prompt(vocab: "Vocab", prompt: str) -> None:
    """Raise UserError if training never saw a character of the prompt."""
    check_characters(vocab, prompt, "--prompt")


def check_line_prompt(lm: "LanguageModel", prompt: str) -> None:
    """Raise UserError if no line of a model can start with the prompt."""
    check_prompt(lm.vocab, prompt)
    if len(prompt) >= lm.max_len:
        raise UserError(
            f"--prompt: {len(prompt)} characters are too many for lines of at most {lm.max_len - 1}"
        )


def check_lines(lines: list[str], vocab: "Vocab", max_len: int, flag: str) -> None:
    """Raise UserError, about `flag`, if a line is too long or has unknown characters."""
    for line in lines:
        check_characters(vocab, line, flag, repr(line))
        if len(line) >= max_len:
            raise UserError(
                f"{flag}: {line[:40]!r} has {len(line)} characters; "
                f"the lines of this model have at most {max_len - 1}"
            )


def check_characters(vocab: "Vocab", text: str, flag: str, source: str = "") -> None:
    """Raise UserError, about `flag`, if characters of `text`, from `source`, have no token."""
    if not (unknown := vocab.unknown(text)):
        return
    names = f"{unknown[0]!r}, which is in {source}" if source else ", ".join(map(repr, unknown))
    # The same letter can be one character or two: NFC has é, NFD has e and an accent.
    forms = [form for form in FORMS if not vocab.unknown(unicodedata.normalize(form, text))]
    hint = f"; the data has another Unicode form: convert the text to {' or '.join(forms)}"
    raise UserError(f"{flag}: training never saw {names}" + (hint if forms else ""))

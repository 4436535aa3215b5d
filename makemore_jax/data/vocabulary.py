"""The vocabulary: characters to tokens and back."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Vocab:
    """A bijection between characters and tokens.

    With `has_end`, token 0 starts and ends a line and character i is token i + 1. A long text has
    no such token: character i is token i.
    """

    chars: tuple[str, ...]
    has_end: bool = True

    @property
    def size(self) -> int:
        """The number of tokens, including token 0 of lines."""
        return len(self.chars) + self.has_end

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.chars, start=int(self.has_end))}

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that have no token."""
        return [c for c in dict.fromkeys(text) if c not in self._tokens]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text. Raise KeyError if it has unknown characters."""
        return [self._tokens[c] for c in text]

    def decode_rows(self, tokens: np.ndarray) -> list[str]:
        """Return the text of each row of tokens (N, T).

        Rows of lines end with their first 0. All tokens after it must be 0.
        """
        if not self.has_end:
            return ["".join(row) for row in np.array(self.chars)[tokens]]
        # NumPy strings drop trailing NULs, so a row of characters can be viewed as its text.
        rows = np.array(["\0", *self.chars])[tokens]
        return np.ascontiguousarray(rows).view(f"U{tokens.shape[1]}")[:, 0].tolist()

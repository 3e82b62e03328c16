"""Where a text leaves the block that it began in. Knows characters as they come; knows no token and no end.

As llama-server has it: every line but the first begins with at least so many spaces and tabs, or the text is over where
a line has fewer; an empty line has none.
"""

from __future__ import annotations


class Indent:
    """Owned by the reply. Feed it the text in order."""

    __slots__ = ("_least", "_n", "is_left")

    def __init__(self, least: int) -> None:
        self._least = least
        self._n = least  # of the line that the text is in, as far as it is known; those of the first are not asked
        self.is_left = False

    def feed(self, text: str) -> str:
        """What of it is in the block."""
        if self.is_left:
            return ""
        for k, character in enumerate(text):
            if self._n < self._least:
                if character not in " \t":
                    self.is_left = True
                    return text[:k]
                self._n += 1
            elif character == "\n":
                self._n = 0
        return text

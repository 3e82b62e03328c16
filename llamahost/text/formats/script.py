"""Read a text that is still coming. A reader is a generator that yields where it needs more; it never looks back.

Laws: how the text is cut into pieces changes nothing of what is told, joined. What might be the beginning of a marker
is held back until it is known, and at the end of the text it is known to be none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias, TypeVar

from llamahost.core.events import Channel
from llamahost.text.splitter import Segment

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""A reader: each `yield` waits for more of the text, or for its end."""

Outcome = Literal["no", "whole", "broken"]
"""Of reading calls: none was there; all was well; it went wrong after a call had been told."""

_SPACES = re.compile(r"\s*")


class Markers:
    """A few strings to look for at once. Compiled once a format; none may be the beginning of another."""

    __slots__ = ("_firsts", "_n_longest", "_pattern", "_prefixes", "strings")

    def __init__(self, *strings: str) -> None:
        self.strings = strings
        for one in strings:
            assert one, "an empty marker is everywhere"
            assert not any(other != one and other.startswith(one) for other in strings), f"{one} begins another"
        self._pattern = re.compile("|".join(map(re.escape, strings))) if strings else None
        self._prefixes = frozenset(one[:n] for one in strings for n in range(1, len(one)))
        self._firsts = frozenset(one[0] for one in strings)
        self._n_longest = max(map(len, strings), default=0)

    def find(self, text: str, at: int) -> re.Match[str] | None:
        return self._pattern.search(text, at) if self._pattern else None

    def n_begun(self, text: str, at: int) -> int:
        """Characters at the end of text[at:] that may be the beginning of a marker."""
        n = len(text)
        for begin in range(max(at, n - self._n_longest + 1), n):
            if text[begin] in self._firsts and text[begin:] in self._prefixes:
                return n - begin
        return 0


class Script:
    """The text of one answer, and what is told of it. Owned by one splitter."""

    __slots__ = ("_keep", "_n_mark", "_text", "at", "is_over", "told")

    def __init__(self) -> None:
        self._text = ""
        self.at = 0  # what is read of the text that is kept
        self._keep = -1  # from here on the text is kept for a reader that may go back; -1: none
        self._n_mark = 0  # of what is kept, the white space and the marker that begin it
        self.is_over = False
        self.told: list[Segment] = []

    def feed(self, text: str) -> None:
        begin = self.at if self._keep < 0 else self._keep
        if begin:
            self._text = self._text[begin:]
            self.at -= begin
            self._keep = -1 if self._keep < 0 else 0
        self._text += text

    def tell(self, text: str, channel: Channel = "text") -> None:
        if not text:
            return
        last = self.told[-1] if self.told else None
        if last is not None and last.channel == channel:
            self.told[-1] = Segment(last.text + text, channel, last.call_id, last.call_name)
        else:
            self.told.append(Segment(text, channel))

    def keep(self) -> None:
        """From here on the text may be gone back to."""
        self._keep, self._n_mark = self.at, 0

    def drop(self) -> None:
        """It may not any more."""
        self._keep = -1

    @property
    def is_kept(self) -> bool:
        """Whether there is a way back; a call that was told of has none."""
        return self._keep >= 0

    def back(self) -> str:
        """Go back to where the keeping began, or beyond the marker that was found there, which is returned."""
        begin, self.at = self._keep, self._keep + self._n_mark
        self._keep = -1
        return self._text[begin : self.at]

    def peek(self) -> Steps[str]:
        """The next character; empty at the end."""
        while self.at >= len(self._text):
            if self.is_over:
                return ""
            yield
        return self._text[self.at]

    def take(self, literal: str) -> Steps[bool]:
        """Whether the text goes on so; then it is read."""
        while True:
            if self._text.startswith(literal, self.at):
                self.at += len(literal)
                return True
            rest = self._text[self.at : self.at + len(literal)]
            if self.is_over or not literal.startswith(rest):
                return False
            yield

    def take_one(self, literals: tuple[str, ...]) -> Steps[str]:
        """Which of these the text goes on with; empty if none. Of two that begin alike the longer must stand first."""
        while True:
            for literal in literals:
                if self._text.startswith(literal, self.at):
                    self.at += len(literal)
                    return literal
                rest = self._text[self.at : self.at + len(literal)]
                if not self.is_over and literal.startswith(rest):
                    break  # it may still become this one
            else:
                return ""
            yield

    def spaces(self) -> Steps[str]:
        """All white space up to the next character that is none, which has come, or to the end."""
        taken = ""
        while True:
            taken += self.some_of(_SPACES)
            if self.at < len(self._text) or self.is_over:
                return taken
            yield

    def some_of(self, pattern: re.Pattern[str]) -> str:
        """What a pattern of one class with a star matches of the text so far; more may follow."""
        found = pattern.match(self._text, self.at)
        assert found is not None  # a star matches nothing, too
        self.at = found.end()
        return found.group()

    def run_of(self, pattern: re.Pattern[str], n_max: int) -> Steps[str]:
        """All that such a pattern matches, read when its end has come; empty, and nothing read, beyond `n_max`."""
        while True:
            found = pattern.match(self._text, self.at)
            assert found is not None
            if found.end() - self.at > n_max:
                return ""
            if found.end() < len(self._text) or self.is_over:
                self.at = found.end()
                return found.group()
            yield

    def until(self, markers: Markers, tell: Callable[[str], object], *, trims: bool = True) -> Steps[str]:
        """Tell all before the first of the markers, which is read and returned; empty at the end, when all is told.

        With `trims`, white space before a marker is not told, but kept together with the marker, for `back`.
        """
        while True:
            found = markers.find(self._text, self.at)
            if found is not None:
                end = found.start()
                said = self._text[self.at : end]
                shown = said.rstrip() if trims else said
                tell(shown)
                if trims:
                    self._keep = self.at + len(shown)
                    self._n_mark = found.end() - self._keep
                self.at = found.end()
                return found.group()
            end = len(self._text)
            if self.is_over:
                tell(self._text[self.at :])
                self.at = end
                return ""
            end -= markers.n_begun(self._text, self.at)
            said = self._text[self.at : end]
            if trims:
                said = said.rstrip()
            if said:
                tell(said)
                self.at += len(said)
            yield

"""Whether a GBNF grammar derives a text, by trying everything; and texts that it derives."""

from __future__ import annotations

import random

from llamahost.text.gbnf import read
from llamahost.text.grammar_tree import Chars, Choice, Node, Ref, Repeat, Sequence, refs


class Recogniser:
    """One grammar without tokens."""

    def __init__(self, text: str) -> None:
        self._rules = read(text, "grammar").rules

    def derives(self, text: str) -> bool:
        return len(text) in self._ends(self._rules["root"], text, 0, {})

    def begins(self, text: str) -> bool:
        """Whether some text that is derived begins so: seen by the farthest place that was looked at."""
        seen: dict[tuple[str, int], frozenset[int]] = {}
        self._is_short = False
        self._ends(self._rules["root"], text, 0, seen)
        return self._is_short or self.derives(text)

    _is_short = False

    def _ends(self, node: Node, text: str, at: int, seen: dict[tuple[str, int], frozenset[int]]) -> frozenset[int]:
        match node:
            case Chars(ranges):
                if at == len(text):
                    self._is_short = True
                    return frozenset()
                is_in = any(low <= ord(text[at]) <= high for low, high in ranges)
                return frozenset({at + 1}) if is_in else frozenset()
            case Ref(name, _):
                if (name, at) not in seen:
                    seen[name, at] = self._ends(self._rules[name], text, at, seen)
                return seen[name, at]
            case Sequence(items):
                ends = frozenset({at})
                for item in items:
                    ends = frozenset(end for begin in ends for end in self._ends(item, text, begin, seen))
                return ends
            case Choice(options):
                return frozenset(end for option in options for end in self._ends(option, text, at, seen))
            case Repeat(inner, least, most):
                return self._repeated(inner, least, most, text, at, seen)
        raise AssertionError("a token is no text")

    def _repeated(
        self,
        inner: Node,
        least: int,
        most: int | None,
        text: str,
        at: int,
        seen: dict[tuple[str, int], frozenset[int]],
    ) -> frozenset[int]:
        found: set[int] = {at} if least == 0 else set()
        now, n = frozenset({at}), 0
        while now and (most is None or n < most):
            following = frozenset(end for begin in now for end in self._ends(inner, text, begin, seen))
            n += 1
            if n >= least:
                following -= found  # what was there before brings nothing new
                found |= following
            now = following
        return frozenset(found)

    def derived(self, draw: random.Random, depth: int = 8) -> str:
        return self._text(self._rules["root"], draw, depth)

    def _text(self, node: Node, draw: random.Random, depth: int) -> str:
        match node:
            case Chars(ranges):
                low, high = draw.choice(ranges)
                return chr(draw.randint(low, min(high, low + 40)))
            case Ref(name, _):
                return self._text(self._rules[name], draw, depth - 1) if depth > -10 else ""  # it may have no end
            case Sequence(items):
                return "".join(self._text(item, draw, depth) for item in items)
            case Choice(options):
                if depth < 0:  # one that calls no rule, if there is any
                    options = tuple(option for option in options if not refs(option)) or options
                return self._text(draw.choice(options), draw, depth)
            case Repeat(inner, least, most):
                n = least if depth < 0 else draw.randint(least, least + 2 if most is None else min(most, least + 2))
                return "".join(self._text(inner, draw, depth) for _ in range(n))
        raise AssertionError("a token is no text")

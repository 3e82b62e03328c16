"""What a client's `model` stands for: exact names, aliases with wildcards, and forgiving ones. Pure; knows no model.

In this order: exact; by other letters (case, `_` for `-`); without what says nothing of the model (a folder, `.gguf`,
`-GGUF`, `:latest`); a tag that is written with `-` in the name, or that one alone has; then the alias with a wildcard
that is most particular. Where two differ in none of this, it is neither. What was the name of one that is `gone` stands
for none that is merely alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

WILDCARD = "*"

N_NEAR = 1024
"""Characters beyond which nothing is near a name: looking for it would cost the loop 20 ms, also for who has no key."""

_ENDINGS = (".gguf", "-gguf", ":latest")


class Names:
    """Immutable. Made of pairs: a name or alias, in which `*` stands for anything, and what it names."""

    __slots__ = ("_bare", "_exact", "_folded", "_gone", "_patterns", "_plain", "_stems")

    def __init__(self, pairs: Iterable[tuple[str, str]], gone: Iterable[str] = ()) -> None:
        pairs = tuple(pairs)
        self._gone = frozenset(map(folded, gone))
        self._exact = dict(pairs)
        self._plain = tuple(name for name, _ in pairs if WILDCARD not in name)
        self._folded = _only((folded(name), named) for name, named in pairs if WILDCARD not in name)
        self._bare = _only((bare(name), named) for name, named in pairs if WILDCARD not in name)
        self._stems = _only((bare(name).partition(":")[0], named) for name, named in pairs if WILDCARD not in name)
        wild = [(name, named) for name, named in pairs if WILDCARD in name]
        wild.sort(key=lambda pair: len(pair[0].replace(WILDCARD, "")), reverse=True)
        self._patterns = tuple((_Pattern(tuple(folded(name).split(WILDCARD))), named) for name, named in wild)

    def find(self, name: str) -> str | None:
        """What it names; None where nothing does, or more than one thing might."""
        found = self._exact.get(name)
        if found is not None or not name:
            return found
        whole = folded(name)
        found = self._folded.get(whole)
        if found is None and whole not in self._gone:
            found = self._alike(name)
        return found or next((named for pattern, named in self._patterns if pattern.matches(whole)), None)

    def _alike(self, name: str) -> str | None:
        short = bare(name)
        stem, _, tag = short.partition(":")
        found = self._bare.get(short)
        if found is None and tag:
            found = self._bare.get(f"{stem}-{tag}") or self._bare.get(stem)
        if found is None and not tag:
            found = self._stems.get(stem)
        return found

    @property
    def named(self) -> tuple[str, ...]:
        """What there is, each by its own name."""
        return tuple(dict.fromkeys(self._exact.values()))

    def nearest(self, name: str) -> str:
        """The name that was probably meant, or nothing."""
        if len(name) > N_NEAR:
            return ""
        near = difflib.get_close_matches(name, self._plain, n=1, cutoff=0.5)
        if not near:
            by_short = {bare(known): known for known in reversed(self._plain)}
            near = [by_short[short] for short in difflib.get_close_matches(bare(name), by_short, n=1, cutoff=0.5)]
        return near[0] if near else ""


def folded(name: str) -> str:
    return name.casefold().replace("_", "-")


def bare(name: str) -> str:
    """Without a folder, `.gguf`, `-GGUF` and `:latest`. The tag stays: `qwen3-8b-gguf:q4-0` is `qwen3-8b:q4-0`."""
    whole = folded(name)
    stem, colon, tag = _unended(whole.rpartition("/")[2]).partition(":")
    return f"{_unended(stem)}{colon}{tag}" or whole


def _unended(name: str) -> str:
    """In time by the name's length: clients send what they like."""
    end = len(name)
    while ending := next((each for each in _ENDINGS if name.endswith(each, 0, end)), ""):
        end -= len(ending)
    return name[:end]


def _only(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of what stands for one thing alone."""
    found: dict[str, set[str]] = {}
    for key, named in pairs:
        found.setdefault(key, set()).add(named)
    return {key: next(iter(named)) for key, named in found.items() if len(named) == 1}


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Texts with anything between them; in time by the name's length, however many stars there are."""

    texts: tuple[str, ...]

    def matches(self, name: str) -> bool:
        first, *others, last = self.texts
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        start, end = len(first), len(name) - len(last)
        for text in others:
            found = name.find(text, start, end)
            if found < 0:
                return False
            start = found + len(text)
        return True

"""Tokenise a prompt in parts and remember them: a conversation's earlier part is not tokenised again at each turn.

Knows one vocabulary and where its texts may be cut; that the parts' tokens are those of the whole is the cuts' law.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from llamahost.core.backend import Vocabulary
from llamahost.core.work import Tokens

MAX_BYTES = 32 * 2**20
"""Of one model's parts with their tokens: some 12 MB of text, or two dozen conversations of half a megabyte."""

N_WHOLE = 256
"""Characters that are tokenised before Python has looked for their parts."""

_N_TOGETHER = 16384
"""Characters of new parts that are tokenised in one call: each call waits for the GIL when it comes back."""

_N_MAX_CUTS = 16
"""Spellings that are looked for, each in a walk of its own through the text."""

_ENTRY_BYTES = 250
"""Of a part beside its text and its tokens."""


class Heard(NamedTuple):
    """Characters of the prompts that were looked up here, and those of them that had to be tokenised."""

    n_asked: int = 0
    n_tokenised: int = 0


class Remembered:
    """Implements core.backend.Vocabulary over another, whose prompts may be cut before the spellings in `cuts`.

    Thread-safe. What is remembered is bounded by `max_bytes`; what was not asked for the longest goes first.
    """

    def __init__(
        self, vocabulary: Vocabulary, cuts: Mapping[str, int], *, max_bytes: int = MAX_BYTES, n_whole: int = N_WHOLE
    ) -> None:
        self.n_tokens = vocabulary.n_tokens
        self.pieces = vocabulary.pieces
        self.is_control = vocabulary.is_control
        self.end_ids = vocabulary.end_ids
        self.bos = vocabulary.bos
        self.eos = vocabulary.eos
        self.adds_bos = vocabulary.adds_bos
        self.fim_ids = vocabulary.fim_ids
        self.fim_files = vocabulary.fim_files
        self.heard = Heard()
        self._vocabulary = vocabulary
        self._frame = _frame(vocabulary)
        self._cuts = dict(list(cuts.items())[:_N_MAX_CUTS]) if self._frame is not None else {}
        self._max_bytes = max_bytes
        self._n_whole = n_whole
        self._n_bytes = 0
        self._parts: OrderedDict[str, Tokens] = OrderedDict()
        self._lock = threading.Lock()  # held for a few dict operations at a time: the loop may wait for it

    def decode(self, tokens: Tokens) -> bytes:
        return self._vocabulary.decode(tokens)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        if len(text) <= self._n_whole or not parse_special or not self._cuts or self._frame is None:
            return self._vocabulary.encode(text, add_special=add_special, parse_special=parse_special)
        parts = parts_of(text, self._cuts)
        found = [self._recall(part) for part in parts]
        before, after = self._frame if add_special else ((), ())
        tokens = array("i", before)
        start = 0
        while start < len(parts):
            known = found[start]
            if known is not None:
                tokens += known
                start += 1
                continue
            end, n_chars = start + 1, len(parts[start])
            while end < len(parts) and found[end] is None and n_chars + len(parts[end]) <= _N_TOGETHER:
                n_chars += len(parts[end])
                end += 1
            for new in self._learn(parts[start:end]):
                tokens += new
            start = end
        tokens.extend(after)
        with self._lock:
            self.heard = self.heard._replace(n_asked=self.heard.n_asked + len(text))
        return tokens

    def _recall(self, part: str) -> Tokens | None:
        with self._lock:
            tokens = self._parts.get(part)
            if tokens is not None:
                self._parts.move_to_end(part)
            return tokens

    def _learn(self, parts: Sequence[str]) -> list[Tokens]:
        """The tokens of neighbouring parts, by one call where it tells them apart."""
        whole = self._encode("".join(parts))
        learnt = [whole] if len(parts) == 1 else self._told_apart(whole, parts)
        if learnt is None:  # a part has made a token out of its text that begins another
            learnt = [self._encode(part) for part in parts]
        with self._lock:
            self.heard = self.heard._replace(n_tokenised=self.heard.n_tokenised + sum(map(len, parts)))
            for part, tokens in zip(parts, learnt, strict=True):
                self._keep(part, tokens)
        return learnt

    def _encode(self, text: str) -> Tokens:
        return self._vocabulary.encode(text, add_special=False, parse_special=True)

    def _told_apart(self, whole: Tokens, parts: Sequence[str]) -> list[Tokens] | None:
        """All but the first of `parts` begin with the token of a cut, so there its tokens begin."""
        first, *others = (self._first_of(part) for part in parts)
        expected = others if first is None else [first, *others]
        if any(whole.count(token) != expected.count(token) for token in set(expected) if token is not None):
            return None
        starts = [0]
        for token in others:
            assert token is not None
            starts.append(whole.index(token, starts[-1] if first is None and len(starts) == 1 else starts[-1] + 1))
        return [whole[start:end] for start, end in zip(starts, [*starts[1:], len(whole)], strict=True)]

    def _first_of(self, part: str) -> int | None:
        return next((token for spelling, token in self._cuts.items() if part.startswith(spelling)), None)

    def _keep(self, part: str, tokens: Tokens) -> None:
        """Under the lock."""
        n_bytes = _n_bytes(part, tokens)
        if part in self._parts or n_bytes > self._max_bytes:
            return
        self._parts[part] = tokens
        self._n_bytes += n_bytes
        while self._n_bytes > self._max_bytes:
            self._n_bytes -= _n_bytes(*self._parts.popitem(last=False))


def parts_of(text: str, cuts: Iterable[str]) -> list[str]:
    """The text cut before each of these spellings; all but the first part begin with one."""
    parts = [text]
    for cut in cuts:
        parts = [piece for part in parts for piece in _cut_before(part, cut)]
    return parts


def _cut_before(part: str, cut: str) -> list[str]:
    first, *others = part.split(cut)
    pieces = [cut + other for other in others]
    return [first, *pieces] if first or not pieces else pieces


def _n_bytes(part: str, tokens: Tokens) -> int:
    return sys.getsizeof(part) + 4 * len(tokens) + _ENTRY_BYTES


def _frame(vocabulary: Vocabulary) -> tuple[Tokens, Tokens] | None:
    """What stands before and after every text when special tokens are added. None: it depends on the text."""
    nothing = vocabulary.encode("", add_special=True, parse_special=True)
    bare = vocabulary.encode("a", add_special=False, parse_special=True)
    framed = vocabulary.encode("a", add_special=True, parse_special=True)
    for n in range(len(nothing) + 1):
        if framed == nothing[:n] + bare + nothing[n:]:
            return nothing[:n], nothing[n:]
    return None

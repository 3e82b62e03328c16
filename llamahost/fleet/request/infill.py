"""Put code around a gap into tokens, with other files before it, as models are trained to fill in. Knows a vocabulary.

[repo]myproject⏎[file]name⏎text … [file]filename⏎ [before]prefix[after]suffix[between]: llama.cpp's order, where the
model has marks for files; else the texts of the other files stand before it, parted by a line. Mistral's models were
trained the other way round, [after]suffix[before]prefix, and continue the prefix.

What is too long is cut, as editors expect: of the suffix the end, of the prefix the beginning, of other files whole
ones, the first of them first. It is cut by strides, so that the cut stays where it is for a while as somebody types,
and what stands behind it is found in the cache.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import InvalidRequest, NotAble
from llamahost.core.messages import Snippet
from llamahost.core.work import Tokens

N_ANSWER = 256
"""Tokens that are left for an answer of which nothing is said."""

N_STRIDES = 8
"""The prefix is cut by this part of what it may have."""

_ANYTHING = "\u263a"
"""A character that no word has, so that it is tokenised by itself: CodeLlama's own."""

_PARTING = "\n\n--- snippet ---\n\n"


class Filled(NamedTuple):
    tokens: Tokens
    is_cut: bool


def filled_in(
    vocabulary: Vocabulary, prefix: str, suffix: str, snippets: Sequence[Snippet], *, n_room: int, model: str
) -> Filled:
    """At most `n_room` tokens. Raises InvalidRequest where the model was not trained to, or there is no room at all."""
    marks = marks_of(vocabulary, model, None)
    begin = array("i", [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos >= 0 else [])
    n_left = n_room - len(begin) - 3
    if n_left < 1:
        raise InvalidRequest(f"an answer of this length leaves no room in `{model}`", param="n_predict")
    head, tail = _plain(vocabulary, prefix), behind_a_mark(vocabulary, suffix)
    n_tail = min(len(tail), max(n_left // 4, n_left - len(head)))
    n_head = n_left - n_tail
    is_cut = n_tail < len(tail)
    if len(head) > n_head:
        stride = max(1, n_head // N_STRIDES)
        head = head[-(-(len(head) - n_head) // stride) * stride :]
        is_cut = True
    others = _others(vocabulary, snippets)
    kept: list[Tokens] = []
    n_left -= len(head) + n_tail + (len(others.begin) + len(others.end) if others.each else 0)
    for tokens in reversed(others.each):
        if len(tokens) > n_left:
            is_cut = True
            break
        kept.append(tokens)
        n_left -= len(tokens)
    tokens = begin
    if kept:
        for part in (others.begin, *reversed(kept), others.end):
            tokens = tokens + part
    return Filled(tokens + around(marks, head, tail[:n_tail]), is_cut)


def marks_of(vocabulary: Vocabulary, model: str, param: str | None) -> tuple[int, int, int]:
    """Raises NotAble."""
    if vocabulary.fim_ids is None:
        raise NotAble(f"`{model}` does not fill in: its vocabulary has no fill-in-the-middle tokens", param=param)
    return vocabulary.fim_ids


def around(marks: tuple[int, int, int], head: Tokens, tail: Tokens) -> Tokens:
    """A prefix and a suffix, and the place of what is between at the end."""
    before, after, between = marks
    if between < 0:
        return array("i", [after]) + tail + array("i", [before]) + head
    return array("i", [before]) + head + array("i", [after]) + tail + array("i", [between])


def behind_a_mark(vocabulary: Vocabulary, text: str) -> Tokens:
    """Without the space that some vocabularies begin every text with: here a text goes on."""
    tokens = _plain(vocabulary, text)
    if not tokens or not vocabulary.pieces[tokens[0]].startswith(b" "):
        return tokens
    start, both = _plain(vocabulary, _ANYTHING), _plain(vocabulary, _ANYTHING + text)
    return both[len(start) :] if both[: len(start)] == start else tokens


class _Others(NamedTuple):
    begin: Tokens
    each: Sequence[Tokens]
    end: Tokens


def _others(vocabulary: Vocabulary, snippets: Sequence[Snippet]) -> _Others:
    repo, file = vocabulary.fim_files
    begin, end = array("i"), array("i")
    if repo >= 0:
        begin = array("i", [repo]) + _plain(vocabulary, "myproject\n")
    if file < 0:
        each = [_plain(vocabulary, _PARTING + snippet.text) for snippet in snippets]
        return _Others(begin, each, end)
    mark = array("i", [file])
    each = [
        mark + _plain(vocabulary, f"{snippet.filename or 'tmp'}\n") + _plain(vocabulary, snippet.text)
        for snippet in snippets
    ]
    return _Others(begin, each, mark + _plain(vocabulary, "filename\n"))


def _plain(vocabulary: Vocabulary, text: str) -> Tokens:
    """What is text in it stays text."""
    return vocabulary.encode(text, add_special=False, parse_special=False)

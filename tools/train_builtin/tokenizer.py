"""A byte-level BPE made from the generator's own text. Knows merges; encoding is llama.cpp's (`Encoder`).

Merges come in two ranks. First those within words and within punctuation, learned on words without what stands before
them. Last the ones that join a space, a quote or an underscore to a whole common word. So a name that nobody has seen
is cut into the same pieces after a space as after a quote, and a model that copies it copies tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

PRE = "qwen2"
"""The rules of splitting, by llama.cpp's name: digits stand alone, one sign may lead a word."""

CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>",
)  # fmt: skip
SHOWN = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>",
)  # fmt: skip

_SPECIAL = re.compile("|".join(re.escape(text) for text in (*CONTROL, *SHOWN)))
# The rules of `qwen2`, near enough to count by: the letters of Python's \w are Unicode's.
_SPLIT = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\w\r\n]|_)?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LED = re.compile(r"((?:[^\w\r\n]|_))([^\W\d_]+)$")


@dataclass(frozen=True)
class Vocabulary:
    tokens: tuple[str, ...]  # as GGUF spells them, the special ones first
    merges: tuple[str, ...]

    def id_of(self, token: str) -> int:
        return self.tokens.index(token)

    def word_pieces(self) -> tuple[str, ...]:
        """What words of small letters are spelled with."""
        found = {token.removeprefix(_SPELLED[ord(" ")]) for token in self.tokens}
        return tuple(sorted(each for each in found if len(each) > 1 and re.fullmatch("[a-z]+", each)))


def byte_spellings() -> list[str]:
    """The printable character that byte-level BPE writes for each byte."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


_SPELLED = byte_spellings()


def spelled(text: str) -> str:
    return "".join(_SPELLED[byte] for byte in text.encode())


def learn(texts: Iterable[str], n_vocab: int, *, share_led: float = 0.3) -> Vocabulary:
    """The vocabulary of `n_vocab` tokens that these texts ask for; `share_led` of the merges join a lead to a word."""
    words: Counter[str] = Counter()
    led: Counter[tuple[str, str]] = Counter()
    for text in texts:
        for part in _SPECIAL.split(text):
            for word in _SPLIT.findall(part):
                if match := _LED.match(word):
                    words[spelled(match[2])] += 1
                    led[spelled(match[1]), spelled(match[2])] += 1
                else:
                    words[spelled(word)] += 1
    base = (*CONTROL, *SHOWN, *_SPELLED)
    n_merges = n_vocab - len(base)
    n_led = int(n_merges * share_led)
    inner = _merges(words, n_merges - n_led)
    known = {*base, *(a + b for a, b in inner)}
    outer = [
        pair
        for pair, _ in sorted(led.items(), key=lambda item: (-item[1], item[0]))
        if pair[1] in known and len(pair[1]) > 1
    ]
    merges = [*inner, *outer[:n_led]]
    tokens = tuple(dict.fromkeys((*base, *(a + b for a, b in merges))))
    return Vocabulary(tokens, tuple(f"{a} {b}" for a, b in merges))


def _merges(words: Counter[str], n: int) -> list[tuple[str, str]]:
    """The usual greedy choice; of equally frequent pairs the first in order, so that equal texts make equal merges."""
    pieces = {word: tuple(word) for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            pairs[pair] += words[word]
            holders.setdefault(pair, set()).add(word)
    made: list[tuple[str, str]] = []
    while len(made) < n and pairs:
        best = max(pairs.items(), key=lambda item: (item[1], item[0]))[0]
        made.append(best)
        for word in sorted(holders.pop(best)):
            old = pieces[word]
            for pair in pairwise(old):
                pairs[pair] -= words[word]
                if pair in holders:
                    holders[pair].discard(word)
            new = pieces[word] = _joined(old, best)
            for pair in pairwise(new):
                pairs[pair] += words[word]
                holders.setdefault(pair, set()).add(word)
        pairs = Counter({pair: count for pair, count in pairs.items() if count > 0})
    return made


def _joined(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    made: list[str] = []
    i = 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            made.append(parts[i] + parts[i + 1])
            i += 2
        else:
            made.append(parts[i])
            i += 1
    return tuple(made)


class Encoder:
    """llama.cpp's own tokeniser, from a GGUF file's vocabulary: what is learned is what will be read."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self._model: Any = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.close()

    def encode(self, text: str) -> list[int]:
        found: list[int] = self._model.tokenize(text.encode(), add_bos=False, special=True)
        return found

"""Text to tokens and back. Knows one vocabulary; its tables are read once, since a C call a token would be the cost.

Thread-safe: llama.cpp's tokeniser is, and the tables never change. After the model is closed nothing may be called.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from typing import Any

from llamahost.core.errors import InvalidRequest
from llamahost.core.turn import apart
from llamahost.core.work import PairMarks, Tokens
from llamahost.native.library import Library

_UNKNOWN, _CONTROL = 1 << 0, 1 << 3
_BLOCK, _ROOM = 4096, 128  # tokens asked at once, and bytes for each
_MANY = 2**20  # bytes; in less there is room for a token of each
_MISTRALS = (b"[PREFIX]", b"[SUFFIX]")
_LONG = 4096  # bytes, which take a millisecond or so

_MAX_TEXT_BYTES = 2**31 - 16  # llama_tokenize takes an int32 length


class Vocab:
    """Implements core.backend.Vocabulary on a loaded model's vocabulary, whose address it borrows."""

    def __init__(self, library: Library, pointer: int) -> None:
        c = library.c
        self._library = library
        self._tokenize = library.long.tokenize
        self.pointer = pointer
        self.n_tokens: int = c.llama_vocab_n_tokens(pointer)
        self.bos: int = c.llama_vocab_bos(pointer)
        self.eos: int = c.llama_vocab_eos(pointer)
        self.adds_bos = bool(c.llama_vocab_get_add_bos(pointer))
        self.fim_files = (int(c.llama_vocab_fim_rep(pointer)), int(c.llama_vocab_fim_sep(pointer)))
        self.pieces, self.is_control, self.end_ids = _tables(library, pointer, self.n_tokens)
        self.fim_ids = _fim_ids(c, pointer) or _mistrals(self.pieces, self.is_control)
        self.suppressed = _suppressed(c, pointer)

    def pair_marks(self) -> PairMarks:
        """As BERT reads a pair, [CLS] a [SEP] b [SEP], and RoBERTa, <s> a </s></s> b </s>: by what the file says."""
        c = self._library.c
        sep = c.llama_vocab_sep(self.pointer)
        eos = self.eos if self.eos >= 0 else sep
        begin = [self.bos] if self.adds_bos else []
        end = [eos] if c.llama_vocab_get_add_eos(self.pointer) else []
        between = [*end, sep] if c.llama_vocab_get_add_sep(self.pointer) else end
        return PairMarks(*(array("i", [t for t in marks if t >= 0]) for marks in (begin, between, end)))

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Lone surrogates become U+FFFD; NUL is a character like any other."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            data = _mended(text)
        if len(data) > _MAX_TEXT_BYTES:
            raise InvalidRequest(f"the text has {len(data)} bytes, more than can be tokenised at once")
        room = (len(data) if len(data) < _MANY else len(data) // 2) + 16  # too little costs a second call
        for _ in range(2):
            tokens = array("i", (0,)) * room
            address, _ = tokens.buffer_info()
            asked = (self.pointer, data, len(data), address, room, add_special, parse_special)
            if len(data) <= _LONG:
                n = self._tokenize(*asked)
            else:
                with apart():
                    n = self._tokenize(*asked)
            if n >= 0:
                del tokens[n:]
                return tokens
            if n == -(2**31):
                break
            room = -n
        raise InvalidRequest(f"the text of {len(data)} bytes cannot be tokenised")

    def decode(self, tokens: Iterable[int]) -> bytes:
        pieces, is_control, n_tokens = self.pieces, self.is_control, self.n_tokens
        parts = []
        for token in tokens:
            if not 0 <= token < n_tokens:  # the C function would end the process
                raise InvalidRequest(f"token {token} is not in the vocabulary of {n_tokens}", param="tokens")
            if not is_control[token]:
                parts.append(pieces[token])
        return b"".join(parts)


def _mended(text: str) -> bytes:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _tables(library: Library, pointer: int, n_tokens: int) -> tuple[tuple[bytes, ...], bytes, frozenset[int]]:
    """Pieces, control marks and end tokens. `map` over C functions, since a Python loop would double the time."""
    quick = library.quick
    attributes = map(quick.vocab_get_attr, repeat(pointer, n_tokens), range(n_tokens))
    is_control = bytes([1 if attribute & (_CONTROL | _UNKNOWN) else 0 for attribute in attributes])
    ends = map(quick.vocab_is_eog, repeat(pointer, n_tokens), range(n_tokens))
    end_ids = frozenset(compress(range(n_tokens), ends))
    pieces: list[bytes] = []
    buffer = ctypes.create_string_buffer(_BLOCK * _ROOM)
    addresses = range(ctypes.addressof(buffer), ctypes.addressof(buffer) + _BLOCK * _ROOM, _ROOM)
    data = memoryview(buffer).cast("B")
    for start in range(0, n_tokens, _BLOCK):
        tokens = range(start, min(start + _BLOCK, n_tokens))
        lengths = map(quick.token_to_piece, repeat(pointer), tokens, addresses, repeat(_ROOM), repeat(0), repeat(True))
        pieces += [
            data[i * _ROOM : i * _ROOM + n].tobytes() if n >= 0 else _long_piece(library, pointer, start + i, -n)
            for i, n in enumerate(lengths)
        ]
    return tuple(pieces), is_control, end_ids


def _long_piece(library: Library, pointer: int, token: int, room: int) -> bytes:
    buffer = ctypes.create_string_buffer(room)
    n = library.quick.token_to_piece(pointer, token, ctypes.addressof(buffer), room, 0, True)
    return buffer.raw[: max(n, 0)]


def _fim_ids(c: Any, pointer: int) -> tuple[int, int, int] | None:
    """The file's own or, by their spelling, those that llama.cpp knows; -1 is one that there is not."""
    prefix, suffix = int(c.llama_vocab_fim_pre(pointer)), int(c.llama_vocab_fim_suf(pointer))
    middle = int(c.llama_vocab_fim_mid(pointer))
    return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None


def _mistrals(pieces: Sequence[bytes], is_control: bytes) -> tuple[int, int, int] | None:
    """Codestral's and its kin's, which llama.cpp does not look for: [SUFFIX]after[PREFIX]before, and no third one."""
    named = [next((k for k, is_mark in enumerate(is_control) if is_mark and pieces[k] == n), -1) for n in _MISTRALS]
    return (named[0], named[1], -1) if min(named) >= 0 else None


def _suppressed(c: Any, pointer: int) -> tuple[int, ...]:
    """Tokens that the file says must never be sampled; llama-server bans them too."""
    n = ctypes.c_int32(0)
    found = c.llama_vocab_get_suppress_tokens(pointer, ctypes.byref(n))
    return tuple(found[index] for index in range(n.value)) if found and n.value > 0 else ()

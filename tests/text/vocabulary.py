"""A vocabulary small enough to read: the 256 bytes, some longer pieces, and control tokens."""

import re
from array import array
from collections.abc import Iterable

from llamahost.core.errors import InvalidRequest
from llamahost.core.work import Tokens

BOS, EOS, TURN = 256, 257, 258
CONTROLS = {b"<s>": BOS, b"</s>": EOS, b"<|turn|>": TURN}
_CONTROL = re.compile(b"(%b)" % b"|".join(map(re.escape, CONTROLS)))
LONGER = (b"hello", b" world", b"\n\n", b"\xe2\x82", b"\xac!", b"stop here", b"\xf0\x9f\x98")
PIECES = (*(bytes([b]) for b in range(256)), *CONTROLS, *LONGER)


class ByteVocabulary:
    """Implements core.backend.Vocabulary. Encodes byte by byte, control tokens by their spelling."""

    def __init__(self, *, adds_bos: bool = True, has_bos: bool = True) -> None:
        self.pieces = PIECES
        self.n_tokens = len(self.pieces)
        self.is_control = bytes(1 if BOS <= t <= TURN else 0 for t in range(self.n_tokens))
        self.end_ids = frozenset({EOS, TURN})
        self.bos = BOS if has_bos else -1
        self.eos = EOS
        self.adds_bos = adds_bos
        self.fim_ids: tuple[int, int, int] | None = None
        self.fim_files = (-1, -1)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        data = text.encode()
        tokens = array("i", [self.bos] if add_special and self.adds_bos else [])
        if not parse_special:
            tokens.extend(data)
            return tokens
        for part in _CONTROL.split(data):
            tokens.extend((CONTROLS[part],) if part in CONTROLS else part)
        return tokens

    def decode(self, tokens: Iterable[int]) -> bytes:
        found = list(tokens)
        if found and not 0 <= min(found) <= max(found) < self.n_tokens:
            raise InvalidRequest("not in the vocabulary")
        return b"".join(self.pieces[t] for t in found if not self.is_control[t])

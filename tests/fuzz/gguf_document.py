"""A GGUF file taken apart and put together again, right or wrong. Knows the format by its words; checks nothing.

What is written is what is said: a count, a length or an offset may lie. Knows nothing of llamahost's own reader.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from itertools import accumulate

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

FORMS = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", I64: "<q",
    F64: "<d",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A value as it stands in the file: its type, and the bytes after the type."""

    kind: int
    data: bytes

    @staticmethod
    def scalar(kind: int, value: float) -> Value:
        return Value(kind, struct.pack(FORMS[kind], value))

    @staticmethod
    def text(value: bytes) -> Value:
        return Value(STRING, packed(value))

    @staticmethod
    def array(kind: int, items: list[bytes], n: int | None = None) -> Value:
        """`n` in place of the true count, where it is to lie."""
        return Value(ARRAY, struct.pack("<IQ", kind, len(items) if n is None else n) + b"".join(items))

    @property
    def item_kind(self) -> int | None:
        """Of an array."""
        return struct.unpack_from("<I", self.data)[0] if self.kind == ARRAY else None

    @property
    def items(self) -> list[bytes]:
        """Of an array, the bytes of each item."""
        kind, n = struct.unpack_from("<IQ", self.data)
        at, found = 12, []
        for _ in range(n):
            size = struct.calcsize(FORMS[kind]) if kind != STRING else 8 + struct.unpack_from("<Q", self.data, at)[0]
            found.append(self.data[at : at + size])
            at += size
        return found


@dataclass(frozen=True)
class Tensor:
    """`n_dimensions` in place of the true count, where it is to lie."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    offset: int
    n_dimensions: int | None = None


@dataclass(frozen=True)
class Document:
    """`n_keys` and `n_tensors` in place of the true counts, where they are to lie. `data` is all after the header."""

    keys: tuple[tuple[bytes, Value], ...]
    tensors: tuple[Tensor, ...]
    data: bytes = field(repr=False)
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment: int = 32

    def value(self, key: bytes) -> Value:
        return dict(self.keys)[key]

    def with_key(self, key: bytes, value: Value | None) -> Document:
        """That key's value in the place of its own, or at the end; None takes it away."""
        if key not in dict(self.keys):
            return self if value is None else replace(self, keys=(*self.keys, (key, value)))
        kept = ((k, v if k != key else value) for k, v in self.keys)
        return replace(self, keys=tuple((k, v) for k, v in kept if v is not None))

    def with_tensor(self, index: int, tensor: Tensor) -> Document:
        return replace(self, tensors=(*self.tensors[:index], tensor, *self.tensors[index + 1 :]))

    def parts(self) -> list[bytes]:
        """The file in the pieces that it is made of."""
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        parts = [self.magic, struct.pack("<I", self.version), struct.pack("<Q", n_tensors), struct.pack("<Q", n_keys)]
        for key, value in self.keys:
            parts += [packed(key), struct.pack("<I", value.kind), value.data]
        for tensor in self.tensors:
            n = len(tensor.shape) if tensor.n_dimensions is None else tensor.n_dimensions
            parts += [
                packed(tensor.name),
                struct.pack("<I", n),
                struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape),
                struct.pack("<I", tensor.kind),
                struct.pack("<Q", tensor.offset),
            ]
        parts.append(bytes(-sum(map(len, parts)) % self.alignment))
        return [*parts, self.data]

    def to_bytes(self) -> bytes:
        return b"".join(self.parts())

    def seams(self) -> list[int]:
        """Where one piece ends and the next begins."""
        return list(accumulate(map(len, self.parts())))


def packed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def read_document(data: bytes) -> Document:
    """A right file taken apart."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def text() -> bytes:
        nonlocal at
        n = take("<Q")
        at += n
        return data[at - n : at]

    def value() -> Value:
        nonlocal at
        kind = take("<I")
        start = at
        if kind == STRING:
            text()
        elif kind == ARRAY:
            inner, n = take("<I"), take("<Q")
            if inner == STRING:
                for _ in range(n):
                    text()
            else:
                at += n * struct.calcsize(FORMS[inner])
        else:
            at += struct.calcsize(FORMS[kind])
        return Value(kind, data[start:at])

    assert data[:4] == b"GGUF"
    at = 4
    version, n_tensors, n_keys = take("<I"), take("<Q"), take("<Q")
    keys = tuple((text(), value()) for _ in range(n_keys))
    tensors = []
    for _ in range(n_tensors):
        name, n = text(), take("<I")
        shape = tuple(take("<Q") for _ in range(n))
        tensors.append(Tensor(name, shape, take("<I"), take("<Q")))
    return Document(keys, tuple(tensors), data[-(-at // 32) * 32 :], version=version)

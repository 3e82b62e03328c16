"""Read the header of a GGUF file within bounds. Knows the format; needs no C and trusts no length that it reads.

It comes before the C loader: a file that is not what it says is refused here with a reason that names the place, and
so is one that would end the process there (`gguf_laws`).
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamahost.core.errors import LoadFailed
from llamahost.native.gguf_laws import Claims, Tensor, fault_of

_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_KEY_BYTES = 1 << 16
_MAX_STRING_BYTES = 1 << 26
_MAX_ITEMS = 1 << 24
_MAX_TOKENS = 1 << 21  # the largest vocabularies have a quarter of a million
_MAX_DEPTH = 2
_MAX_DIMENSIONS = 8
_KEPT_ITEMS = 4096  # longer arrays (the vocabulary) are walked, so that a lie is found, and not kept

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_POSITIONS = "position_embd.weight"
_LEARNED = frozenset({"gpt2", "starcoder"})  # which have it always, though the first of several files may not tell


@dataclass(frozen=True, slots=True)
class LongArray:
    """Stands for an array too long to keep."""

    n: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says. `n_bytes` is the size of the file; `n_params` counts the elements of all tensors.

    `kinds` are GGUF's types of the metadata's values: C asks for a value by its type and aborts where it is another.
    """

    metadata: Mapping[str, object]
    n_params: int
    n_bytes: int
    kinds: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    data_at: int = 0

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only what stands before it."""
        return bool(self.metadata.get(f"{self.architecture}.attention.causal", True))

    @property
    def has_positions(self) -> bool:
        """Whether there is a table of positions, where the context that it was trained on ends."""
        return not self.is_causal or _POSITIONS in self.tensors or self.architecture in _LEARNED

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int = 0) -> int:
        """An integer of the architecture, such as `block_count`; of an array its largest."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, list):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return value if isinstance(value, int) else default


class _Reader:
    """Reads forward only, never past the end of the file. Over a memory map: nothing is held that is not asked for."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0
        self.n_bytes = len(data)

    def fail(self, reason: str) -> LoadFailed:
        return LoadFailed(f"{self._path} is not a usable GGUF file: {reason}")

    def _ends_within(self, what: str, n: int) -> LoadFailed:
        left = self.n_bytes - self._at
        return self.fail(f"it ends within {what} (wants {n} bytes, {left} are left); is the download complete?")

    def take(self, n: int, what: str) -> bytes:
        self.skip(n, what)
        return self._data[self._at - n : self._at]

    def skip(self, n: int, what: str) -> None:
        if n > self.n_bytes - self._at:
            raise self._ends_within(what, n)
        self._at += n

    def skip_strings(self, n: int, what: str) -> None:
        """Walk over n strings; a loop of its own, since a vocabulary has a hundred thousand."""
        data, end, at = self._data, self.n_bytes - 8, self._at
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(n):
            if at > end:
                raise self._ends_within(what, 8)
            at += 8 + unpack(data, at)[0]
        if at > self.n_bytes:
            raise self._ends_within(what, at - self._at)
        self._at = at

    @property
    def at(self) -> int:
        return self._at

    def strings(self, at: int) -> list[bytes]:
        """Those of an array of strings that was read there before; nothing of an array of anything else."""
        data, found = self._data, []
        kind, n = struct.unpack_from("<IQ", data, at)
        if n > _MAX_TOKENS:
            raise self.fail(f"its vocabulary claims {n} tokens")
        at += 12
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(n if kind == _STRING else 0):
            start = at + 8
            at = start + unpack(data, at)[0]
            found.append(data[start:at])
        return found

    def number(self, form: str, what: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form), what))[0])

    def string(self, what: str, limit: int) -> str:
        n = self.number("<Q", f"the length of {what}")
        if n > limit:
            raise self.fail(f"{what} claims {n} bytes")
        return self.take(n, what).decode("utf-8", "replace")


def _value(reader: _Reader, kind: int, what: str, depth: int = 0) -> object:
    if kind == _STRING:
        return reader.string(what, _MAX_STRING_BYTES)
    if kind == _ARRAY:
        return _array(reader, what, depth)
    form = _SCALARS.get(kind)
    if form is None:
        raise reader.fail(f"{what} has the unknown type {kind}")
    value: object = struct.unpack(form, reader.take(struct.calcsize(form), what))[0]
    return value


def _array(reader: _Reader, what: str, depth: int) -> object:
    if depth >= _MAX_DEPTH:
        raise reader.fail(f"{what} nests arrays too deeply")
    kind = reader.number("<I", what)
    n = reader.number("<Q", what)
    if n > _MAX_ITEMS:
        raise reader.fail(f"{what} claims {n} items")
    form = _SCALARS.get(kind)
    if form is not None:
        size = struct.calcsize(form)
        if n > _KEPT_ITEMS:
            reader.skip(n * size, what)
            return LongArray(n)
        return [item[0] for item in struct.iter_unpack(form, reader.take(n * size, what))]
    if n > _KEPT_ITEMS and kind == _STRING:
        reader.skip_strings(n, what)
        return LongArray(n)
    if kind not in (_STRING, _ARRAY):
        raise reader.fail(f"{what} has items of the unknown type {kind}")
    if n > _KEPT_ITEMS:
        raise reader.fail(f"{what} claims {n} arrays")
    return [_value(reader, kind, what, depth + 1) for _ in range(n)]


def _tensor(reader: _Reader, index: int) -> Tensor:
    what = f"tensor {index}"
    name = reader.string(f"the name of {what}", _MAX_KEY_BYTES)
    n_dimensions = reader.number("<I", what)
    if n_dimensions > _MAX_DIMENSIONS:
        raise reader.fail(f"tensor `{name}` claims {n_dimensions} dimensions")
    shape = struct.unpack(f"<{n_dimensions}Q", reader.take(8 * n_dimensions, what))
    kind = reader.number("<I", what)
    offset = reader.number("<Q", what)
    elements: int = math.prod(shape)
    if offset > reader.n_bytes:
        raise reader.fail(f"tensor `{name}` lies beyond the end of the file; is the download complete?")
    if elements > reader.n_bytes * 64:  # no type stores an element in less than an eighth of a bit
        raise reader.fail(f"tensor `{name}` claims {elements} elements")
    return Tensor(name, shape, kind, offset)


_N_HEADERS = 4
_headers: dict[tuple[object, ...], GgufHeader] = {}
"""The last ones that were read: a load looks at a file several times, and a large vocabulary takes half a second."""
_lock = threading.Lock()


def read_metadata(path: Path) -> GgufHeader:
    """The header of the file. Raises LoadFailed where it is missing, truncated, absurd or something else."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size < 4:
                raise LoadFailed(f"{path} is not a GGUF file: it is all but empty")
            key = (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            with _lock:
                known = _headers.get(key)
            if known is not None:
                return known
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _read(_Reader(path, data))
            with _lock:
                _headers[key] = header
                while len(_headers) > _N_HEADERS:
                    del _headers[next(iter(_headers))]
            return header
    except OSError as error:
        raise LoadFailed(f"cannot read {path}: {error.strerror or error}") from error


def _read(reader: _Reader) -> GgufHeader:
    magic = reader.take(4, "its first four bytes")
    if magic != b"GGUF":
        raise reader.fail(f"it begins with {magic!r} in place of b'GGUF'")
    version = reader.number("<I", "its version")
    if version not in (2, 3):
        raise reader.fail(f"its version is {version}; 2 and 3 are known")
    n_tensors = reader.number("<Q", "its counts")
    n_keys = reader.number("<Q", "its counts")
    if n_tensors > _MAX_TENSORS or n_keys > _MAX_KEYS:
        raise reader.fail(f"it claims {n_tensors} tensors and {n_keys} keys")
    metadata: dict[str, object] = {}
    kinds: dict[str, int] = {}
    tokens_at = 0
    for index in range(n_keys):
        key = reader.string(f"key {index}", _MAX_KEY_BYTES)
        if key in metadata:
            raise reader.fail(f"it has the key `{key}` twice")
        kind = reader.number("<I", f"`{key}`")
        if key == _TOKENS and kind == _ARRAY:
            tokens_at = reader.at
        kinds[key] = kind
        metadata[key] = _value(reader, kind, f"`{key}`")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise reader.fail(f"its alignment is {alignment!r:.40}")
    tensors = [_tensor(reader, index) for index in range(n_tensors)]
    data_at = -(-reader.at // alignment) * alignment
    header = GgufHeader(
        metadata=metadata,
        n_params=sum(math.prod(tensor.shape) for tensor in tensors),
        n_bytes=reader.n_bytes,
        kinds=kinds,
        tensors={tensor.name: tensor for tensor in tensors},
        data_at=data_at,
    )
    claims = Claims(
        architecture=header.architecture,
        metadata=metadata,
        tensors=tensors,
        data_at=data_at,
        tokens=lambda: reader.strings(tokens_at) if tokens_at else (),
    )
    if fault := fault_of(claims):
        raise reader.fail(fault)
    return header

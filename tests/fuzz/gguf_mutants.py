"""Wrong forms of a right GGUF file: every key, tensor, count, length and seam in turn, and several at once by dice."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.fuzz.gguf_changes import aligned
from tests.fuzz.gguf_document import (
    ARRAY,
    BOOL,
    F32,
    F64,
    FORMS,
    I8,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Document,
    Tensor,
    Value,
    packed,
)

Change = Callable[[Document], Document]
Named = tuple[str, Change]

COUNTS = (0, 1, 2**16, 2**20 + 1, 2**31, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (b"", b"\0", b" ", b"x", b"\xff\xfe", b"llama", b"gpt2", b"bert", b"t5", b"{{", b"{% for %}", b"x" * 70_000)
NUMBERS: dict[int, tuple[float, ...]] = {
    U8: (0, 1, 255),
    I8: (-128, -1, 127),
    U16: (0, 65535),
    U32: (0, 1, 2, 3, 5, 33, 512, 513, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1),
    I32: (-(2**31), -1, 0, 1, 2, 3, 4, 5, 6, 2**31 - 1),
    U64: (0, 1, 2**32, 2**63, 2**64 - 1),
    I64: (-(2**63), -1, 0, 2**63 - 1),
    F32: (0.0, -1.0, 1e-45, 1e-5, 3e38, float("inf"), float("-inf"), float("nan")),
    F64: (0.0, -1.0, 1e308, float("nan")),
    BOOL: (False, True),
}

MORE_KEYS = (
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.count",
    "split.no",
    "split.tensors.count",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.eog_token_ids",
    "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
    "general.sampling.top_k",
    "general.sampling.temp",
    "general.sampling.sequence",
    "tokenizer.chat_template.tool_use",
    "A.attention.causal",
    "A.pooling_type",
    "A.attention.key_length",
    "A.attention.value_length",
    "A.attention.key_length_swa",
    "A.attention.layer_norm_epsilon",
    "A.attention.sliding_window",
    "A.attention.sliding_window_pattern",
    "A.attention.max_alibi_bias",
    "A.attention.clamp_kqv",
    "A.attention.scale",
    "A.attention.shared_kv_layers",
    "A.attention.indexer.head_count",
    "A.rope.freq_base",
    "A.rope.scaling.type",
    "A.rope.scaling.factor",
    "A.rope.scaling.original_context_length",
    "A.rope.scaling.yarn_log_multiplier",
    "A.rope.dimension_sections",
    "A.rope.dimension_count",
    "A.rope.scale_linear",
    "A.expert_count",
    "A.expert_used_count",
    "A.expert_group_count",
    "A.expert_group_used_count",
    "A.expert_feed_forward_length",
    "A.expert_weights_scale",
    "A.nextn_predict_layers",
    "A.leading_dense_block_count",
    "A.vocab_size",
    "A.logit_scale",
    "A.residual_scale",
    "A.embedding_scale",
    "A.embedding_length_out",
    "A.final_logit_softcapping",
    "A.use_parallel_residual",
    "A.classifier.output_labels",
    "A.ssm.group_count",
    "A.ssm.inner_size",
    "A.wkv.head_size",
    "A.swin_norm",
    "A.decoder_start_token_id",
    "A.decoder_block_count",
)
"""Keys that llama.cpp reads and that the models here do not hold; `A` stands for the architecture."""

N_TENSOR_KINDS = 48


def changes(document: Document) -> Iterator[Named]:
    """Each wrong in one place."""
    yield from _header_changes()
    for key, value in document.keys:
        yield from _key_changes(key, value)
    yield from _more_keys(document)
    for index, tensor in enumerate(document.tensors):
        yield from _tensor_changes(index, tensor, document)
    yield from _data_changes()


def scrambled(document: Document, known: Sequence[Named], seed: int) -> tuple[str, bytes]:
    """Some of the `known` changes one after the other, and perhaps some bytes of the header."""
    dice = random.Random(seed)
    chosen = dice.sample(known, dice.randint(0, 3))
    for _, change in chosen:
        document = change(document)
    data = bytearray(document.to_bytes())
    n_header = len(data) - len(document.data)
    n_flips = dice.choice((0, 0, 1, 2, 8)) if chosen else dice.choice((1, 2, 8))
    for _ in range(n_flips if n_header > 0 else 0):
        data[dice.randrange(min(n_header, 600) if dice.random() < 0.5 else n_header)] = dice.randrange(256)
    name = " + ".join(name for name, _ in chosen)
    return f"{seed}: {name} + {n_flips} bytes", bytes(
        data[: dice.randrange(len(data))] if dice.random() < 0.1 else data
    )


def having(**fields: object) -> Change:
    return lambda d: replace(d, **fields)  # type: ignore[arg-type]  # fields by name


def counted(more_keys: int, more_tensors: int) -> Change:
    """Claims so many more than there are."""
    return lambda d: replace(d, n_keys=len(d.keys) + more_keys, n_tensors=len(d.tensors) + more_tensors)


def keyed(key: bytes, value: Value | None) -> Change:
    return lambda d: d.with_key(key, value)


def filled(unit: bytes) -> Change:
    return lambda d: replace(d, data=unit * (len(d.data) // len(unit)))


def cut(n: int) -> Change:
    return lambda d: replace(d, data=d.data[:n])


def _header_changes() -> Iterator[Named]:
    for magic in (b"GGML", b"gguf", b"FUGG", b"\0\0\0\0"):
        yield f"magic {magic!r}", having(magic=magic)
    for version in (0, 1, 2, 4, 3 << 24, 2**32 - 1):
        yield f"version {version}", having(version=version)
    for n in COUNTS:
        yield f"{n} keys", having(n_keys=n)
        yield f"{n} tensors", having(n_tensors=n)
    for more in (-1, 1):
        yield f"{more} keys", counted(more, 0)
        yield f"{more} tensors", counted(0, more)
    for alignment in (1, 2, 8, 16, 64, 4096):
        yield f"aligned to {alignment}", aligned(alignment)


def _key_changes(key: bytes, value: Value) -> Iterator[Named]:
    told = key.decode()
    yield f"{told} taken away", keyed(key, None)
    yield f"{told} twice", lambda d: replace(d, keys=(*d.keys, (key, value)))
    yield f"{told} renamed to nothing", lambda d: replace(d, keys=_renamed(d, key, b""))
    for kind in (*range(14), 2**31, 2**32 - 1):
        if kind != value.kind:  # the same bytes, read as something else
            yield f"{told} as type {kind}", keyed(key, Value(kind, value.data))
    for name, other in _values():
        yield f"{told} = {name}", keyed(key, other)
    if value.kind == ARRAY:
        for name, other in _arrays(value):
            yield f"{told}: {name}", keyed(key, other)
    if value.kind == STRING:
        for n in COUNTS:
            lie = Value(STRING, struct.pack("<Q", n) + value.data[8:])
            yield f"{told}: length {n}", keyed(key, lie)


def _more_keys(document: Document) -> Iterator[Named]:
    architecture = document.value(b"general.architecture").data[8:].decode()
    held = {key for key, _ in document.keys}
    for name in MORE_KEYS:
        key = name.replace("A.", f"{architecture}.", 1).encode() if name.startswith("A.") else name.encode()
        if key not in held:
            for told, value in _values():
                yield f"{key.decode()} = {told}", keyed(key, value)


def _values() -> Iterator[tuple[str, Value]]:
    """Values of every type."""
    for kind, numbers in NUMBERS.items():
        for number in numbers:
            yield f"{FORMS[kind]} {number}", Value.scalar(kind, number)
    for text in TEXTS:
        yield f"text {text[:10]!r}", Value.text(text)
    for kind in (U8, I32, U32, F32, BOOL, U64):
        for n in (0, 1, 2, 3, 513):
            for number in NUMBERS[kind][-2:]:
                yield (
                    f"{n} of {FORMS[kind]} {number}",
                    Value.array(kind, [struct.pack(FORMS[kind], number)] * n),
                )
    for n in (0, 1, 600):
        yield f"{n} texts", Value.array(STRING, [packed(b"a")] * n)
    yield "arrays", Value.array(ARRAY, [Value.array(U32, [bytes(4)]).data] * 2)
    deep = Value.array(U32, [bytes(4)]).data
    for _ in range(1000):
        deep = Value.array(ARRAY, [deep]).data
    yield "deep arrays", Value(ARRAY, deep)


def _arrays(value: Value) -> Iterator[tuple[str, Value]]:
    """Of the same items, fewer, more, others, and lies about their number."""
    kind = value.item_kind
    assert kind is not None
    items = value.items
    yield "no items", Value.array(kind, [])
    yield "an item less", Value.array(kind, items[:-1])
    yield "an item more", Value.array(kind, [*items, items[0]])
    yield "half the items", Value.array(kind, items[: len(items) // 2])
    yield "twice the items", Value.array(kind, items * 2)
    yield "all the same", Value.array(kind, items[:1] * len(items))
    yield "backwards", Value.array(kind, items[::-1])
    for n in COUNTS:
        yield f"{n} items claimed", Value.array(kind, items, n)
    for other in (*range(14), 2**31):
        yield f"items of type {other}", Value(ARRAY, struct.pack("<I", other) + value.data[4:])
    if kind == STRING:
        for text in TEXTS:
            yield f"an item {text[:10]!r}", Value.array(kind, [packed(text), *items[1:]])
            yield f"the last item {text[:10]!r}", Value.array(kind, [*items[:-1], packed(text)])
            yield f"items {text[:10]!r}", Value.array(kind, [packed(text[:100])] * len(items))
        for n in COUNTS:
            yield f"an item of length {n}", Value.array(kind, [struct.pack("<Q", n) + items[0][8:], *items[1:]])
    else:
        for number in NUMBERS.get(kind, ()):
            one = struct.pack(FORMS[kind], number)
            yield f"an item {number}", Value.array(kind, [*items[:-1], one])
            yield f"items {number}", Value.array(kind, [one] * len(items))


def _tensor_changes(index: int, tensor: Tensor, document: Document) -> Iterator[Named]:
    told = tensor.name.decode()

    def to(name: str, changed: Tensor) -> Named:
        return f"{told} {name}", lambda d: d.with_tensor(index, changed)

    yield f"{told} taken away", lambda d: replace(d, tensors=(*d.tensors[:index], *d.tensors[index + 1 :]))
    yield f"{told} twice", lambda d: replace(d, tensors=(*d.tensors, tensor))
    for name in (b"", b"\0", b"\xff", b"x" * 63, b"x" * 64, b"x" * 70_000, document.tensors[0].name, b"blk.9.x"):
        yield to(f"named {name[:10]!r}", replace(tensor, name=name))
    n_rows = len(tensor.shape)
    shapes = {
        "shape reversed": tensor.shape[::-1],
        "a dimension less": tensor.shape[:-1],
        "a dimension of 1 more": (*tensor.shape, 1),
        "five dimensions": (*tensor.shape, 1, 1, 1, 1)[:5],
        "no dimension": (),
        **{f"dimension 0 is {n}": (n, *tensor.shape[1:]) for n in (0, 1, 31, 32, 2**31, 2**62, 2**63, 2**64 - 1)},
        **{f"last dimension is {n}": (*tensor.shape[:-1], n) for n in (0, 1, 2, 2**31, 2**62, 2**64 - 1)},
        "half": (*tensor.shape[:-1], tensor.shape[-1] // 2),
        "huge twice": (2**32, 2**32),
    }
    for how, shape in shapes.items():
        yield to(how, replace(tensor, shape=shape))
    for n in (0, n_rows - 1, n_rows + 1, 5, 9, 2**31, 2**32 - 1):
        yield to(f"claims {n} dimensions", replace(tensor, n_dimensions=n))
    for kind in (*range(N_TENSOR_KINDS), 2**31, 2**32 - 1):
        if kind != tensor.kind:
            yield to(f"of type {kind}", replace(tensor, kind=kind))
    end = len(document.data)
    for offset in (0, 1, tensor.offset + 1, tensor.offset + 32, end - 32, end, end + 32, 2**40, 2**63, 2**64 - 32):
        if offset != tensor.offset:
            yield to(f"at {offset}", replace(tensor, offset=offset))


def _data_changes() -> Iterator[Named]:
    for name, unit in (("zeros", b"\0"), ("ones", b"\xff"), ("NaN", b"\0\0\xc0\x7f"), ("inf", b"\0\0\x80\x7f")):
        yield f"weights of {name}", filled(unit)
    yield "weights of noise", lambda d: replace(d, data=random.Random(0).randbytes(len(d.data)))
    for n in (0, 1, 31, 32, 33):
        yield f"{n} bytes of weights", cut(n)
    yield "a byte of weights less", cut(-1)
    yield "more behind the weights", lambda d: replace(d, data=d.data + bytes(100))


def _renamed(document: Document, key: bytes, name: bytes) -> tuple[tuple[bytes, Value], ...]:
    return tuple((name if k == key else k, v) for k, v in document.keys)

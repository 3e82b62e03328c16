"""What llama.cpp takes for granted of a GGUF's header, and ends the process over where it does not hold.

Each law was found by a file that broke it. Where llama.cpp refuses by itself, nothing is said here. Knows keys, tensors
and tokens that were read; reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_WINDOW = 1 << 24  # an index of so many cells is made; 2**31 was 8 GiB
ALIGNMENT = 32  # TENSOR_ALIGNMENT: ggml asserts it of every tensor's address

_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_NEED_EXPERTS = frozenset({"bailingmoe2", "glm4moe", "grovemoe", "llada-moe", "lfm2moe", "smallthinker"})
_TWICE_AS_WIDE = frozenset({"granitehybrid", "jamba"})  # their inner size, and llama.cpp asserts that it is

_F32 = 0
_NO_WEIGHTS = {9: "q8_1", 15: "q8_K", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64"}
"""Types that ggml has and multiplies nothing by."""
_TABLES = ("d2t", "tid2eid")  # of token ids, which are whole numbers
_OF_STATES = ("ssm_a", "ssm_d", "ssm_conv1d.weight")

_BYTES = tuple(f"<0x{byte:02X}>".encode() for byte in range(256))


class Tensor(NamedTuple):
    """What the header says of a tensor. A named tuple: there are thousands."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Claims:
    """All that a header says. `tokens` is empty where there are none, and read where it is asked for alone."""

    architecture: str
    metadata: Mapping[str, object]
    tensors: Sequence[Tensor]
    data_at: int
    tokens: Callable[[], Sequence[bytes]]

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of the architecture; of a list the largest. What is none, llama.cpp refuses."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return int(value) if isinstance(value, int) else default


def fault_of(claims: Claims) -> str:
    """The first law that is broken, as a reason; empty where none is."""
    laws = (_layers, _experts, _numbers, _rotation, _alignment, _types, _tokens)
    return next((fault for law in laws for fault in law(claims)), "")


def _layers(claims: Claims) -> Iterator[str]:
    n = claims.number("block_count", 1)
    if not 1 <= n <= MAX_LAYERS:
        yield f"it claims {n} layers; between 1 and {MAX_LAYERS} can be"
    if claims.number("nextn_predict_layers") > n:
        yield f"of its {n} layers, {claims.number('nextn_predict_layers')} are to predict further tokens"


def _experts(claims: Claims) -> Iterator[str]:
    n, n_used = claims.number("expert_count"), claims.number("expert_used_count")
    n_groups, n_groups_used = claims.number("expert_group_count"), claims.number("expert_group_used_count")
    if claims.architecture.startswith("hunyuan") and n <= 1:
        return  # there one expert is written for none
    if not 0 <= n <= MAX_EXPERTS:
        yield f"it claims {n} experts; at most {MAX_EXPERTS} can be"
    if not 0 <= n_used <= n:
        yield f"of its {n} experts, {n_used} are to be used"
    if n == 0 and claims.architecture in _NEED_EXPERTS:
        yield f"it has no experts, which a model of the kind {claims.architecture} cannot do without"
    if n > 0 and n_used == 0:
        yield f"of its {n} experts none is used"
    if n_groups >= max(n, 1):
        yield f"its {n} experts are in {n_groups} groups"
    elif n_groups > 1 and (n % n_groups or not 0 < n_groups_used < n_groups):
        yield f"its {n} experts are in {n_groups} groups, of which {n_groups_used} are used"


def _numbers(claims: Claims) -> Iterator[str]:
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon"):
        epsilon = claims.metadata.get(f"{claims.architecture}.{key}", 0.0)
        if isinstance(epsilon, float) and not (0.0 <= epsilon < math.inf):
            yield f"its {key} is {epsilon}"
    if not 0 <= claims.number("attention.sliding_window") <= MAX_WINDOW:
        yield f"it claims a sliding window of {claims.number('attention.sliding_window')} tokens"
    pattern = claims.metadata.get(f"{claims.architecture}.attention.sliding_window_pattern")
    if pattern == 1 or (isinstance(pattern, list) and not any(pattern)):  # a number n: but each n-th layer
        yield "its attention.sliding_window_pattern has no layer with a window"
    inner = claims.number("ssm.inner_size")
    if claims.architecture in _TWICE_AS_WIDE and inner != 2 * claims.number("embedding_length"):
        yield f"its ssm.inner_size is {inner}, which must be twice the embedding_length"


def _rotation(claims: Claims) -> Iterator[str]:
    scaling = claims.metadata.get(f"{claims.architecture}.rope.scaling.type", "none")
    if isinstance(scaling, str) and scaling not in _ROPE_SCALING:
        yield f"its rope.scaling.type is {scaling[:40]!r}; known are {', '.join(_ROPE_SCALING)}"
    widest = max(claims.number("embedding_length"), claims.number("attention.key_length"))
    for key in ("rope.dimension_count", "rope.dimension_count_swa"):
        n = claims.number(key)
        if n % 2 or not 0 <= n <= widest:
            yield f"its {key} is {n}, which must be even and at most {widest}"


def _alignment(claims: Claims) -> Iterator[str]:
    for tensor in claims.tensors:
        if (claims.data_at + tensor.offset) % ALIGNMENT:
            yield f"tensor `{tensor.name}` is not aligned to {ALIGNMENT} bytes"


def _types(claims: Claims) -> Iterator[str]:
    for name, _, kind, _ in claims.tensors:
        if kind == _F32 or any(table in name for table in _TABLES):
            continue
        if kind in _NO_WEIGHTS:
            yield f"tensor `{name}` has the type {_NO_WEIGHTS[kind]}, which no weights have"
        elif name.endswith((*_OF_STATES, "norm.weight", ".bias")):
            # converters write them so, quantisers leave them alone, and CPUs take nothing else
            yield f"tensor `{name}` is of ggml's type {kind}, where f32 is needed"


def _tokens(claims: Claims) -> Iterator[str]:
    tokens = claims.tokens()
    known: Collection[bytes] = {token for token in tokens if token}  # llama.cpp gives the empty ones names
    if len(known) + sum(not token for token in tokens) != len(tokens):
        yield "its vocabulary has a token twice"
    if claims.metadata.get("tokenizer.ggml.model") == "llama":
        for byte, name in enumerate(_BYTES):
            if name not in known and bytes([byte]) not in known:
                yield f"its vocabulary has no token for the byte {byte}, so there are texts that it cannot read"

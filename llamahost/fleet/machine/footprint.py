"""How much memory a model of a shape takes, by what its file's header says. Pure arithmetic; opens nothing.

What llama.cpp allocates: the weights as they lie in the file, a KV of cells, the graph's largest intermediate values
and a row of logits for each that a step may ask for. The terms were found by comparing with what its log tells.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamahost.core.sizes import bytes_told
from llamahost.fleet.machine.fit import DEFAULT_N_CTX, Shape
from llamahost.fleet.settings.manifest import ModelSpec, Task
from llamahost.native.embed_batch import EmbedBatch

N_ROWS = 64
"""Rows of logits in a step, unless there are more slots: what native/context asks for."""

_N_ACTIVATIONS = 6.7
"""Of the width of a layer that live at once beside the two of its feed-forward's."""

_MASK, _SCORE, _FLOAT = 2, 4, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a header says that costs memory. Bytes are those in the file; `layers` are in order.

    `cell_bytes` is the KV of one token in all layers, `state_bytes` a slot's recurrent state. A file of which nothing
    is known takes nothing.
    """

    task: Task = "auto"
    generates: bool = True
    n_ctx_train: int = 0
    has_positions: bool = False  # in a table, which ends there
    layers: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()  # of each layer's bytes, those of its experts
    matrix_bytes: tuple[int, ...] = ()  # of each layer's largest tensor that is not of its experts
    expert_bytes: tuple[int, ...] = ()  # of each layer's largest tensor that is
    input_bytes: int = 0  # of the table of tokens, which stays with the host
    aside_bytes: int = 0  # of other tables like it, such as those by layer of Gemma 3n
    rest_bytes: int = 0  # output and whatever belongs to no layer
    has_pieces: bool = False  # it may embed what is longer than a step piece by piece
    is_tied: bool = False  # the table of tokens is the output too, of which a GPU then has a copy
    cell_bytes: float = 0.0
    state_bytes: int = 0
    n_embd: int = 0
    n_ff: int = 0  # as wide as a token's way through a feed-forward is, experts together
    n_head: int = 0
    n_vocab: int = 0
    output_kind: int = 0  # ggml_type of the output's matrix
    adapter_bytes: int = 0  # of the spec's adapters together
    stamp: object = None  # another file has another one
    path: Path | None = None  # where it lies, once that is known

    @property
    def weights_bytes(self) -> int:
        return sum(self.layers) + self.input_bytes + self.aside_bytes + self.rest_bytes

    @property
    def is_known(self) -> bool:
        return self.weights_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on one device, or of a whole model."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    def told(self) -> str:
        parts = (("weights", self.weights_bytes), ("KV", self.kv_bytes), ("compute", self.compute_bytes))
        return f"{bytes_told(self.total_bytes)} ({', '.join(f'{what} {bytes_told(n)}' for what, n in parts)})"


def shape_of_inputs(spec: ModelSpec, facts: FileFacts) -> Shape:
    """Of a model that only embeds: one input's tokens in one slot."""
    n_ctx = spec.n_ctx or min(facts.n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    if facts.has_positions and facts.n_ctx_train:
        n_ctx = min(n_ctx, facts.n_ctx_train)
    return Shape(n_ctx=n_ctx, n_slots=1, n_cells=n_ctx, is_unified=True)


def footprint(spec: ModelSpec, facts: FileFacts, shape: Shape) -> Footprint:
    """Of the whole model, wherever its parts lie."""
    cells = _padded(shape.n_cells) if shape.is_unified else _padded(shape.n_ctx) * shape.n_slots
    kv = int(facts.cell_bytes * cells) + facts.state_bytes * shape.n_slots if facts.generates else 0
    compute = _compute(spec, facts, shape) if facts.generates else 0
    if spec.embeddings or not facts.generates:
        batch = EmbedBatch.of(shape.n_ctx, spec.n_ubatch, facts.n_vocab, can_split=facts.has_pieces)
        n_kv = _padded(max(shape.n_ctx, batch.n_tokens))
        kv += int(facts.cell_bytes * n_kv)
        compute += _graph(spec, facts, n_kv, batch.n_tokens) + batch.output_bytes(facts.n_vocab, facts.n_embd)
    return Footprint(weights_bytes=facts.weights_bytes, kv_bytes=kv, compute_bytes=compute)


def on_device(facts: FileFacts, whole: Footprint, n_gpu_layers: int, n_cpu_moe: int) -> tuple[Footprint, Footprint]:
    """What of it goes to GPUs and what stays with the host: the last layers go first, the output with the very last.

    Tables of tokens stay in the file's pages, which the system takes back when it must: they count for nobody.
    """
    n_layer = len(facts.layers)
    parts = parts_there(facts, whole, n_gpu_layers, n_cpu_moe)
    first = n_layer - max(0, len(parts) - 1)  # of the layers that are there
    # Weights of the host are lent to the GPU where a prompt is computed, one at a time: ggml's scheduler begins a split
    # with each, so that the next may lie where it lay. Of experts all have room there, though few are copied.
    lent = facts.matrix_bytes[:first] + facts.expert_bytes[: max(first, n_cpu_moe)]
    there = Footprint(
        weights_bytes=sum(part.weights_bytes for part in parts),
        kv_bytes=int(whole.kv_bytes * (n_layer - first) / n_layer) if n_layer else whole.kv_bytes,
        compute_bytes=whole.compute_bytes + max(lent, default=0) if parts else 0,
    )
    inputs = facts.input_bytes + facts.aside_bytes
    copied = facts.input_bytes * facts.is_tied if parts else 0  # of what stays here too
    here = Footprint(
        weights_bytes=max(0, facts.weights_bytes + facts.adapter_bytes - inputs - (there.weights_bytes - copied)),
        kv_bytes=whole.kv_bytes - there.kv_bytes,
        compute_bytes=0 if len(parts) > n_layer else whole.compute_bytes,  # where layers are, there are their values
    )
    return there, here


def parts_there(facts: FileFacts, whole: Footprint, n_gpu_layers: int, n_cpu_moe: int) -> list[Footprint]:
    """What goes to GPUs, in pieces that stay whole: layers in order, then the output, which llama.cpp counts as one."""
    n_layer = len(facts.layers)
    n = n_layer + 1 if n_gpu_layers < 0 else min(n_gpu_layers, n_layer + 1)
    if not n:
        return []
    parts = []
    for k in range(n_layer - (n - 1), n_layer):
        weights = facts.layers[k] - (facts.experts[k] if k < min(n_cpu_moe, len(facts.experts)) else 0)
        # an adapter lies with the layers that it changes; the differences of its ends come to all of it
        adapter = facts.adapter_bytes * (k + 1) // n_layer - facts.adapter_bytes * k // n_layer
        parts.append(Footprint(weights_bytes=weights + adapter, kv_bytes=whole.kv_bytes // n_layer))
    return [*parts, Footprint(weights_bytes=facts.rest_bytes + facts.input_bytes * facts.is_tied)]


def divided(parts: Sequence[Footprint], shares: Sequence[float]) -> tuple[int, ...]:
    """How many of the parts each device is best given, so that each has its share of the bytes."""
    ends = [sum(shares[: k + 1]) / sum(shares) for k in range(len(shares) - 1)]
    total, before = sum(part.total_bytes for part in parts), 0
    counts = [0] * len(shares)
    for part in parts:
        counts[bisect.bisect_right(ends, (before + part.total_bytes / 2) / max(1, total))] += 1
        before += part.total_bytes
    return tuple(counts)


def counted(n_parts: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many llama.cpp gives each device: by their number, as if all were of a size. With counts for shares it gives
    just these.
    """
    ends = [sum(shares[: k + 1]) / sum(shares) for k in range(len(shares) - 1)]
    counts = [0] * len(shares)
    for k in range(n_parts):
        counts[bisect.bisect_right(ends, k / n_parts)] += 1
    return tuple(counts)


def pipelined_bytes(spec: ModelSpec, facts: FileFacts, shape: Shape) -> int:
    """What each of several devices takes for steps that begin while others compute: three more copies of its inputs."""
    n_tokens = min(spec.n_ubatch, spec.n_batch)
    mask = _padded(shape.n_cells if shape.is_unified else shape.n_ctx) * (
        _FLOAT if spec.flash_attention == "off" else _MASK
    )
    return 3 * n_tokens * (mask + 2 * facts.n_embd * _FLOAT)


def _compute(spec: ModelSpec, facts: FileFacts, shape: Shape) -> int:
    n_kv = _padded(shape.n_cells if shape.is_unified else shape.n_ctx)
    graph = _graph(spec, facts, n_kv, min(spec.n_ubatch, max(spec.n_batch, 1)))
    rows = max(shape.n_slots, N_ROWS) * facts.n_vocab * _FLOAT
    return max(graph, rows) + shape.n_slots * facts.n_vocab * _FLOAT


def _graph(spec: ModelSpec, facts: FileFacts, n_kv: int, n_tokens: int) -> int:
    """What lives at once of so many tokens, each of which is compared with so many cells."""
    values = n_tokens * _FLOAT * (2 * facts.n_ff + _N_ACTIVATIONS * facts.n_embd)
    if spec.flash_attention == "off":
        return int(0.6 * values) + n_tokens * n_kv * (_SCORE * facts.n_head + _FLOAT)
    return int(values) + n_tokens * n_kv * _MASK


def _padded(n_cells: int) -> int:
    """As many as llama.cpp makes of them."""
    return -(-n_cells // 256) * 256

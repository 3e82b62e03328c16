"""A llama_context and its batch. Knows C's limits and checks them first, since C ends the process over most of them.

Owned by one worker thread after it is made.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, le, lt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError, LoadFailed
from llamahost.core.work import Span, Streams
from llamahost.native.gguf import GgufHeader
from llamahost.native.library import TENSOR_TYPES, LogTap, buffers_in, splits_in
from llamahost.native.model import Model

FlashAttention = Literal["auto", "on", "off"]
RopeScaling = Literal["auto", "none", "linear", "yarn", "longrope"]

MAX_SLOTS = 256  # LLAMA_MAX_SEQ
MAX_BATCH = 1 << 20
MAX_THREADS = 512  # GGML_MAX_N_THREADS
_MIN_OUTPUTS = 64
FLASH = {"auto": -1, "off": 0, "on": 1}
ROPE_SCALINGS = {"auto": -1, "none": 0, "linear": 1, "yarn": 2, "longrope": 3}  # llama_rope_scaling_type
YARN = ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5,
    "iq4_nl": 4.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """How a context is made. `n_ctx` is what one sequence may hold; `n_cells` what all may (None: n_ctx * n_slots).

    `n_threads` 0 leaves llama.cpp's default. `n_rows` is how many rows of logits a step may ask for (None: enough for
    one a slot, and 64): each costs a row of the vocabulary in memory, and scoring a prompt takes a step for so many.
    """

    n_ctx: int
    n_slots: int = 1
    n_cells: int | None = None
    is_unified: bool = False
    n_batch: int = 2048
    n_ubatch: int = 512
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: FlashAttention = "auto"
    n_threads: int = 0
    n_threads_batch: int = 0
    swa_full: bool = True
    n_rows: int | None = None
    rope_freq_base: float = 0.0  # 0: the file's own
    rope_freq_scale: float = 0.0
    rope_scaling: RopeScaling = "auto"
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0  # negative: the file's own, as with all that follow
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0

    def __post_init__(self) -> None:
        if not 1 <= self.n_slots <= MAX_SLOTS:
            raise LoadFailed(f"n_slots must be between 1 and {MAX_SLOTS}, not {self.n_slots}")
        if not 1 <= self.n_ctx < 2**31 or not 1 <= self.cells < 2**31:
            raise LoadFailed(f"a context of {self.n_ctx} positions in {self.n_slots} slots cannot be made")
        if not self.is_unified and self.cells != self.n_ctx * self.n_slots:
            raise LoadFailed("a split KV holds n_ctx cells for each slot; only a unified one has an n_cells of its own")
        if self.is_unified and self.cells < self.n_ctx:
            raise LoadFailed(f"n_cells {self.cells} must hold one sequence of n_ctx {self.n_ctx}")
        if self.n_batch < self.n_slots:
            raise LoadFailed(f"n_batch {self.n_batch} must hold a token of each of the {self.n_slots} slots")
        for name, value, low, high in (
            ("n_batch", self.n_batch, 1, MAX_BATCH),
            ("n_ubatch", self.n_ubatch, 1, MAX_BATCH),
            ("n_threads", self.n_threads, 0, MAX_THREADS),
            ("n_threads_batch", self.n_threads_batch, 0, MAX_THREADS),
            ("n_rows", self.rows, 1, MAX_BATCH),
            ("yarn_orig_ctx", self.yarn_orig_ctx, 0, 2**31 - 1),
        ):
            if not low <= value <= high:  # beyond 32 bits ctypes would cut them silently
                raise LoadFailed(f"{name} must be between {low} and {high}, not {value}")
        for name, factor in (("rope_freq_base", self.rope_freq_base), ("rope_freq_scale", self.rope_freq_scale)):
            if not 0.0 <= factor <= 1e12:  # also what is no number
                raise LoadFailed(f"{name} must be between 0 and 1e12, not {factor}")
        for name in YARN:
            if not -1.0 <= getattr(self, name) <= 1e6:
                raise LoadFailed(f"{name} must be between 0 and 1e6, not {getattr(self, name)}")
        for kind in (self.kv_type_k, self.kv_type_v):
            if kind not in TENSOR_TYPES:
                raise LoadFailed(f"unknown KV type `{kind}`; the known ones are {', '.join(TENSOR_TYPES)}")

    @property
    def cells(self) -> int:
        return self.n_ctx * self.n_slots if self.n_cells is None else self.n_cells

    @property
    def rows(self) -> int:
        # the output buffer is reserved for one row a slot, and C aborts when that is more than the limit
        return max(self.n_slots, min(_MIN_OUTPUTS, self.n_batch) if self.n_rows is None else self.n_rows)


_WITHOUT_KV = frozenset({
    "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
    "gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1",
})  # fmt: skip
"""Architectures to which llama.cpp gives no memory: each token sees those of its step."""


def kv_bytes_per_token(header: GgufHeader, kv_type_k: str = "f16", kv_type_v: str = "f16") -> float:
    """KV bytes of one position in one slot, by the header; recurrent layers hold none a position."""
    n_layer = header.number("block_count")
    n_head = header.number("attention.head_count")
    if n_layer <= 0 or n_head <= 0 or header.architecture in _WITHOUT_KV:
        return 0.0
    head = header.number("embedding_length") // n_head
    heads_kv = header.metadata.get(f"{header.architecture}.attention.head_count_kv")  # a number, or one a layer
    if isinstance(heads_kv, list):
        total_heads = sum(n for n in heads_kv if isinstance(n, int))
    else:
        total_heads = n_layer * header.number("attention.head_count_kv", n_head)
    bits_k = header.number("attention.key_length", head) * _BITS.get(kv_type_k, 16.0)
    bits_v = header.number("attention.value_length", head) * _BITS.get(kv_type_v, 16.0)
    return total_heads * (bits_k + bits_v) / 8


class Context:
    """Owned by one worker thread. A llama_context, its memory, and one batch that is filled anew each step."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        self.library = model.library
        self._model = model
        self.c = c = model.library.c
        self.options = options
        model.check_positions(options.n_ctx)
        if model.is_split_by_tensor and not options.is_unified and options.n_slots > 1:
            raise LoadFailed('split_mode = "tensor" wants a unified KV')  # C ends the process over two slots in a step
        params = c.llama_context_default_params()
        params.n_ctx = options.cells
        params.n_batch = options.n_batch
        params.n_ubatch = min(options.n_ubatch, options.n_batch)
        params.n_seq_max = options.n_slots
        params.n_outputs_max = options.rows
        if options.n_threads > 0:
            params.n_threads = options.n_threads
        if options.n_threads_batch > 0 or options.n_threads > 0:
            params.n_threads_batch = options.n_threads_batch or options.n_threads
        params.flash_attn_type = FLASH[options.flash_attention]
        params.type_k = TENSOR_TYPES[options.kv_type_k]
        params.type_v = TENSOR_TYPES[options.kv_type_v]
        params.swa_full = options.swa_full
        params.kv_unified = options.is_unified
        params.rope_freq_base = options.rope_freq_base
        params.rope_freq_scale = options.rope_freq_scale
        params.rope_scaling_type = ROPE_SCALINGS[options.rope_scaling]
        params.yarn_orig_ctx = options.yarn_orig_ctx
        for name in YARN:
            setattr(params, name, getattr(options, name))
        params.offload_kqv = True
        params.no_perf = True
        with LogTap() as lines:
            pointer = c.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise LoadFailed(f"cannot make a context for {model.path.name}: {reason_of(lines)}")
        self.pointer: int | None = pointer
        self.buffers = buffers_in(lines)
        self.n_splits = splits_in(lines)
        has_none = any("Flash Attention not supported" in line or "forcing off" in line for line in lines)
        self.has_flash_attention = options.flash_attention != "off" and not has_none
        self.memory = c.llama_get_memory(pointer)
        if not self.memory:
            self.close()
            raise LoadFailed(f"{model.path.name} ({model.architecture}) keeps no KV: it embeds text, it does not write")
        self.n_batch: int = min(options.n_batch, c.llama_n_batch(pointer))
        self.n_rows = options.rows
        self.n_ctx_seq: int = c.llama_n_ctx_seq(pointer)
        self.batch = Batch(c, self.n_batch, options.n_slots)

    # --- memory; slots are in range by the caller's check ---

    def pos_max(self, slot: int) -> int:
        return int(self.c.llama_memory_seq_pos_max(self.memory, slot))

    def truncate(self, slot: int, n: int) -> bool:
        """Keep [0, n); False when the memory cannot be cut there."""
        return bool(self.c.llama_memory_seq_rm(self.memory, slot, n if n > 0 else -1, -1))

    def copy(self, source: int, target: int, n: int) -> None:
        """[0, n) by reference in a unified KV; else the whole slot (C aborts on part of one), at the next decode."""
        self.c.llama_memory_seq_cp(self.memory, source, target, -1, n if self.options.is_unified else -1)

    def clear(self) -> None:
        self.c.llama_memory_clear(self.memory, False)

    def decode(self) -> int:
        return int(self.c.llama_decode(self.pointer, self.batch.struct))

    def synchronize(self) -> None:
        self.c.llama_synchronize(self.pointer)

    def close(self) -> None:
        """Free the context. Idempotent."""
        pointer, self.pointer = self.pointer, None
        if pointer is not None and not self._model.is_forsaken:
            self.c.llama_free(pointer)


class Batch:
    """A llama_batch over numpy arrays of our own: filled by slices, never element by element through ctypes."""

    def __init__(self, c: Any, n_batch: int, n_slots: int) -> None:
        self.token: npt.NDArray[np.int32] = np.zeros(n_batch, np.int32)
        self.pos: npt.NDArray[np.int32] = np.zeros(n_batch, np.int32)
        self.output: npt.NDArray[np.int8] = np.zeros(n_batch, np.int8)
        self._n_seq_id: npt.NDArray[np.int32] = np.ones(n_batch, np.int32)
        self._seq_id: npt.NDArray[np.uint64] = np.zeros(n_batch, np.uint64)
        # seq_id[i] points at the one entry of this table that names the token's slot
        self._slots: npt.NDArray[np.int32] = np.arange(n_slots, dtype=np.int32)
        base = self._slots.ctypes.data
        self._address: list[int] = [base + 4 * slot for slot in range(n_slots)]
        self._steps: npt.NDArray[np.int32] = np.arange(n_batch, dtype=np.int32)

        def pointer(data: npt.NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(ctypes.c_void_p(data.ctypes.data), ctypes.POINTER(kind))

        self.struct = c.llama_batch(
            n_tokens=0,
            token=pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=pointer(self.pos, ctypes.c_int32),
            n_seq_id=pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=pointer(self._seq_id, ctypes.POINTER(ctypes.c_int32)),
            logits=pointer(self.output, ctypes.c_int8),
        )

    def fill(self, spans: Sequence[Span]) -> int:
        """Put the spans in; how many rows of logits they ask for. The caller has checked slots and total length."""
        n_spans = len(spans)
        address = self._address
        if type(spans) is Streams:
            self.token[:n_spans] = spans.tokens
            np.add(np.frombuffer(spans.starts, np.int32), spans.n_more, out=self.pos[:n_spans])
            self._seq_id[:n_spans] = [address[slot] for slot in spans.slots]
            self.output[:n_spans] = 1
            self.struct.n_tokens = n_spans
            return n_spans
        _, slots, starts, tokens_of, rows, scored = zip(*spans, strict=True)
        if sum(map(len, tokens_of)) == n_spans and not any(scored):  # only decode: whole columns at once
            self.token[:n_spans] = [tokens[0] for tokens in tokens_of]
            self.pos[:n_spans] = starts
            self._seq_id[:n_spans] = [address[slot] for slot in slots]
            self.output[:n_spans] = rows
            self.struct.n_tokens = n_spans
            return sum(rows)
        at = n_rows = 0
        for span in spans:
            tokens = span.tokens
            n = len(tokens)
            end = at + n
            if n == 1:
                self.token[at] = tokens[0]
                self.pos[at] = span.start
            else:
                self.token[at:end] = np.frombuffer(tokens, np.int32) if isinstance(tokens, array) else tokens
                np.add(self._steps[:n], span.start, out=self.pos[at:end])
            self._seq_id[at:end] = address[span.slot]
            self.output[at:end] = 0
            if span.n_rows:
                self.output[end - span.n_rows : end] = 1
                n_rows += span.n_rows
            if span.scored:
                self.output[at : at + len(span.scored)] = 1
                n_rows += len(span.scored)
            at = end
        self.struct.n_tokens = at
        return n_rows


def check_spans(spans: Sequence[Span], *, n_batch: int, n_slots: int, n_ctx: int, n_rows: int) -> None:
    """Raise BackendError on what C would end the process over, or would refuse without saying which span."""
    if type(spans) is Streams and len(spans) <= min(n_batch, n_rows):
        of, first, last = spans.slots, min(spans.starts) + spans.n_more, max(spans.starts) + spans.n_more
        if of[0] >= 0 and of[-1] < n_slots and all(map(lt, of, of[1:])) and first >= 0 and last < n_ctx:
            return
    _, slots, starts, tokens, sampled, scored = zip(*spans, strict=True)
    lengths = list(map(len, tokens))
    rows = list(map(add, sampled, map(len, scored)))
    if (  # column by column, at the speed of C: this runs in every step
        slots[0] >= 0
        and slots[-1] < n_slots
        and all(map(lt, slots, slots[1:]))
        and min(starts) >= 0
        and max(map(add, starts, lengths)) <= n_ctx
        and min(lengths) > 0
        and min(sampled) >= 0
        and all(map(le, rows, lengths))
        and sum(lengths) <= n_batch
        and sum(rows) <= n_rows
    ):
        return
    raise _fault_of(spans, n_batch=n_batch, n_slots=n_slots, n_ctx=n_ctx, n_rows=n_rows)


def _fault_of(spans: Sequence[Span], *, n_batch: int, n_slots: int, n_ctx: int, n_rows: int) -> BackendError:
    """What is wrong with spans of which something is."""
    last = -1
    for span in spans:
        n = len(span.tokens)
        slot = span.slot
        if not last < slot < n_slots:
            return BackendError(f"span of slot {slot} after slot {last}: slots ascend and are below {n_slots}")
        n_scored = len(span.scored)
        if n == 0 or not 0 <= span.n_rows <= n - n_scored:
            asked = f"asks for {span.n_rows} rows" + (f" and {n_scored} scores" if n_scored else "")
            return BackendError(f"span of slot {slot} has {n} tokens and {asked}")
        if span.start < 0 or span.start + n > n_ctx:
            return BackendError(f"span of slot {slot} ends at {span.start + n}, a sequence holds {n_ctx}")
        last = slot
    total = sum(len(span.tokens) for span in spans)
    if total > n_batch:
        return BackendError(f"plan of {total} tokens, n_batch is {n_batch}")
    rows = sum(span.n_rows + len(span.scored) for span in spans)
    return BackendError(f"plan asks for {rows} rows of logits, the context has room for {n_rows}")


def reason_of(lines: Sequence[str]) -> str:
    """What C complained of when it would not make a context."""
    for line in lines:
        if "failed to initialize the context" in line:
            return line.split("context:", 1)[-1].strip()
    words = ("error", "fail", "requires", "must be", "invalid", "unable")
    return next((line for line in reversed(lines) if any(word in line.lower() for word in words)), "no reason given")

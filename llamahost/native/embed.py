"""Turn inputs into vectors with llama.cpp, on a context of their own. Knows tokens; decides nothing about order.

Implements core.backend.EmbedBackend. Owned by one worker thread after it is made. Every input starts from nothing, so
no input's vector depends on who was computed beside it.

How much a step may hold is bounded thrice: by what C computes in one piece (a non-causal batch beyond n_ubatch ends the
process), by its sequences, and by memory, since C reserves a row of logits for every token of it, though nobody asks.
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError, BackendLost, LoadFailed
from llamahost.core.work import Pooling, Span, Tokens, Vector
from llamahost.native.context import FLASH, Batch, FlashAttention, reason_of
from llamahost.native.embed_batch import EmbedBatch
from llamahost.native.library import LogTap, buffers_in
from llamahost.native.model import Model

POOLINGS: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_UNSPECIFIED = -1
_NAMES = {value: name for name, value in POOLINGS.items()}

MAX_N_CTX = 2**20

_MAX_FAILURES = 3

_SOFTMAX = ("qwen3", "qwen3vl")  # whose heads for scores C ends in a softmax

N_ENOUGH = 128
"""Tokens of a step that fill a core: more are multiplied no faster, and each is compared with all the others, also with
those of other inputs, before these are masked. Inputs of 26 tokens: 4 at once took 8% less a piece than 19.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How an embedding context is made. `n_ctx` bounds one input; `pooling` None is the file's own.

    `n_batch` is the least that a step may hold; it grows to `n_ctx` where an input must be computed in one piece.
    """

    n_ctx: int
    pooling: Pooling | None = None
    n_batch: int = 512
    flash_attention: FlashAttention = "auto"
    n_threads: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_ctx <= MAX_N_CTX or not 1 <= self.n_batch <= MAX_N_CTX:
            raise LoadFailed(f"an embedding context of {self.n_ctx} tokens cannot be made; {MAX_N_CTX} is the most")
        if not 0 <= self.n_threads <= 512:
            raise LoadFailed(f"n_threads must be at most 512, ggml's own bound, not {self.n_threads}")


class LlamaEmbedder:
    """Owned by one worker thread. A context on a model that computes one vector an input, or one a token."""

    def __init__(self, model: Model, options: EmbedOptions) -> None:
        self.model = model
        self._c = c = model.library.c
        model.check_positions(options.n_ctx)
        if model.is_split_by_tensor:  # C ends the process over the second vector of a step
            raise LoadFailed(f'{model.path.name} embeds nothing with split_mode = "tensor"')
        if options.pooling == "rank" and model.header.number("pooling_type") != POOLINGS["rank"]:
            raise LoadFailed(f"{model.path.name} has no head for scores, which pooling `rank` needs")
        pooling = options.pooling or _NAMES.get(model.header.number("pooling_type", _UNSPECIFIED))
        if pooling is None and model.is_causal:
            pooling = "last"  # the one token that has seen all others
        # Whole inputs alone can be pooled over; only what reads the last token of a cache can come in pieces.
        self.can_split = can_split = model.is_causal and pooling in ("last", "rank")
        self.n_ctx = options.n_ctx
        batch = EmbedBatch.of(options.n_ctx, options.n_batch, model.vocab.n_tokens, can_split=can_split)
        self.n_inputs, self.n_batch = batch.n_inputs, batch.n_tokens
        is_on_host = not model.is_on_device
        self.n_enough = min(self.n_batch, N_ENOUGH * max(1, options.n_threads)) if is_on_host else self.n_batch
        params = c.llama_context_default_params()
        params.n_ctx = max(self.n_ctx, self.n_batch)
        params.n_batch = params.n_ubatch = self.n_batch
        params.n_seq_max = self.n_inputs
        params.embeddings = True
        params.pooling_type = _UNSPECIFIED if pooling is None else POOLINGS[pooling]
        params.kv_unified = True  # inputs of any length beside each other; each is gone after its step
        params.flash_attn_type = FLASH[options.flash_attention]
        params.no_perf = True
        if options.n_threads > 0:
            params.n_threads = params.n_threads_batch = options.n_threads
        with LogTap() as lines:
            pointer = c.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise LoadFailed(f"cannot make an embedding context for {model.path.name}: {reason_of(lines)}")
        self._pointer: int | None = pointer
        n_output = batch.output_bytes(model.vocab.n_tokens, model.n_embd_out)
        self.buffers = {key: n_output if key[1] == "output" else n for key, n in buffers_in(lines).items()}
        self._memory = c.llama_get_memory(pointer)
        self.pooling: Pooling = _NAMES[int(c.llama_pooling_type(pointer))]
        self.n_dim: int = model.n_scores if self.pooling == "rank" else model.n_embd_out
        self.has_probabilities = self.pooling == "rank" and model.architecture in _SOFTMAX
        self._batch = Batch(c, self.n_batch, self.n_inputs)
        self._n_failures = 0
        self._n_held = 0  # tokens of an input that is not at its end, in the cache
        self.overlaps = model.is_on_device
        first = max(model.vocab.bos, 0)
        # on a device all that an input may be: its pools then have what they ever take
        n_first = min(self.n_ctx, self.n_batch) if model.is_on_device else 1
        try:
            self.embed([array("i", [first]) * n_first])
        except BackendError as error:
            self.close()
            raise LoadFailed(f"{model.path.name} loads, but its first embedding fails: {error}") from error

    def embed(self, inputs: Sequence[Tokens]) -> list[Vector]:
        self._check_there()
        self._check(inputs)
        self._compute([Span(0, k, 0, tokens, len(tokens)) for k, tokens in enumerate(inputs)])
        if self.pooling != "none":
            row_of = self._c.llama_get_embeddings_seq
            return self._vectors([row_of(self._pointer, k) for k in range(len(inputs))], [1] * len(inputs))
        row_of, lengths = self._c.llama_get_embeddings_ith, [len(tokens) for tokens in inputs]
        return self._vectors([row_of(self._pointer, index) for index in range(sum(lengths))], lengths)

    def embed_piece(self, tokens: Tokens, start: int, stop: int) -> Vector | None:
        self._check_there()
        piece, n_held = tokens[start:stop], self._n_held
        self._check([piece])
        if not self.can_split or start not in (0, n_held) or not start < stop <= len(tokens) <= self.n_ctx:
            raise BackendError(f"[{start}, {stop}) of {len(tokens)} tokens does not follow on {n_held}")
        self._compute([Span(0, 0, start, piece, len(piece))], is_first=start == 0)
        if stop < len(tokens):
            self._n_held = stop
            return None
        return self._vectors([self._c.llama_get_embeddings_seq(self._pointer, 0)], [1])[0]

    def close(self) -> None:
        pointer, self._pointer = self._pointer, None
        if pointer is not None and not self.model.is_forsaken:
            self._c.llama_free(pointer)

    def _check_there(self) -> None:
        if self._pointer is None or self.model.is_forsaken:
            raise BackendLost(
                "the embedding context is closed" if self._pointer is None else "its device is out of use"
            )

    def _check(self, inputs: Sequence[Tokens]) -> None:
        """Before C, which ends the process over most of this."""
        lengths = [len(tokens) for tokens in inputs]
        n_vocab = self.model.vocab.n_tokens
        if not lengths or min(lengths) < 1 or max(lengths) > self.n_ctx or len(lengths) > self.n_inputs:
            raise BackendError(f"{len(lengths)} inputs of 1 to {self.n_ctx} tokens were expected")
        if sum(lengths) > self.n_batch:
            raise BackendError(f"a step of {sum(lengths)} tokens, {self.n_batch} is the most")
        if min(map(min, inputs)) < 0 or max(map(max, inputs)) >= n_vocab:
            raise BackendError(f"a token is not one of {n_vocab}")

    def _compute(self, spans: list[Span], *, is_first: bool = True) -> None:
        self._n_held = 0
        if self._memory and is_first:
            self._c.llama_memory_clear(self._memory, False)
        self._batch.fill(spans)
        run = self._c.llama_decode if self._memory else self._c.llama_encode
        returned = int(run(self._pointer, self._batch.struct))
        if returned == 0:
            self._n_failures = 0
            return
        self._n_failures += 1
        if self._n_failures >= _MAX_FAILURES:
            raise BackendLost(f"{self._n_failures} embedding steps failed in a row, the last with {returned}")
        raise BackendError(f"computing embeddings returned {returned}")

    def _vectors(self, pointers: Sequence[Any], n_rows: Sequence[int]) -> list[Vector]:
        """C's rows, made units; of the first input so many, one after the other, and so on."""
        if not all(pointers):  # ctypes gives a falsy object for NULL, never None
            raise BackendError("llama.cpp has no embedding of an input")
        n_bytes = 4 * self.n_dim
        data = b"".join([ctypes.string_at(pointer, n_bytes) for pointer in pointers])
        rows: npt.NDArray[np.float32] = np.frombuffer(data, np.float32).reshape(len(pointers), self.n_dim)
        if self.pooling != "rank":
            squares = np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True)
            lengths: npt.NDArray[np.float32] = np.sqrt(np.where(squares > 0, squares, 1.0)).astype(np.float32)
            rows = rows / lengths
        if not np.isfinite(rows).all():
            raise BackendError("an embedding holds values that are no numbers")
        data = rows.tobytes()
        ends = itertools.accumulate(n_bytes * n for n in n_rows)
        return [array("f", data[end - n_bytes * n : end]) for n, end in zip(n_rows, ends, strict=True)]

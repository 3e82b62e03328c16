"""Choose tokens from rows of logits. Knows llama.cpp's samplers and their order; knows no slot and no step.

A chain mirrors llama.cpp's common/sampling.cpp: bias, then the user's samplers in the user's order, then a draw by
seed; mirostat replaces them all. Three ways to run one, equal in what they choose:

greedy   temperature 0, and nothing active that may drop or change the likeliest: one argmax over the row
cut      top_k comes first among what is active: numpy finds the few candidates that can be among the top k, C does
         the rest on those alone
whole    every token goes through the C chain

Bias is added to the row in place and taken off again, which is what the C sampler does to its copy.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError
from llamahost.core.messages import Sampling
from llamahost.core.work import RowLogprobs, Tokens
from llamahost.native.library import Library
from llamahost.native.vocab import Vocab

Row = npt.NDArray[np.float32]

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the library draws one
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_STRIPES = 64  # a row is looked at in 64 stripes when its top k are sought
_MIROSTAT_M = 100


class _Candidates(ctypes.Structure):
    """llama_token_data_array"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


class Scratch:
    """Owned by one thread at a time. Room for the candidates of one row."""

    def __init__(self, n_vocab: int) -> None:
        self._ids: npt.NDArray[np.int32] = np.arange(n_vocab, dtype=np.int32)
        self._data = np.zeros(n_vocab, _CANDIDATE)
        self._id, self._logit = self._data["id"], self._data["logit"]
        self._address = self._data.ctypes.data
        self._array = _Candidates()
        self._reference = ctypes.addressof(self._array)

    def run(self, apply: Any, chain: int, row: Row, chosen: npt.NDArray[np.intp] | None) -> int:
        """Apply a chain to the row, or to its entries `chosen`; the id that it selects."""
        array = self._array
        if chosen is None:
            n = len(row)
            self._id[:] = self._ids
            self._logit[:] = row
        else:
            n = len(chosen)
            self._id[:n] = chosen
            self._logit[:n] = row[chosen]
        array.data = self._address
        array.size = n
        array.selected = -1
        array.sorted = False
        apply(chain, self._reference)
        selected = array.selected
        if not 0 <= selected < array.size:
            raise BackendError("the sampler chain selected no token")
        # through `data`, which xtc moves
        return ctypes.c_int32.from_address(array.data + _CANDIDATE.itemsize * selected).value


class SamplerChain:
    """Owned by the worker thread. One job's samplers with their memory (penalties, DRY, mirostat, seed)."""

    __slots__ = (
        "_accept",
        "_free",
        "_pointer",
        "bias_ids",
        "bias_values",
        "is_greedy",
        "is_plain",
        "remembers",
        "top_k",
    )

    def __init__(
        self, library: Library, pointer: int, *, is_greedy: bool, remembers: bool, top_k: int, bias: dict[int, float]
    ) -> None:
        self._accept = library.quick.sampler_accept
        self._free = library.quick.sampler_free
        self._pointer: int | None = pointer
        self.is_greedy = is_greedy
        self.remembers = remembers
        self.top_k = top_k  # 0: not cut
        self.bias_ids = np.fromiter(bias.keys(), np.intp, len(bias))
        self.bias_values = np.fromiter(bias.values(), np.float32, len(bias))
        self.is_plain = is_greedy and not bias

    @property
    def pointer(self) -> int:
        if self._pointer is None:
            raise BackendError("a sampler chain was used after its job ended")
        return self._pointer

    def accept(self, token: int) -> None:
        if self.remembers:
            self._accept(self.pointer, token)

    def close(self) -> None:
        """Free the samplers. Idempotent; freeing twice would end the process."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._free(pointer)


class Samplers:
    """Owned by the worker thread. Makes chains and runs them over the rows of a step."""

    def __init__(self, library: Library, vocab: Vocab, *, n_ctx: int, n_threads: int = 1) -> None:
        self._library = library
        self._quick = library.quick
        self._vocab = vocab
        self._n_vocab = vocab.n_tokens
        self._n_ctx = n_ctx
        self._scratch = Scratch(self._n_vocab)
        self._dry: dict[tuple[object, ...], int] = {}
        self._n_threads = max(1, n_threads)
        self._pool: ThreadPoolExecutor | None = None
        self._free_scratch: list[Scratch] = []

    # --- making ---

    def chain(self, sampling: Sampling, prompt: Tokens) -> SamplerChain:
        """The job's samplers; those with a memory have read the end of the prompt."""
        bias = self._bias(sampling)
        penalises, dries = _penalises(sampling), _dries(sampling)
        members = self._members(sampling)
        c = self._library.c
        params = c.llama_sampler_chain_default_params()
        params.no_perf = True
        pointer = ctypes.cast(c.llama_sampler_chain_init(params), ctypes.c_void_p).value
        if not pointer:
            raise BackendError("no sampler chain can be made")
        for member in members:
            self._quick.sampler_chain_add(pointer, member)  # the chain owns and frees it
        chain = SamplerChain(
            self._library,
            pointer,
            is_greedy=is_argmax(sampling),
            remembers=penalises or dries,
            top_k=self._cut(sampling),
            bias=bias,
        )
        if chain.remembers:
            window = max(
                self._window(sampling.repeat_last_n) if penalises else 0,
                self._window(sampling.dry_penalty_last_n) if dries else 0,
            )
            n_vocab = self._n_vocab
            for token in prompt[-window:]:
                if 0 <= token < n_vocab:
                    chain.accept(token)
        return chain

    def _window(self, n: int) -> int:
        """-1 is the whole context; more than it would only be memory (the C side allocates what it is told)."""
        return self._n_ctx if n < 0 else min(n, self._n_ctx)

    def _bias(self, sampling: Sampling) -> dict[int, float]:
        bias: dict[int, float] = {}
        for token, value in (*sampling.logit_bias, *((token, -math.inf) for token in self._vocab.suppressed)):
            if 0 <= token < self._n_vocab:  # others have no logit to bias
                bias[token] = bias.get(token, 0.0) + value
        return bias

    def _members(self, s: Sampling) -> list[int]:
        quick = self._quick
        seed = _RANDOM_SEED if s.seed is None else s.seed
        if s.mirostat == 1:
            wanted = [
                quick.sampler_init_temp(s.temperature),
                quick.sampler_init_mirostat(self._n_vocab, seed, s.mirostat_tau, s.mirostat_eta, _MIROSTAT_M),
            ]
        elif s.mirostat == 2:
            wanted = [
                quick.sampler_init_temp(s.temperature),
                quick.sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta),
            ]
        else:
            wanted = [self._member(name, s, seed) for name in s.samplers if _is_active(name, s)]
            wanted.append(quick.sampler_init_dist(seed))
        members = [member for member in wanted if member]
        if len(members) != len(wanted):  # a NULL in a chain is a segmentation fault
            for member in members:
                quick.sampler_free(member)
            raise BackendError("a sampler cannot be made")
        return members

    def _member(self, name: str, s: Sampling, seed: int) -> int:
        quick = self._quick
        made: int | None
        if name == "penalties":
            made = quick.sampler_init_penalties(
                self._n_vocab,
                self._window(s.repeat_last_n),
                s.repeat_penalty,
                s.frequency_penalty,
                s.presence_penalty,
            )
        elif name == "dry":
            made = self._dry_member(s)
        elif name == "top_n_sigma":
            made = quick.sampler_init_top_n_sigma(s.top_n_sigma)
        elif name == "top_k":
            made = quick.sampler_init_top_k(s.top_k)
        elif name == "typ_p":
            made = quick.sampler_init_typical(s.typical_p, s.min_keep)
        elif name == "top_p":
            made = quick.sampler_init_top_p(s.top_p, s.min_keep)
        elif name == "min_p":
            made = quick.sampler_init_min_p(s.min_p, s.min_keep)
        elif name == "xtc":
            made = quick.sampler_init_xtc(s.xtc_probability, s.xtc_threshold, s.min_keep, seed)
        elif name == "temperature":
            made = quick.sampler_init_temp_ext(s.temperature, s.dynatemp_range, s.dynatemp_exponent)
        else:
            raise BackendError(f"unknown sampler `{name}`")
        return made or 0

    def _dry_member(self, s: Sampling) -> int:
        """A clone of a prototype: reading the breakers walks the vocabulary once for each of them."""
        breakers = tuple(b.encode("utf-8", "replace").replace(b"\0", b"") for b in s.dry_sequence_breakers)
        breakers = tuple(b for b in breakers if b)
        window = self._window(s.dry_penalty_last_n)
        key = (breakers, s.dry_multiplier, s.dry_base, s.dry_allowed_length, window)
        prototype = self._dry.get(key)
        if prototype is None:
            if len(self._dry) >= 16:
                self._quick.sampler_free(self._dry.pop(next(iter(self._dry))))
            names = (ctypes.c_char_p * len(breakers))(*breakers)
            prototype = self._library.long.sampler_init_dry(
                self._vocab.pointer, s.dry_multiplier, s.dry_base, s.dry_allowed_length, window, names, len(breakers)
            )
            if not prototype:
                return 0
            self._dry[key] = prototype
        return int(self._quick.sampler_clone(prototype) or 0)

    def _cut(self, s: Sampling) -> int:
        """k where top_k is the first sampler that does anything, 0 otherwise."""
        first = next((name for name in s.samplers if _is_active(name, s)), "")
        few = self._n_vocab // _STRIPES // 4
        return s.top_k if s.mirostat == 0 and first == "top_k" and s.top_k <= few else 0

    # --- choosing ---

    def choose(self, chain: SamplerChain, row: Row, scratch: Scratch | None = None) -> int:
        """The next token by this chain, which has not accepted it yet. The row is left as it was."""
        if not len(chain.bias_ids):
            return self._choose(chain, row, scratch or self._scratch)
        kept = row[chain.bias_ids]
        row[chain.bias_ids] = kept + chain.bias_values
        try:
            return self._choose(chain, row, scratch or self._scratch)
        finally:
            row[chain.bias_ids] = kept

    def _choose(self, chain: SamplerChain, row: Row, scratch: Scratch) -> int:
        if chain.is_greedy:
            token = int(row.argmax())
            if math.isnan(row[token]):
                raise _not_a_number()
            return token
        if chain.top_k:
            chosen = top_candidates(row, chain.top_k)
            return scratch.run(self._quick.sampler_apply, chain.pointer, row, chosen)
        if math.isnan(row.max()):  # C sorts with a comparison that NaN breaks
            raise _not_a_number()
        return scratch.run(self._library.long.sampler_apply, chain.pointer, row, None)

    def choose_all(self, chains: Sequence[SamplerChain], matrix: Row) -> list[int]:
        """One token for each row of the matrix, row i by chains[i]; each chain at most once."""
        n = len(chains)
        if all(chain.is_plain for chain in chains):
            tokens = matrix.argmax(axis=1)
            if np.isnan(matrix[np.arange(n), tokens]).any():
                raise _not_a_number()
            return list(map(int, tokens.tolist()))
        whole = [i for i, chain in enumerate(chains) if not chain.is_greedy and not chain.top_k]
        if self._n_threads < 2 or len(whole) < 2 or len(whole) * self._n_vocab < _POOL_WORTH:
            return [self.choose(chain, matrix[i]) for i, chain in enumerate(chains)]
        return self._choose_in_threads(chains, matrix, whole)

    def _choose_in_threads(self, chains: Sequence[SamplerChain], matrix: Row, whole: Sequence[int]) -> list[int]:
        n_threads = min(self._n_threads, len(whole))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._n_threads, thread_name_prefix="sampling")
            self._free_scratch = [Scratch(self._n_vocab) for _ in range(self._n_threads)]
        tokens = [0] * len(chains)

        def work(part: int) -> None:
            scratch = self._free_scratch[part]
            for i in whole[part::n_threads]:
                tokens[i] = self.choose(chains[i], matrix[i], scratch)

        others = [self._pool.submit(work, part) for part in range(1, n_threads)]
        for i, chain in enumerate(chains):
            if chain.is_greedy or chain.top_k:
                tokens[i] = self.choose(chain, matrix[i])
        error: BaseException | None = None
        try:
            work(0)
        except BackendError as mine:
            error = mine
        for other in others:  # all of them end before the rows may change
            error = other.exception() or error
        if error is not None:
            raise error
        return tokens

    def close(self) -> None:
        """Free prototypes and threads; chains are closed by who has them."""
        for prototype in self._dry.values():
            self._quick.sampler_free(prototype)
        self._dry.clear()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


_POOL_WORTH = 1 << 16
"""Candidates in a step from which handing rows to threads pays."""


def _not_a_number() -> BackendError:
    return BackendError("the model computed NaN logits")


def _penalises(s: Sampling) -> bool:
    return _is_active("penalties", s) and "penalties" in s.samplers and s.mirostat == 0


def _dries(s: Sampling) -> bool:
    return _is_active("dry", s) and "dry" in s.samplers and s.mirostat == 0


def _is_active(name: str, s: Sampling) -> bool:
    """Whether the sampler does anything with these values; the C ones return at once where this is False."""
    if name == "penalties":
        plain = s.repeat_penalty == 1.0 and s.frequency_penalty == 0.0 and s.presence_penalty == 0.0
        return s.repeat_last_n != 0 and not plain
    if name == "dry":
        return s.dry_multiplier != 0.0 and s.dry_base >= 1.0 and s.dry_penalty_last_n != 0
    if name == "top_n_sigma":
        return s.top_n_sigma > 0.0
    if name == "top_k":
        return s.top_k > 0
    if name == "typ_p":
        return s.typical_p < 1.0
    if name == "top_p":
        return s.top_p < 1.0
    if name == "min_p":
        return s.min_p > 0.0
    if name == "xtc":
        return s.xtc_probability > 0.0 and s.xtc_threshold <= 0.5
    return s.temperature != 1.0 or s.dynatemp_range > 0.0


def is_argmax(s: Sampling) -> bool:
    """Whether the chain can only choose the likeliest token after bias.

    Penalties and DRY change the logits; typical_p and xtc may drop the likeliest; a dynamic temperature is not 0.
    top_k, top_p, min_p and top_n_sigma always keep it, wherever they stand.
    """
    if s.mirostat or s.temperature > 0.0 or s.dynatemp_range > 0.0 or "temperature" not in s.samplers:
        return False
    return not any(name in s.samplers and _is_active(name, s) for name in ("penalties", "dry", "typ_p", "xtc"))


def top_candidates(row: Row, k: int) -> npt.NDArray[np.intp]:
    """Indices of at least the k largest, ascending: all that reach a bound which k entries are known to reach.

    The bound is the k-th largest of the maxima of disjoint stripes, each of which is one entry.
    """
    n = len(row) // _STRIPES
    maxima = row[: n * _STRIPES].reshape(_STRIPES, n).max(axis=0)
    bound = np.partition(maxima, n - k)[n - k]
    chosen = np.flatnonzero(row >= bound)
    if len(chosen) < k:  # only NaN compares so
        raise _not_a_number()
    return chosen


def row_logprobs(row: Row, token: int, n: int) -> RowLogprobs:
    """Log-softmax of the raw row: of the token, and of the n likeliest; ties by id."""
    peak = float(row.max())
    total = peak + math.log(float(np.exp(row - np.float32(peak)).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if n > 0:
        likeliest = np.argpartition(row, -n)[-n:] if n < len(row) else np.arange(len(row))
        likeliest = likeliest[np.lexsort((likeliest, -row[likeliest]))]
        top = tuple((int(i), float(row[i]) - total) for i in likeliest)
    return RowLogprobs(logprob=float(row[token]) - total, top=top)

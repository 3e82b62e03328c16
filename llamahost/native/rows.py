"""Run sampler chains over rows of logits. Knows rows, candidates and threads; makes no sampler.

Three ways, equal in what they choose:

greedy   temperature 0, and nothing active that may drop or change the likeliest: one argmax over the row
cut      top_k comes first among what is active, or after penalties and DRY alone: numpy finds the few candidates that
         can be among the top k, C does the rest on those
whole    every token goes through the C chain, many rows in threads

Bias is added to the row in place and taken off again, which is what the C sampler does to its copy. Costs of one row
of a 32k / 152k vocabulary, in microseconds: greedy 3 / 10, cut 27 / 120, whole 100 - 2500 / 500 - 12000.

A mask comes before all of that: what it forbids is no candidate. Where none of those that would have been looked at is
forbidden, which is so inside most strings, it costs nothing but the look. It outranks bias: where bias forbids all that
it leaves, the bias is not applied.
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
from llamahost.core.work import RowLogprobs, Tokens
from llamahost.native.constraint import Words, allowed, allows
from llamahost.native.library import Library
from llamahost.native.sampling import STRIPES, SamplerChain

Row = npt.NDArray[np.float32]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
_POOL_WORTH = 1 << 16  # candidates in a step from which handing whole rows to threads pays
_FEW = 512  # allowed tokens that C sorts faster than numpy finds the largest of them


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

    def left(self, token: int, n: int) -> RowLogprobs:
        """Of what the last chain left to draw from: how likely the token was, and the n likeliest."""
        array = self._array
        held = (ctypes.c_char * (array.size * _CANDIDATE.itemsize)).from_address(array.data)
        data = np.frombuffer(held, _CANDIDATE)
        likeliest = data[np.argsort(-data["p"], kind="stable")[:n]]
        top = tuple((int(entry["id"]), math.log(entry["p"])) for entry in likeliest if entry["p"] > 0.0)
        p = float(data["p"][data["id"] == token].max(initial=0.0))
        return RowLogprobs(math.log(p) if p > 0.0 else -math.inf, top)


class Chooser:
    """Owned by the worker thread. Chooses a token for each row of a step."""

    def __init__(self, library: Library, *, n_vocab: int, n_threads: int = 1) -> None:
        self._apply_few = library.quick.sampler_apply  # microseconds: dropping the GIL would cost more
        self._apply_all = library.long.sampler_apply
        self._n_vocab = n_vocab
        self._n_threads = max(1, n_threads)
        self._scratch = [Scratch(n_vocab)]
        self._pool: ThreadPoolExecutor | None = None

    def choose(self, chain: SamplerChain, row: Row, thread: int = 0, mask: Words | None = None) -> int:
        """The next token by this chain, which has not accepted it yet. The row is left as it was."""
        if not len(chain.bias_ids):
            return self._choose(chain, row, thread, mask)
        kept = row[chain.bias_ids]
        row[chain.bias_ids] = kept + chain.bias_values
        try:
            if mask is None or row[allowed(mask, self._n_vocab)].max() != -math.inf:
                return self._choose(chain, row, thread, mask)
        finally:
            row[chain.bias_ids] = kept
        return self._choose(chain, row, thread, mask)

    def choose_and_tell(self, chain: SamplerChain, row: Row, n: int) -> tuple[int, RowLogprobs]:
        """And how likely it was among what the samplers left, with the n likeliest of those."""
        token = self.choose(chain, row)
        if chain.is_greedy:
            return token, RowLogprobs(0.0, ((token, 0.0),)[:n])
        return token, self._scratch[0].left(token, n)

    def _choose(self, chain: SamplerChain, row: Row, thread: int, mask: Words | None) -> int:
        if chain.is_greedy:
            token = int(row.argmax())
            if math.isnan(row[token]):
                raise _not_a_number()
            return token if mask is None or allows(mask, token) else self._likeliest(row, mask)
        scratch = self._scratch[thread]
        if chain.top_k:
            candidates = _candidates(chain, row)
            if mask is not None:
                is_allowed = allowed(mask, self._n_vocab)
                if not is_allowed[candidates].all():
                    candidates = _allowed_candidates(chain, row, is_allowed)
            return scratch.run(self._apply_few, chain.pointer, row, candidates)
        if math.isnan(row.max()):  # C sorts with a comparison that NaN breaks
            raise _not_a_number()
        return scratch.run(self._apply_all, chain.pointer, row, None if mask is None else self._ids(mask))

    def _ids(self, mask: Words) -> npt.NDArray[np.intp]:
        ids = np.flatnonzero(allowed(mask, self._n_vocab))
        if not len(ids):
            raise BackendError("the grammar allows no token")
        return ids

    def _likeliest(self, row: Row, mask: Words) -> int:
        ids = self._ids(mask)
        return int(ids[row[ids].argmax()])

    def choose_all(
        self, chains: Sequence[SamplerChain], matrix: Row, masks: Sequence[Words | None] | None = None
    ) -> list[int]:
        """One token for each row of the matrix, row i by chains[i] among what masks[i] allows; no chain twice."""
        if all(chain.is_plain for chain in chains):
            tokens: list[int] = matrix.argmax(axis=1).tolist()
            for i, token in enumerate(tokens):
                if math.isnan(matrix[i, token]):  # argmax takes the first NaN for the largest
                    raise _not_a_number()
            for i, mask in enumerate(masks or ()):
                if mask is not None and not allows(mask, tokens[i]):
                    tokens[i] = self._likeliest(matrix[i], mask)
            return tokens
        of = masks or [None] * len(chains)
        whole = [i for i, chain in enumerate(chains) if not chain.is_greedy and not chain.top_k]
        if self._n_threads < 2 or len(whole) < 2 or len(whole) * self._n_vocab < _POOL_WORTH:
            return [self.choose(chain, matrix[i], 0, of[i]) for i, chain in enumerate(chains)]
        return self._choose_in_threads(chains, matrix, of, whole)

    def _choose_in_threads(
        self, chains: Sequence[SamplerChain], matrix: Row, masks: Sequence[Words | None], whole: Sequence[int]
    ) -> list[int]:
        """Whole rows are dealt out; the calling thread takes its part, and then the rows that are quick."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._n_threads - 1, thread_name_prefix="sampling")
            self._scratch += [Scratch(self._n_vocab) for _ in range(self._n_threads - 1)]
        n_threads = min(self._n_threads, len(whole))
        tokens = [0] * len(chains)

        def work(thread: int, rows: Sequence[int]) -> None:
            for i in rows:
                tokens[i] = self.choose(chains[i], matrix[i], thread, masks[i])

        others = [self._pool.submit(work, thread, whole[thread::n_threads]) for thread in range(1, n_threads)]
        error: BaseException | None = None
        try:
            work(0, whole[::n_threads])
            work(0, [i for i, chain in enumerate(chains) if chain.is_greedy or chain.top_k])
        except Exception as mine:  # raised below, whatever it is: the others still read these rows
            error = mine
        for other in others:  # all of them end before the rows may change
            error = other.exception() or error
        if error is not None:
            raise error
        return tokens

    def close(self) -> None:
        """End the threads. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _not_a_number() -> BackendError:
    return BackendError("the model computed NaN logits")


def _candidates(chain: SamplerChain, row: Row) -> npt.NDArray[np.intp]:
    """All tokens that can be among the chain's top k.

    Of the m that penalties may move, any can; of the others those that are among the k + m largest as they are.
    """
    if not chain.window:
        return top_candidates(row, chain.top_k)
    moved = chain.moved()
    return np.union1d(top_candidates(row, chain.top_k + len(moved)), moved)


def _allowed_candidates(chain: SamplerChain, row: Row, is_allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """All tokens that can be among the top k of those allowed."""
    ids = np.flatnonzero(is_allowed)
    if not len(ids):
        raise BackendError("the grammar allows no token")
    if len(ids) <= _FEW:
        return ids
    masked = np.full(len(row), -np.inf, np.float32)
    masked[ids] = row[ids]
    candidates = _candidates(chain, masked)
    return candidates[is_allowed[candidates]]


def top_candidates(row: Row, k: int) -> npt.NDArray[np.intp]:
    """Indices of at least the k largest, ascending: all that reach a bound which k entries are known to reach.

    The bound is the k-th largest of the maxima of disjoint stripes, each of which is one entry.
    """
    n = len(row) // STRIPES
    maxima = row[: n * STRIPES].reshape(STRIPES, n).max(axis=0)
    if math.isnan(maxima.max()):
        raise _not_a_number()
    bound = np.partition(maxima, n - k)[n - k]
    return np.flatnonzero(row >= bound)


def scores(matrix: Row, tokens: Tokens, n: int) -> tuple[RowLogprobs, ...]:
    """How likely each token was by the row that came before it. Raises BackendError on one that has no logit."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < matrix.shape[1]:
        raise BackendError("a token outside the vocabulary cannot be scored")
    return tuple(row_logprobs(row, token, n) for row, token in zip(matrix, tokens, strict=True))


def row_logprobs(row: Row, token: int, n: int) -> RowLogprobs:
    """Log-softmax of the raw row: of the token, and of the n likeliest; ties by id."""
    peak = float(row.max())
    if math.isnan(peak):
        raise _not_a_number()
    total = peak + math.log(float(np.exp(row - np.float32(peak)).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if n > 0:
        likeliest = top_candidates(row, n) if n * 4 <= len(row) // STRIPES else np.arange(len(row))
        likeliest = likeliest[np.lexsort((likeliest, -row[likeliest]))][:n]
        top = tuple((int(i), float(row[i]) - total) for i in likeliest)
    return RowLogprobs(logprob=float(row[token]) - total, top=top)

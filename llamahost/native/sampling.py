"""Make sampler chains. Knows llama.cpp's samplers and their order; knows no row, slot or step.

A chain mirrors llama.cpp's common/sampling.cpp: bias, then the user's samplers in the user's order, then a draw by
seed; mirostat replaces them all but the bias. What a chain can do without (a sampler that is off, the bias, the whole
C chain where it can only choose the likeliest) is told by its fields, so that `rows` may take the short way. A greedy
answer's C chain is made when it is first asked for, which nobody does.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError
from llamahost.core.sampling import Sampling
from llamahost.core.work import Tokens
from llamahost.native.library import Library
from llamahost.native.vocab import Vocab

STRIPES = 64
"""A row is looked at in this many stripes when its top k are sought (`rows.top_candidates`)."""

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the library draws one
_MIROSTAT_M = 100
_MAX_DRY_PROTOTYPES = 16

_MAX_INFILL = 64
"""Candidates that `infill` compares each with each, which of a whole vocabulary would take minutes."""

_MAX_INFILL_PIECE = 512
"""Bytes that C has room for there; a longer piece ends the process."""


class SamplerChain:
    """Owned by the worker thread. One job's samplers with their memory (penalties, DRY, mirostat, seed).

    `window` is how many tokens its penalties look back on, 0 without any. `top_k` is k where the row can be cut to
    what may be among its top k, 0 where it cannot.
    """

    __slots__ = (
        "_accept",
        "_free",
        "_make",
        "_pointer",
        "_recent",
        "bias_ids",
        "bias_values",
        "is_greedy",
        "is_plain",
        "top_k",
        "window",
    )

    def __init__(
        self,
        library: Library,
        make: Callable[[], int],
        *,
        is_greedy: bool,
        window: int,
        top_k: int,
        bias: dict[int, float],
    ) -> None:
        self._accept = library.quick.sampler_accept
        self._free = library.quick.sampler_free
        self._make: Callable[[], int] | None = make
        self._pointer: int | None = None
        self._recent: deque[int] = deque(maxlen=window)
        self.is_greedy = is_greedy
        self.window = window
        self.top_k = top_k
        self.bias_ids: npt.NDArray[np.intp] = np.fromiter(bias.keys(), np.intp, len(bias))
        self.bias_values: npt.NDArray[np.float32] = np.fromiter(bias.values(), np.float32, len(bias))
        self.is_plain = is_greedy and not bias

    @property
    def pointer(self) -> int:
        """C's own. Raises BackendError where it cannot be made."""
        if self._pointer is None:
            if self._make is None:
                raise BackendError("a sampler chain was used after its job ended")
            self._pointer = self._make()
        return self._pointer

    def accept(self, token: int) -> None:
        """Remember a token, where the chain remembers any."""
        if self.window:
            self._accept(self.pointer, token)
            self._recent.append(token)

    def moved(self) -> npt.NDArray[np.intp]:
        """The tokens whose logits penalties may change now."""
        recent = set(self._recent)
        return np.fromiter(recent, np.intp, len(recent))

    def close(self) -> None:
        """Free the samplers. Idempotent; freeing twice would end the process."""
        pointer, self._pointer, self._make = self._pointer, None, None
        if pointer is not None:
            self._free(pointer)


class Samplers:
    """Owned by the worker thread. Makes chains for one vocabulary."""

    def __init__(self, library: Library, vocab: Vocab, *, n_ctx: int) -> None:
        self._library = library
        self._quick = library.quick
        self._vocab = vocab
        self._n_vocab = vocab.n_tokens
        self._n_ctx = n_ctx
        self._dry: dict[tuple[object, ...], int] = {}
        self._last_bias: tuple[object, dict[int, float]] = (None, {})
        self._can_infill: bool | None = None  # not looked at yet

    def chain(self, sampling: Sampling, prompt: Tokens, *, is_held: bool = False) -> SamplerChain:
        """The job's samplers; those with a memory have read the end of the prompt.

        Of an answer that `is_held` to a form `infill` knows nothing: it would end it anywhere, and is left out.
        """
        if "infill" in sampling.samplers and (is_held or not self._may_infill()):
            kept = tuple(name for name in sampling.samplers if name != "infill")
            sampling = sampling.with_options({"samplers": kept})
        works = working(sampling)
        window = max(
            self._window(sampling.repeat_last_n) if "penalties" in works else 0,
            self._window(sampling.dry_penalty_last_n) if "dry" in works else 0,
        )
        chain = SamplerChain(
            self._library,
            lambda: self._made(sampling, works),
            is_greedy=is_argmax(sampling),
            window=window,
            top_k=self._cut(sampling, works, window),
            bias=self._bias(sampling),
        )
        if not chain.is_greedy:
            _ = chain.pointer  # made here, and not in one of the threads that choose
        for token in prompt[-window:] if window else ():
            if 0 <= token < self._n_vocab:
                chain.accept(token)
        return chain

    def _made(self, sampling: Sampling, works: tuple[str, ...]) -> int:
        members = self._members(sampling, works)
        params = self._library.c.llama_sampler_chain_default_params()
        params.no_perf = True
        made = self._library.c.llama_sampler_chain_init(params)
        pointer = ctypes.c_void_p.from_buffer(made).value  # `cast` would leave a cycle
        if not pointer:
            raise BackendError("no sampler chain can be made")
        for member in members:
            self._quick.sampler_chain_add(pointer, member)  # the chain owns and frees it
        return pointer

    def close(self) -> None:
        """Free the prototypes; chains are closed by who has them. Idempotent."""
        while self._dry:
            self._quick.sampler_free(self._dry.popitem()[1])

    def _window(self, n: int) -> int:
        """-1 is the whole context; more than it would only be memory (the C side allocates what it is told)."""
        return self._n_ctx if n < 0 else min(n, self._n_ctx)

    def _may_infill(self) -> bool:
        """Where not, C would end the process: it has to have a token that ends, and pieces that are not too long."""
        if self._can_infill is None:
            ends = (self._vocab.eos, int(self._library.c.llama_vocab_eot(self._vocab.pointer)))
            self._can_infill = max(ends) >= 0 and max(map(len, self._vocab.pieces)) <= _MAX_INFILL_PIECE
        return self._can_infill

    def _bias(self, sampling: Sampling) -> dict[int, float]:
        """Made once for the answers of one request, which begin one after the other and share theirs."""
        if self._last_bias[0] is sampling.logit_bias:
            return self._last_bias[1]
        bias: dict[int, float] = {}
        for token, value in (*sampling.logit_bias, *((token, -math.inf) for token in self._vocab.suppressed)):
            if 0 <= token < self._n_vocab:  # others have no logit to bias
                bias[token] = bias.get(token, 0.0) + value
        self._last_bias = sampling.logit_bias, bias
        return bias

    def _members(self, s: Sampling, works: tuple[str, ...]) -> list[int]:
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
            wanted = []
            for name in works:
                if name == "infill":
                    wanted.append(quick.sampler_init_top_k(_MAX_INFILL))
                wanted.append(self._member(name, s, seed))
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
        elif name == "infill":
            made = quick.sampler_init_infill(self._vocab.pointer)
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
            if len(self._dry) >= _MAX_DRY_PROTOTYPES:
                self._quick.sampler_free(self._dry.pop(next(iter(self._dry))))
            names = (ctypes.c_char_p * len(breakers))(*breakers)
            prototype = self._library.long.sampler_init_dry(
                self._vocab.pointer, s.dry_multiplier, s.dry_base, s.dry_allowed_length, window, names, len(breakers)
            )
            if not prototype:
                return 0
            self._dry[key] = prototype
        return int(self._quick.sampler_clone(prototype) or 0)

    def _cut(self, s: Sampling, works: tuple[str, ...], window: int) -> int:
        """k where nothing but penalties and DRY acts before top_k, and looking for the few pays; 0 otherwise."""
        first = next((name for name in works if name not in ("penalties", "dry")), "")
        return s.top_k if first == "top_k" and s.top_k + window <= self._n_vocab // STRIPES // 4 else 0


def working(s: Sampling) -> tuple[str, ...]:
    """The samplers that do anything with these values, in their order; of others the C ones return at once."""
    if s.mirostat:
        return ()
    is_plain = s.repeat_penalty == 1.0 and s.frequency_penalty == 0.0 and s.presence_penalty == 0.0
    does = {
        "penalties": s.repeat_last_n != 0 and not is_plain,
        "dry": s.dry_multiplier != 0.0 and s.dry_base >= 1.0 and s.dry_penalty_last_n != 0,
        "top_n_sigma": s.top_n_sigma > 0.0,
        "top_k": s.top_k > 0,
        "typ_p": s.typical_p < 1.0,
        "top_p": s.top_p < 1.0,
        "min_p": s.min_p > 0.0,
        "xtc": s.xtc_probability > 0.0 and s.xtc_threshold <= 0.5,
        "temperature": s.temperature != 1.0 or s.dynatemp_range > 0.0,
        "infill": True,
    }
    return tuple([name for name in s.samplers if does[name]])


def is_argmax(s: Sampling) -> bool:
    """Whether the chain can only choose the likeliest token after bias.

    Penalties and DRY change the logits; typical_p, xtc and infill may drop the likeliest; a dynamic temperature is
    not 0.
    top_k, top_p, min_p and top_n_sigma always keep it, wherever they stand.
    """
    if s.mirostat or s.temperature > 0.0 or s.dynatemp_range > 0.0 or "temperature" not in s.samplers:
        return False
    return _MAY_CHOOSE_OTHERS.isdisjoint(working(s))


_MAY_CHOOSE_OTHERS = frozenset(("penalties", "dry", "typ_p", "xtc", "infill"))

"""How the next token is chosen, as requests and manifests say it: samplers by name, their ranges and defaults.

Knows numbers; knows no words, and nothing of how a sampler works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TypedDict

from llamahost.core.errors import InvalidRequest


class SamplingOptions(TypedDict, total=False):
    """The sampling fields that a request may give; those it leaves out come from the model's defaults.

    They are llama.cpp's, by its names. At temperature 0 the likeliest token is taken each time. `samplers` are those of
    the chain, in its order; `logit_bias` pairs a token with what is added to its logit.
    """

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    seed: int | None
    samplers: tuple[str, ...]
    min_keep: int


SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""Those that a chain has where nothing is said, in llama.cpp's default order."""

KNOWN_SAMPLERS = (*SAMPLERS, "infill")
"""Every sampler that a chain may hold. Editors ask for `infill`: it ends what is filled in where ending is likely, and
keeps of the rest only what is likely, taking words that begin alike for one.
"""

SAMPLER_NAMES = {
    **{form: name for name in KNOWN_SAMPLERS for form in (name, name.replace("_", "-"), name.replace("_", ""))},
    "temp": "temperature",
    "typ": "typ_p",
    "typical_p": "typ_p",
    "typical-p": "typ_p",
    "nucleus": "top_p",
}
"""How else llama.cpp lets each be written, in requests and in files."""

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e4),
    "dynatemp_range": (0.0, 1e4),
    "dynatemp_exponent": (0.0, 1e4),
    "top_k": (-1, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1.0, 1e4),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 1e4),
    "mirostat_eta": (0.0, 1e4),
    "dry_multiplier": (0.0, 1e4),
    "dry_base": (0.0, 1e4),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
    "repeat_last_n": (-1, 2**31 - 1),
    "repeat_penalty": (1e-6, 1e4),
    "presence_penalty": (-1e4, 1e4),
    "frequency_penalty": (-1e4, 1e4),
    "min_keep": (0, 2**31 - 1),
}

MAX_BREAKERS = 32
"""Texts that end DRY's repetitions: for each, C walks the whole vocabulary while every stream waits, 20 ms of 152,000
tokens.
"""

MAX_BIASES = 65536
"""Tokens of a logit_bias, each of which is looked at for every token of the answer."""

_WHOLE = frozenset(name for name, (low, _) in RANGES.items() if isinstance(low, int))


def is_number(value: object, *, is_whole: bool) -> bool:
    """As C takes it: a fraction for a whole number would fail the step that it is in, and with it other requests."""
    return isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)


def _is_bias(pair: object) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    return is_number(pair[0], is_whole=True) and is_number(pair[1], is_whole=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults and the ranges are llama.cpp's.

    `temperature` 0 is greedy, and so is one below 1e-6. Off are `top_k` below 1, `top_p` 1, `min_p` 0, `typical_p` 1
    and `top_n_sigma` below 0.
    `repeat_last_n` and `dry_penalty_last_n` of -1 mean the whole context. `seed` None draws one. A bias of -inf bans.
    Raises InvalidRequest, with the field as `param`, on a value out of range.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    samplers: tuple[str, ...] = SAMPLERS
    min_keep: int = 0

    def __post_init__(self) -> None:
        self._check_ranges(RANGES)
        self._check_rest()

    def _check_ranges(self, names: Iterable[str]) -> None:
        for name in names:
            low, high = RANGES[name]
            value = getattr(self, name)
            if not is_number(value, is_whole=name in _WHOLE):
                kind = "a whole number" if name in _WHOLE else "a number"
                raise InvalidRequest(f"{name} must be {kind}, not {value!r:.40}", param=name)
            if not low <= value <= high:  # NaN compares false, so it is refused too
                raise InvalidRequest(f"{name} must be between {low:.10g} and {high:.10g}, not {value}", param=name)
        if 0.0 < self.temperature < 1e-6:
            # Greedy is what it means; logits of 32 bits divided by it would be infinite, and the choice noise.
            object.__setattr__(self, "temperature", 0.0)

    def _check_rest(self) -> None:
        if self.seed is not None and not (is_number(self.seed, is_whole=True) and 0 <= self.seed < 2**32):
            raise InvalidRequest(f"seed must be between 0 and 4294967295, not {self.seed}", param="seed")
        for sampler in self.samplers:
            if sampler not in KNOWN_SAMPLERS:
                known = ", ".join(KNOWN_SAMPLERS)
                raise InvalidRequest(f"unknown sampler `{sampler}`; the known ones are {known}", param="samplers")
        if len(self.dry_sequence_breakers) > MAX_BREAKERS:
            raise InvalidRequest(f"at most {MAX_BREAKERS} dry_sequence_breakers", param="dry_sequence_breakers")
        for breaker in self.dry_sequence_breakers:
            if not isinstance(breaker, str):
                raise InvalidRequest("dry_sequence_breakers must be texts", param="dry_sequence_breakers")
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest(f"at most {MAX_BIASES} tokens in logit_bias", param="logit_bias")
        for pair in self.logit_bias:
            if not _is_bias(pair):
                raise InvalidRequest(
                    f"logit_bias holds pairs of a token and a bias, not {pair!r:.40}", param="logit_bias"
                )
            token, bias = pair
            if token < 0 or token >= 2**31:
                raise InvalidRequest(f"logit_bias names the impossible token {token}", param="logit_bias")
            if not bias <= 1e6:  # NaN too; what is too large for 32 bits would be infinite, and then not a number
                raise InvalidRequest(f"logit_bias of token {token} must be at most 1e6, not {bias}", param="logit_bias")

    def with_options(self, options: SamplingOptions) -> Sampling:
        """These values, with those that `options` gives in their place. Raises InvalidRequest, TypeError."""
        if not options:
            return self
        made = self._copied()
        for name, value in options.items():
            if name not in _SETTERS:
                raise TypeError(f"there is no `{name}`")
            object.__setattr__(made, name, value)
        made._check_ranges([name for name in options if name in RANGES])  # the others were, when these were made
        if not options.keys() <= RANGES.keys():
            made._check_rest()
        return made

    def with_seed(self, seed: int) -> Sampling:
        """These values but for the seed, in [0, 2**32); checked once for all answers, which share a long bias."""
        made = self._copied()
        object.__setattr__(made, "seed", seed)
        return made

    def _copied(self) -> Sampling:
        made = object.__new__(Sampling)  # `copy` takes more than twice as long, and each answer has one
        for put, value in zip(_SETTERS.values(), _values(self), strict=True):
            put(made, value)
        return made


_SETTERS = {field.name: getattr(Sampling, field.name).__set__ for field in fields(Sampling)}
_values = attrgetter(*_SETTERS)

"""How an answer is made, by the fields that all routes share which make one. Knows no words and no tools."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from llamahost.api.affinity import key_of, priority_of
from llamahost.api.openai_types import Bias, Body, LoraScale
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import AdapterUse, Generation
from llamahost.core.sampling import KNOWN_SAMPLERS, SAMPLER_NAMES, SamplingOptions

_MAX_TOKENS = ("max_completion_tokens", "max_tokens", "n_predict")  # the newest name wins

_FLOATS_AND_INTS = (
    "temperature",
    "dynatemp_range",
    "dynatemp_exponent",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_keep",
)
"""Sampling fields that go through as they are, where they are given."""

_given = attrgetter(*_FLOATS_AND_INTS)

_LETTERS = dict(zip("edskypmxti", KNOWN_SAMPLERS, strict=True))  # llama.cpp's letter of each, in that order


def generation_of(body: Body, n_logprobs: int | None) -> Generation:
    """How the answer is made, for every route that makes one. Raises InvalidRequest."""
    if body.grammar_lazy:
        raise InvalidRequest("`grammar_lazy` is not served by this version", param="grammar_lazy")
    n_probs = body.n_probs or 0
    if n_probs > 0:
        if n_logprobs is not None:
            raise InvalidRequest("`n_probs` and `logprobs` differ in form; give one of them", param="n_probs")
        if n_probs > 20:
            raise InvalidRequest(f"`n_probs` must be at most 20, not {n_probs}", param="n_probs")
        n_logprobs = n_probs
    limit_ms = body.t_max_predict_ms or 0
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Generation(
        sampling=_sampling(body),
        stop=stop,
        max_tokens=limit_of(body, _MAX_TOKENS)[1],
        n=1 if body.n is None else body.n,
        n_logprobs=n_logprobs,
        is_post_sampling=n_probs > 0 and bool(body.post_sampling_probs),
        line_limit_s=limit_ms / 1000 if limit_ms > 0 else None,
        least_indent=body.n_indent or 0,
        tells_progress=bool(body.stream and body.return_progress),
        tells_timings=bool(body.stream and body.timings_per_token),
        ignore_eos=bool(body.ignore_eos),
        adapters=tuple(adapter_of(each, f"lora[{k}]") for k, each in enumerate(body.lora or ())),
        timeout_s=body.timeout,
        session_id=key_of(body.session_id, body.prompt_cache_key),
        user=key_of(body.user, body.safety_identifier),
        priority=priority_of(
            "batch" if body.priority is None and body.service_tier == "flex" else body.priority, "priority"
        ),
    )


def adapter_of(body: LoraScale, path: str) -> AdapterUse:
    """Raises InvalidRequest."""
    key = body.name if body.id is None else body.id
    if key is None or (body.id is not None and body.name is not None):
        raise InvalidRequest("an adapter is given by its `id` or its `name`, one of them", param=path)
    return AdapterUse(key, body.scale)


def limit_of(body: Body, names: Sequence[str]) -> tuple[str, int | None]:
    """The first of these names that is given, and the tokens; -1 is llama.cpp's way to say: without end."""
    for name in names:
        value: int | None = getattr(body, name)
        if value is None:
            continue
        if not -1 <= value < 2**31:
            raise InvalidRequest(f"`{name}` must be from 0 to {2**31 - 1}, or -1 for no limit, not {value}", param=name)
        return name, None if value == -1 else value
    return "", None


def _sampling(body: Body) -> SamplingOptions:
    options: SamplingOptions = {}
    for name, value in zip(_FLOATS_AND_INTS, _given(body), strict=True):
        if value is not None:
            options[name] = value  # type: ignore[literal-required] # each is a key of SamplingOptions, by a test
    if body.dry_sequence_breakers is not None:
        options["dry_sequence_breakers"] = tuple(body.dry_sequence_breakers)
    if body.logit_bias is not None:
        options["logit_bias"] = _logit_bias(body.logit_bias)
    if body.samplers is not None:
        options["samplers"] = _samplers(body.samplers)
    if body.seed is not None:
        # OpenAI allows 64 bits, llama.cpp has 32; -1 draws one. The same seed stays the same seed.
        options["seed"] = None if body.seed == -1 else body.seed % 2**32
    return options


def _logit_bias(bias: dict[str, Bias] | list[tuple[int | str, Bias]]) -> tuple[tuple[int, float], ...]:
    pairs = bias.items() if isinstance(bias, dict) else bias
    return tuple((_biased_token(token), _bias(value)) for token, value in pairs)


def _biased_token(token: int | str) -> int:
    if isinstance(token, int):
        return token
    if token.isascii() and token.isdigit() and len(token) <= 10:
        return int(token)
    raise InvalidRequest(f"`logit_bias` names `{token[:40]}`, which is not a token id", param="logit_bias")


def _bias(value: Bias) -> float:
    if value is True:
        raise InvalidRequest("a bias is a number, or false to ban the token", param="logit_bias")
    return float("-inf") if value is False else float(value)


def _samplers(samplers: str | list[str]) -> tuple[str, ...]:
    """By names, or by llama.cpp's letters in one string."""
    if isinstance(samplers, str):
        unknown = [letter for letter in samplers if letter not in _LETTERS]
        if unknown:
            raise InvalidRequest(
                f"unknown sampler letter `{unknown[0]}`; the known ones are {''.join(_LETTERS)}", param="samplers"
            )
        return tuple(_LETTERS[letter] for letter in samplers)
    return tuple(SAMPLER_NAMES.get(name.lower(), name) for name in samplers)

"""The limits of fields that their types do not say: told in the document, held where the core types are made.

Knows names and JSON Schema; refuses nothing. A test sends each limit, and what is beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamahost.core.sampling import MAX_BIASES, MAX_BREAKERS, RANGES
from llamahost.core.vectors import MAX_INPUTS
from llamahost.fleet.settings.adapter_spec import MAX_SCALE

Json = dict[str, object]

_COUNT_MAX = 2**31 - 1
_TOKENS: Json = {"minimum": -1, "maximum": _COUNT_MAX}

LIMITS: dict[str, Json] = {
    **{name: {"minimum": low, "maximum": high} for name, (low, high) in RANGES.items()},
    "n": {"minimum": 1, "maximum": 128},
    "best_of": {"minimum": 1, "maximum": 128},
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "n_predict": _TOKENS,
    "top_logprobs": {"minimum": 0, "maximum": 20},
    "n_probs": {"maximum": 20},
    "timeout": {"exclusiveMinimum": 0, "exclusiveMaximum": 10**9},
    "priority": {"minimum": -_COUNT_MAX, "maximum": _COUNT_MAX},
}
"""By field: what is added to the branch of its schema that is a number."""

COMPLETION_LIMITS: dict[str, Json] = {"logprobs": {"minimum": 0, "maximum": 20}}

INFILL_LIMITS: dict[str, Json] = {**LIMITS, "n": {"minimum": 1, "maximum": 1}}

TIMEOUT: dict[str, Json] = {"timeout": LIMITS["timeout"]}

MAX_STOPS, MAX_STOP_CHARACTERS = 64, 1024


def limit(components: dict[str, Json]) -> None:
    """Write the limits into the schemas of the bodies."""
    scale: Json = {"minimum": -MAX_SCALE, "maximum": MAX_SCALE}
    for name in ("LoraScale", "LoadAdapterBody"):
        _numbers(components[name], {"scale": scale})
    for name in ("EmbeddingsBody", "RerankBody"):
        properties = _numbers(components[name], TIMEOUT)
        _lists(properties.get("input", {}), {"minItems": 1})  # which may be one input of many tokens
        for field in ("documents", "texts"):
            _lists(properties.get(field, {}), {"minItems": 1, "maxItems": MAX_INPUTS})
    for name, limits in (
        ("ChatBody", LIMITS),
        ("CompletionBody", {**LIMITS, **COMPLETION_LIMITS}),
        ("InfillBody", INFILL_LIMITS),
    ):
        properties = _numbers(components[name], limits)
        for branch in _branches(properties["stop"]):
            text: Json = {"minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
            if branch.get("type") == "string":
                branch.update(text)
            elif branch.get("type") == "array":
                branch.update({"maxItems": MAX_STOPS, "items": {"type": "string", **text}})
        for branch in _branches(properties["dry_sequence_breakers"]):
            if branch.get("type") == "array":
                branch["maxItems"] = MAX_BREAKERS
        for branch in _branches(properties["logit_bias"]):
            if (kind := branch.get("type")) in ("array", "object"):
                branch["maxItems" if kind == "array" else "maxProperties"] = MAX_BIASES
        for field in ("messages", "prompt"):
            _lists(properties.get(field, {}), {"minItems": 1})


def _numbers(component: Json, limits: dict[str, Json]) -> dict[str, Json]:
    """The properties of a body, with these limits."""
    properties = component["properties"]
    assert isinstance(properties, dict)
    for field, keywords in limits.items():
        for branch in _branches(properties.get(field, {})):
            if branch.get("type") in ("number", "integer"):
                branch.update(keywords)
    return properties


def _lists(schema: Json, keywords: Json) -> None:
    for branch in _branches(schema):
        if branch.get("type") == "array":
            branch.update(keywords)


def _branches(schema: Json) -> Iterator[Json]:
    yield schema
    others = schema.get("anyOf", ())
    assert isinstance(others, list | tuple)
    yield from others

"""Order the models that a route stands for: who is asked first, and who when that one cannot. Pure; knows no request.

law: an order holds each model that may answer, once; who can answer at once comes before who cannot
law: a split gives each key the same model while its weights stay, and parts keys by weight; a model that cannot answer
     moves its own keys only
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from llamahost.fleet.settings.route_spec import RouteSpec


class Outlook(NamedTuple):
    """How a model is, as a route sees it. Of one that is not known, nothing speaks for it.

    `can_answer`: a replica is ready and has room. Rates are measured: 0 where nothing is known yet, which is worth
    trying. `answer_s` is how long answers took of late, from lease to end.
    """

    can_answer: bool = False
    n_in_flight: int = 0
    n_slots: int = 1
    prompt_per_s: float = 0.0
    tokens_per_s: float = 0.0  # of one answer
    n_generated: float = 0.0  # of an answer, of late
    answer_s: float = 0.0


UNKNOWN = Outlook()


def order(
    spec: RouteSpec, outlooks: Mapping[str, Outlook], *, key: str = "", n_prompt: int = 0, n_max: int | None = None
) -> tuple[str, ...]:
    """The models in the order in which they are asked. `key` is what a split is sticky by."""
    seen = {name: outlooks.get(name, UNKNOWN) for name in spec.models}
    match spec.strategy:
        case "fallback" | "quality":
            ranked = list(spec.models)
        case "split":
            ranked = _split(spec, key)
        case "speed":
            ranked = sorted(spec.models, key=lambda name: finish_s(seen[name], n_prompt, n_max))
        case "balanced":
            ranked = sorted(spec.models, key=lambda name: seen[name].n_in_flight / max(1, seen[name].n_slots))
    return tuple(sorted(ranked, key=lambda name: not seen[name].can_answer))


def finish_s(outlook: Outlook, n_prompt: int, n_max: int | None) -> float:
    """When an answer that is asked for now may be expected to be whole."""
    n_waiting = max(0, outlook.n_in_flight + 1 - outlook.n_slots)
    wait_s = n_waiting * outlook.answer_s / max(1, outlook.n_slots)
    n_tokens = outlook.n_generated if n_max is None else min(outlook.n_generated or n_max, n_max)
    prompt_s = n_prompt / outlook.prompt_per_s if outlook.prompt_per_s else 0.0
    return wait_s + prompt_s + (n_tokens / outlook.tokens_per_s if outlook.tokens_per_s else 0.0)


def _split(spec: RouteSpec, key: str) -> list[str]:
    """By the hash of key and model, drawn towards heavy ones: the least of -ln(u) / w is each with w's share."""
    weights = spec.weights or (1.0,) * len(spec.models)

    def distance(name: str, weight: float) -> float:
        if not weight:
            return math.inf  # it is left out, but for a model that cannot answer
        drawn = blake2b(f"{spec.name}\0{key}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return -math.log((int.from_bytes(drawn) + 1) / 2**64) / weight

    return [name for _, name in sorted((distance(n, w), n) for n, w in zip(spec.models, weights, strict=True))]

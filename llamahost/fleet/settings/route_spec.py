"""A name that stands for several models: the typed form of `[[routes]]`. Raises ManifestError on a wrong value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llamahost.core.errors import ManifestError
from llamahost.fleet.settings.ranges import is_share

Strategy = Literal["fallback", "split", "quality", "speed", "balanced"]

N_MODELS = 64
"""Of one route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """A name, the models that it stands for, and who of them answers.

    fallback  the first that can; one that is not in memory is waited for only where none is
    quality   the same, said of a list from the best one down
    split     by weights, the same one for the same session or user; another where that one cannot
    speed     the one that is expected to finish first, by what was measured and who waits; now and then another, to
              measure it anew: one request in twenty for each other at most, fewer where it is far slower
    balanced  the one with the fewest requests for its slots

    Whatever the strategy, the others follow where one fails before its first token.
    """

    name: str
    models: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    strategy: Strategy = "fallback"
    weights: tuple[float, ...] = ()  # of a split, one a model; empty: all alike

    def __post_init__(self) -> None:
        for key, names in (("name", (self.name,)), ("aliases", self.aliases), ("models", self.models)):
            if not isinstance(names, tuple):
                raise ManifestError(f"{key} must be a list of texts, not {names!r}", key=key)
            for name in names:
                if not isinstance(name, str) or not name.strip() or len(name) > 256:
                    raise ManifestError(f"{key}: a name has 1 to 256 characters, not {name!r}", key=key)
        if not 1 <= len(self.models) <= N_MODELS or len(set(self.models)) < len(self.models):
            raise ManifestError(f"models must be 1 to {N_MODELS} different ones", key="models")
        if self.strategy not in get_args(Strategy):
            raise ManifestError(
                f"strategy must be one of {', '.join(get_args(Strategy))}, not {self.strategy!r}", key="strategy"
            )
        if self.weights == ():
            return
        if self.strategy != "split":
            raise ManifestError('weights belong to strategy = "split"', key="weights")
        if not isinstance(self.weights, tuple) or len(self.weights) != len(self.models):
            raise ManifestError(f"weights must be {len(self.models)} numbers, one a model", key="weights")
        if not all(is_share(weight) for weight in self.weights) or not sum(self.weights):
            raise ManifestError("weights must be numbers between 0 and 1e6, not all 0", key="weights")

"""Which model and which adapter a request's name means: `model:adapter`, forgiven as a model's name is. Pure.

law: no name of an adapter is passed over as a tag that says nothing: who asks for one is answered with it, or told
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from llamahost.core.errors import ModelNotFound
from llamahost.fleet.crew.place import Place
from llamahost.fleet.replica.adapters import adapter_named
from llamahost.fleet.routing.names import WILDCARD, Names, folded

LATEST = "latest"
"""The tag that every model has."""


class Adapted:
    """Owned by the loop. `places` are the models by any name that they answer to; their adapters come and go."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        # Whoever asks for an adapter names a model, and no wildcard: those stand for others' names.
        self._names = Names((name, place.name) for name, place in places.items() if WILDCARD not in name)

    def find(self, name: str) -> tuple[str, str]:
        """The model, or what is not known here, and the adapter, which may be none. Raises ModelNotFound."""
        places = self._places
        found = adapter_named(name, {known: place.spec.adapters for known, place in places.items()})
        if found is not None:
            return places[found[0]].name, found[1]
        model, colon, adapter = name.rpartition(":")
        if colon and self._names.find(f"{model}-{adapter}") is None:
            return self._tagged(name, model, adapter)
        if any(place.numbers.had(name, place.spec.adapters) for place in places.values()):
            raise ModelNotFound(name)
        return name, ""

    def _tagged(self, name: str, model: str, tag: str) -> tuple[str, str]:
        meant = self._names.find(model)
        place = self._places[meant] if meant is not None else None
        adapters = [] if place is None else [spec.name for spec in place.spec.adapters]
        same = [each for each in adapters if folded(each) == folded(tag)]
        if meant is not None and len(same) == 1:
            return meant, same[0]
        if folded(tag) == LATEST:
            return name, ""
        if place is not None and (adapters or place.numbers.had(tag, place.spec.adapters)):
            nearest = difflib.get_close_matches(tag, adapters, n=1)
            raise ModelNotFound(name, nearest=f"{meant}:{nearest[0]}" if nearest else meant or "")
        owners = [each for each in self._places.values() if any(spec.name == tag for spec in each.spec.adapters)]
        if owners:  # asked of a route, or of a model beside the one that has it
            raise ModelNotFound(name, nearest=f"{owners[0].name}:{tag}")
        return name, ""

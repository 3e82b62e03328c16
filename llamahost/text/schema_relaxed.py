"""A schema without what no grammar expresses: what is valid under it is valid under the rest of the schema. Refuses
nothing; for whoever would else hold to nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llamahost.text.schema import REFUSED
from llamahost.text.schema_formats import keywords_of
from llamahost.text.schema_places import DEPTH

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_NESTED = frozenset({"items", "prefixItems", "additionalItems", "additionalProperties", "allOf", "anyOf"})
_DROPPED = frozenset({*REFUSED, "then", "else", "minContains", "maxContains"})
_LOOKS_AROUND = re.compile(r"\(\?[=!<]|\\[1-9bB]")


def relaxed(schema: object, depth: int = 0) -> object:
    if isinstance(schema, list):
        return [relaxed(each, depth + 1) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    if depth > DEPTH:
        return {}
    made: dict[str, object] = {}
    for key, value in schema.items():
        if key in _DROPPED or not _is_kept(key, value, schema):
            continue
        if key in _NAMED and isinstance(value, Mapping):
            made[key] = {name: relaxed(each, depth + 1) for name, each in value.items()}
        elif key == "oneOf":  # which of them alone is valid is not looked at
            made.setdefault("anyOf", relaxed(value, depth + 1))
        else:
            made[key] = relaxed(value, depth + 1) if key in _NESTED else value
    return made


def _is_kept(key: str, value: object, schema: Mapping[str, object]) -> bool:
    if key == "format":
        kept = keywords_of(value)
        return kept is not None and not ("pattern" in kept and "pattern" in schema)
    if key == "pattern":
        return isinstance(value, str) and not _LOOKS_AROUND.search(value)
    if key == "$ref":
        return isinstance(value, str) and value.startswith("#")
    return True

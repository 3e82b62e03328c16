"""Whether a schema has a value that ends: one that always holds another of its kind would be written for ever.

Knows schemas as `text/schema` makes them: draft 2020-12, every reference to `$defs`. The least fixed point over these:
a definition ends if it does so with only those that are known to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from llamahost.text.least import least

_PREFIX = "#/$defs/"


def has_an_end(schema: dict[str, Any]) -> bool:
    definitions: dict[str, Any] = schema.get("$defs", {})
    needs = {name: list(_references(each)) for name, each in definitions.items()}
    return _ends(schema, least(needs, lambda name, ending: _ends(definitions[name], ending)))


def _references(schema: object) -> Iterator[str]:
    """Every definition that is named in it; in values that only look so, one too many does no harm."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix(_PREFIX)
        for each in schema.values():
            yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def _ends(schema: object, ending: Set[str]) -> bool:
    """With no definition but these."""
    if not isinstance(schema, dict):
        return schema is not False
    if "$ref" in schema and schema["$ref"].removeprefix(_PREFIX) not in ending:
        return False
    if not all(_ends(each, ending) for each in schema.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_ends(option, ending) for option in schema[key]):
            return False
    if "const" in schema or "enum" in schema:
        return True
    types = schema.get("type", "null")  # unsaid, it may be anything, null among that
    types = types if isinstance(types, list) else [types]
    return any(_ends_as(kind, schema, ending) for kind in types)


def _ends_as(kind: str, schema: dict[str, Any], ending: Set[str]) -> bool:
    """As a value of that type."""
    if kind == "object":
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return all(_ends(properties.get(name, others), ending) for name in schema.get("required", ()))
    if kind == "array":
        n = schema.get("minItems", 0)
        prefix = schema.get("prefixItems", [])
        if not all(_ends(item, ending) for item in prefix[:n]):
            return False
        return n <= len(prefix) or _ends(schema.get("items", True), ending)
    return True

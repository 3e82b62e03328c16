"""Take a schema apart into schemas of one type each, for families that write strings otherwise than the rest. Knows
JSON Schema; knows no family and compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamahost.text.formats.calls import found_at
from llamahost.text.formats.values import of_type

_SAID = frozenset({"title", "description", "default", "examples", "$defs", "definitions"})
MAX_DEPTH = 8
MAX_OPTIONS = 64

Schema = Mapping[str, object]


def options_of(schema: object, root: Schema) -> list[Schema] | None:
    """Those that it is the union of; a string's choices stand in an `enum` alone. None where that is not seen."""
    found = _options(schema, root, 0)
    return found if found and len(found) <= MAX_OPTIONS else None


def _options(schema: object, root: Schema, depth: int) -> list[Schema] | None:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    asked = set(schema) - _SAID
    if asked == {"$ref"}:
        return _options(found_at(str(schema["$ref"]), root), root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        if asked == {word} and isinstance(branches, list):
            return _united(word, branches, root, depth)
    kind = schema.get("type")
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        if not asked <= {"enum", "type"} and not asked <= {"const", "type"}:
            return None
        return _chosen(choices, kind)
    defs = {word: root[word] for word in ("$defs", "definitions") if word in root}
    kinds = kind if isinstance(kind, list) else [kind]
    if not all(isinstance(each, str) for each in kinds):
        return None
    return [each if each["type"] == "string" else {**each, **defs} for each in (of_type(schema, one) for one in kinds)]


def _united(word: str, branches: list[object], root: Schema, depth: int) -> list[Schema] | None:
    if len(branches) > (1 if word == "allOf" else MAX_OPTIONS):
        return None
    options: list[Schema] = []
    for branch in branches:
        found = _options(branch, root, depth + 1)
        if found is None or len(options) + len(found) > MAX_OPTIONS:
            return None
        options += found
    kinds = ["number" if each.get("type") == "integer" else each.get("type") for each in options]
    if word == "oneOf" and (None in kinds or len(set(map(str, kinds))) < len(kinds)):
        return None  # what is valid under two of them is not valid
    return options


def _chosen(choices: object, kind: object) -> list[Schema] | None:
    if not isinstance(choices, list) or not choices:
        return None
    texts = [choice for choice in choices if isinstance(choice, str)]
    others = [choice for choice in choices if not isinstance(choice, str)]
    if isinstance(kind, str):
        if (kind != "string") == bool(texts) or (kind == "string" and others):
            return None
    elif kind is not None:
        return None
    found: list[Schema] = [{"type": "string", "enum": texts}] if texts else []
    return [*found, {"enum": others}] if others else found

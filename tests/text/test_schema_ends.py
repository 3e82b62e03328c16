"""Laws of ends: a schema is refused where every value of it holds another of its kind, and only there."""

from typing import Any

import pytest

from llamahost.text.schema import convert
from llamahost.text.schema_places import Unexpressed

NODE: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}}
ENDLESS: list[dict[str, Any]] = [
    {"$ref": "#"},
    {**NODE, "required": ["next"]},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"type": "array", "prefixItems": [{"type": "null"}, {"$ref": "#"}], "minItems": 2},
    {"anyOf": [{"$ref": "#"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"allOf": [{"type": "object"}, {"$ref": "#"}]},
    {"type": ["object"], "required": ["x"], "additionalProperties": {"$ref": "#"}},
]
ENDING: list[dict[str, Any]] = [
    {},
    NODE,
    {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    {"type": "array", "items": {"$ref": "#"}},
    {"type": "array", "prefixItems": [{"type": "null"}, {"$ref": "#"}], "minItems": 1},
    {"type": ["object", "string"], "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
    {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]},
]


@pytest.mark.parametrize("schema", ENDLESS)
def test_what_never_ends_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Unexpressed, match="ever ends") as told:
        convert(schema, "json_schema")
    assert told.value.param == "json_schema"


@pytest.mark.parametrize("schema", ENDING)
def test_what_can_end_is_taken(schema: dict[str, Any]) -> None:
    convert(schema, "json_schema")

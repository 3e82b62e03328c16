"""What of JSON Schema is kept, and what is refused by keyword and place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output
from llamahost.text.constraint import MAX_SCHEMA, explained, grammar_of, regex
from llamahost.text.schema import convert
from llamahost.text.schema_places import Unexpressed
from llamahost.text.schema_relaxed import relaxed


def compiles(grammar: str) -> None:
    if complaint := LLMatcher.validate_grammar(grammar):
        raise InvalidRequest(complaint)


def held(schema: Any) -> dict[str, Any]:
    made = convert(schema, "it")
    compiles(grammar_of(Output("schema", json.dumps(schema), "it")))
    return made


def test_annotations_unknown_keywords_and_the_compilers_own_are_left_out() -> None:
    schema = {"title": "T", "description": "d", "x-guidance": {"lenient": True}, "examples": [1], "type": "string"}
    assert held(schema) == {"type": "string"}


def test_references_become_definitions_of_ours_wherever_they_point() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/odd~1name"}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#"}},
        "definitions": {"odd/name": {"$anchor": "here", "type": "integer"}, "not used": {"not": {}}},
    }
    made = held(schema)
    assert made["$defs"]["d0"] == {"type": "integer"}
    assert made["$defs"]["d1"] == {"$ref": "#/$defs/d0"}
    assert made["$defs"]["d2"]["properties"]["c"] == {"$ref": "#/$defs/d2"}
    assert held({"items": {"$ref": "#here"}, "$defs": {"x": {"$anchor": "here", "type": "null"}}})["$defs"] == {
        "d0": {"type": "null"}
    }


def test_older_drafts_are_written_anew() -> None:
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    assert held(old)["exclusiveMinimum"] == 3
    tuple_ = {"items": [{"type": "string"}], "additionalItems": False}
    assert held(tuple_) == {"prefixItems": [{"type": "string"}], "items": False}
    alone = {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "type": "null"}
    assert held({**alone, "definitions": {"a": {"type": "string"}}})["$defs"] == {"d0": {"type": "string"}}


def test_an_object_that_names_its_properties_has_no_others_unless_schemas_are_joined() -> None:
    named = {"type": "object", "properties": {"a": {"properties": {"b": {}}}}}
    made = held(named)
    assert made["additionalProperties"] is False
    assert made["properties"]["a"]["additionalProperties"] is False
    joins: list[dict[str, Any]] = [
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
        {"$ref": "#/$defs/x", "properties": {"a": {}}, "$defs": {"x": {"properties": {"b": {}}}}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 2, "required": ["a"]},
        {"properties": {"a": {}}, "additionalProperties": True},
    ]
    for joined in joins:
        assert '"additionalProperties": false' not in json.dumps(held(joined))
    options = held({"anyOf": [{"properties": {"a": {}}}, {"type": "null"}]})["anyOf"]
    assert options[0]["additionalProperties"] is False


def test_a_discriminated_union_is_told_apart_by_what_each_names_itself() -> None:
    animals = {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}},
            "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}},
        },
    }
    assert [option["required"] for option in held(animals)["anyOf"]] == [["kind"], ["kind"]]


def test_formats_that_say_only_what_a_value_is_for_ask_for_nothing() -> None:
    assert held({"type": "integer", "format": "int32"}) == {"type": "integer"}
    assert held({"type": "string", "format": "password"}) == {"type": "string"}
    assert "-4[" in held({"type": "string", "format": "uuid4"})["pattern"]


REFUSED: list[tuple[Any, str]] = [
    ({"not": {"type": "string"}}, "/not"),
    ({"if": {"type": "string"}, "then": {"minLength": 1}}, "/if"),
    ({"type": "array", "contains": {"const": 1}}, "/contains"),
    ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
    ({"propertyNames": {"pattern": "a"}}, "/propertyNames"),
    ({"dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
    ({"dependentSchemas": {"a": {}}}, "/dependentSchemas"),
    ({"dependencies": {"a": ["b"]}}, "/dependencies"),
    ({"allOf": [{}], "unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({"unevaluatedItems": False}, "/unevaluatedItems"),
    ({"$dynamicRef": "#a"}, "/$dynamicRef"),
    ({"properties": {"a/b": {"format": "colour"}}}, "/properties/a~1b/format"),
    ({"format": "regex"}, "/format"),
    ({"format": ["date"]}, "/format"),
    ({"format": "uuid4", "pattern": "a"}, "/format"),
    ({"items": {"anyOf": [{}, {"type": "any"}]}}, "/items/anyOf/1/type"),
    ({"properties": {"a": {"$ref": "http://x/y"}}}, "/properties/a/$ref"),
    ({"$ref": "#/nowhere"}, "/$ref"),
    ({"$ref": f"#/anyOf/{'9' * 5000}", "anyOf": [{}]}, "/$ref"),
    ({"$ref": "#nowhere"}, "/$ref"),
    ({"$defs": {"a": {"enum": []}}, "items": {"$ref": "#/$defs/a"}}, "/$defs/a/enum"),
    ({"minLength": -1}, "/minLength"),
    ({"maxItems": 1.5}, "/maxItems"),
    ({"maximum": "3"}, "/maximum"),
    ({"minimum": 10**400}, "/minimum"),
    ({"multipleOf": 0}, "/multipleOf"),
    ({"required": "a"}, "/required"),
    ({"pattern": 3}, "/pattern"),
    ({"anyOf": []}, "/anyOf"),
    ({"properties": [1]}, "/properties"),
    ({"items": 3}, "/items"),
    ({"$defs": {"a": {"$id": "b", "items": {"$ref": "#"}}}, "$ref": "#/$defs/a"}, "/$defs/a/$id"),
    (False, ""),
    (3, ""),
]


def test_a_relaxed_schema_can_be_held_to_and_takes_all_that_the_whole_one_takes() -> None:
    words = {"not", "if", "contains", "uniqueItems", "propertyNames", "dependencies", "format", "unevaluatedItems"}
    n_seen = 0
    for schema, path in REFUSED:
        if path.rpartition("/")[2] in words:
            convert(relaxed(schema), "it")
            n_seen += 1
    assert n_seen >= len(words)
    whole = {
        "properties": {
            "not": {"type": "string", "pattern": "a(?=b)", "maxLength": 3},
            "x": {"oneOf": [{"type": "integer", "not": {"const": 3}}, {"type": "number"}]},
        },
        "required": ["not"],
        "not": {"required": ["y"]},
    }
    assert relaxed(whole) == {
        "properties": {
            "not": {"type": "string", "maxLength": 3},
            "x": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        },
        "required": ["not"],
    }


@pytest.mark.parametrize(("schema", "path"), REFUSED)
def test_what_cannot_be_held_to_is_refused_with_its_place(schema: Any, path: str) -> None:
    with pytest.raises(Unexpressed) as caught:
        convert(schema, "it")
    assert caught.value.path == path
    assert caught.value.param == f"it{path}"


@pytest.mark.parametrize(
    "schema",
    [
        {"not": False},
        {"if": {}},
        {"then": {"not": {}}},
        {"uniqueItems": False},
        {"uniqueItems": True, "maxItems": 1},
        {"contains": {}, "minContains": 0},
        {"propertyNames": True},
        {"dependentRequired": {}},
        {"properties": {"a": {}}, "unevaluatedProperties": False},
        {"$defs": {"unused": {"not": {}}}},
        True,
        {},
    ],
)
def test_a_keyword_that_asks_for_nothing_is_no_reason_to_refuse(schema: Any) -> None:
    held(schema)


def test_a_schema_is_bounded_in_depth_and_in_size() -> None:
    deep: Any = {"type": "string"}
    for _ in range(70):
        deep = {"items": deep}
    with pytest.raises(Unexpressed, match="nested more than 64 deep"):
        convert(deep, "it")
    with pytest.raises(Unexpressed, match="more than 10000 schemas"):
        convert({"anyOf": [{"type": "null"}] * 10_001}, "it")
    with pytest.raises(InvalidRequest, match="at most 262144"):
        grammar_of(Output("schema", " " * 262145, "it"))
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        grammar_of(Output("schema", "[" * 100_000, "it"))


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}, "/properties/a"),
        ({"items": {"properties": {"q": {"type": "string", "pattern": "(?!a)"}}}}, "/items/properties/q"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "pattern": "("}}}, "/$defs/a"),
    ],
)
def test_what_the_compiler_refuses_is_told_with_its_place(schema: Any, path: str) -> None:
    output = Output("schema", json.dumps(schema), "it")
    grammar = grammar_of(output)
    with pytest.raises(InvalidRequest) as caught:
        compiles(grammar)
    error = explained(output, caught.value, compiles)
    assert error.param == f"it{path}"
    assert "coerce" not in str(error)


def test_the_search_for_the_place_at_fault_compiles_little() -> None:
    large = {"type": "object", "properties": {f"p{k}": {"type": "string", "pattern": "a" * 90} for k in range(400)}}
    items = {f"k{k}": {"type": "array", "items": {"$ref": "#/$defs/large"}, "minItems": k} for k in range(40)}
    schema = {"properties": items, "$defs": {"large": large}}
    tried: list[str] = []
    explained(Output("schema", json.dumps(schema), "it"), InvalidRequest("it is not known why"), tried.append)
    assert sum(map(len, tried)) <= MAX_SCHEMA + max(map(len, tried))


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        ("a/b", r"/a\/b/"),
        (r"a\/b", r"/a\/b/"),
        ("a\nb", r"/a\nb/"),
        ("a\\\nb", r"/a\nb/"),  # a line break behind a backslash is one all the same
        ("a\\\\\nb", r"/a\\\nb/"),  # behind two, it comes after one
        ("", '""'),
    ],
)
def test_a_pattern_is_written_in_one_line_and_means_what_it_did(pattern: str, written: str) -> None:
    assert regex(pattern) == written

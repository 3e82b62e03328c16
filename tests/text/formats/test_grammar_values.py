"""Laws of values in the grammars of calls: they fit their schemas also where they are not written as JSON."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.text.constraint import json_of
from llamahost.text.formats.calls import types_named
from llamahost.text.formats.format import Talk
from llamahost.text.formats.tagged_calls import TaggedCalls
from tests.text.formats.reading import read
from tests.text.formats.writing import WRITERS, allows, constraint, embed, held, matcher_of, walked


@pytest.mark.parametrize("name", ["llama-python", "gemma-4"])
@pytest.mark.parametrize(
    ("schema", "is_exact"),
    [
        ({"type": "string", "minLength": 1, "maxLength": 3}, True),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, True),
        ({"type": ["boolean", "number"]}, True),
        ({"enum": ["a'\"\\", 3, True, None]}, True),
        ({"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 1, "maxItems": 2}, True),
        (
            {
                "type": "object",
                "properties": {"x": {"type": "string", "maxLength": 3}, "a": {"$ref": "#/$defs/t"}},
                "required": ["a"],
            },
            True,
        ),
        ({"type": "string", "pattern": "^a+$|^[b-d]{2}", "maxLength": 4}, True),
        ({"type": "string", "format": "date"}, True),
        ({"type": "string", "pattern": "a(^b)"}, False),
        ({"type": "object"}, True),
        ({}, True),
        ({"oneOf": [{"type": "string"}, {"type": "string"}]}, False),
    ],
)
def test_values_that_are_not_written_as_json_are_valid_all_the_same(name: str, schema: Any, is_exact: bool) -> None:
    root = {
        "type": "object",
        "properties": {"z": schema, "b": {"type": "boolean"}},
        "required": ["z"],
        "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
    }
    for strict in (True, False):
        tools = (Tool(name="f", parameters=root, strict=strict),)
        if strict and not is_exact:
            with pytest.raises(InvalidRequest) as refused:
                constraint(WRITERS[name], held(tools, n_calls=1), {}, embed)
            assert str(refused.value.param).startswith("tools[0].function.parameters/properties/z")
            continue
        grammar = constraint(WRITERS[name], held(tools, n_calls=1), {}, embed).grammar
        for seed in range(1 if strict else 2):  # a strict one's grammar is the same, where there is one
            [(called, arguments)] = read(Talk(WRITERS[name]), walked(grammar, seed), 7, tools=tools).calls
            assert called == "f"
            assert jsonschema.Draft202012Validator(root).is_valid(json.loads(arguments)) or not is_exact


@pytest.mark.parametrize("name", [name for name, family in WRITERS.items() if isinstance(family, TaggedCalls)])
def test_strings_between_tags_are_held_to_what_is_asked_of_them(name: str) -> None:
    properties = {
        "code": {"type": "string", "pattern": "^[A-Z]{2}/[0-9]+$", "maxLength": 6},
        "day": {"type": "string", "format": "date"},
        "host": {"type": "string", "format": "ipv4"},
        "kind": {"type": "string", "const": "a b"},
    }
    root = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    family, tools = WRITERS[name], (Tool(name="f", parameters=root, strict=True),)
    for seed in range(3):
        text = walked(constraint(family, held(tools, n_calls=1), {}, embed).grammar, seed)
        [(_, arguments)] = read(Talk(family), text, 7, tools=tools).calls
        jsonschema.Draft202012Validator(root).validate(json.loads(arguments))
    properties["code"] = {"type": "string", "not": {}}
    with pytest.raises(InvalidRequest, match="`not`") as refused:
        constraint(family, held(tools), {}, embed)
    assert refused.value.param == "tools[0].function.parameters/properties/code/not"


OTHERS = ["kimi-k3", "minimax-m3", "gemma-4", "llama-python"]  # that write values otherwise than as JSON, too
COLOR = {"$defs": {"color": {"type": "string", "enum": ["red", "1", "null"]}}}
TYPED = [
    {"$ref": "#/$defs/color"},
    {"anyOf": [{"$ref": "#/$defs/color"}, {"type": "null"}]},
    {"allOf": [{"$ref": "#/$defs/color"}]},
    {"type": ["string", "null"], "pattern": "^[a-z]{1,3}$"},
    {"anyOf": [{"type": "string", "pattern": "^[0-9a]{2}$"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"enum": ["a", 1, None, True]},
    {"enum": ["1", 1]},
    {"type": "string", "minLength": 3.0, "maxLength": 4.0},
    {"anyOf": [{"type": "null"}]},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
]


@pytest.mark.parametrize("name", [name for name in WRITERS if isinstance(WRITERS[name], TaggedCalls)] + OTHERS)
def test_a_strict_argument_is_valid_however_its_type_is_said(name: str) -> None:
    for seed, schema in enumerate(TYPED):
        form = {"type": "object", "properties": {"x": schema}, "required": ["x"], **COLOR}
        tool = Tool(name="f", parameters=form, strict=True)
        try:
            grammar = constraint(WRITERS[name], held([tool], n_calls=1), {}, json_of).grammar
        except InvalidRequest:
            continue  # told, and not served otherwise
        (call,) = read(Talk(WRITERS[name]), walked(grammar, seed, printable=True), 7, tools=(tool,)).calls
        jsonschema.validate(json.loads(call[1]), form)


def test_an_optional_string_stands_between_tags_as_models_write_it() -> None:
    tool = Tool(
        name="f",
        parameters={
            "type": "object",
            "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "y": {"$ref": "#/$defs/color"}},
            "required": ["x", "y"],
            **COLOR,
        },
        strict=True,
    )
    grammar = constraint(WRITERS["glm"], held([tool], n_calls=1), {}, json_of).grammar
    text = (
        "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>Sankt</arg_value>\n"
        "<arg_key>y</arg_key>\n<arg_value>red</arg_value>\n</tool_call>"
    )
    assert allows(grammar, text)
    assert not allows(grammar, text.replace(">red<", '>"red"<'))


@pytest.mark.parametrize("name", WRITERS)
def test_references_in_circles_are_told_or_written_and_never_followed_for_ever(name: str) -> None:
    loop = {"anyOf": [*({"$ref": "#/$defs/a"} for _ in range(40)), {"type": "null"}, {"type": "string"}]}
    known = {"$defs": {"a": loop, "b": {"$ref": "#/$defs/b"}, "c": {"not": {"type": "string"}}}}
    properties = {f"x{k}": {"$ref": f"#/$defs/{to}"} for k, to in enumerate("aabbcc")}
    tool = Tool(name="f", parameters={"type": "object", "properties": properties, **known})
    wanted = constraint(WRITERS[name], held([tool], n_calls=1), {}, json_of, is_loose=True)
    matcher = matcher_of(wanted.grammar)
    assert not matcher.is_error(), matcher.get_error()
    assert types_named(properties["x0"], tool.parameters) == {"null", "string"}

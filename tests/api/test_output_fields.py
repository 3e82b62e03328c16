"""Every field that asks for a form of output, and what is said of one that cannot be had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamahost.api.openai_output import output_of
from llamahost.api.openai_types import CHAT
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output
from tests.api.fakes import PreparingHost, app_of, client_of, run

MESSAGES = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCHEMA_TEXT = json.dumps(SCHEMA)


def asked(**fields: Any) -> Output:
    return output_of(CHAT.decode(json.dumps({"messages": MESSAGES, **fields}).encode()))


ASKED: list[tuple[dict[str, Any], Output]] = [
    ({}, Output()),
    ({"response_format": {"type": "text"}}, Output()),
    ({"response_format": {"type": "json_object"}}, Output("json", param="response_format")),
    (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        Output("schema", SCHEMA_TEXT, "response_format.schema"),
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}},
        Output("schema", SCHEMA_TEXT, "response_format.json_schema.schema"),
    ),
    (
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        Output("schema", SCHEMA_TEXT, "response_format.schema"),
    ),
    ({"json_schema": SCHEMA}, Output("schema", SCHEMA_TEXT, "json_schema")),
    ({"grammar": 'root ::= "a"'}, Output("grammar", 'root ::= "a"', "grammar")),
    ({"grammar": '%llguidance {}\nstart: "a"'}, Output("lark", '%llguidance {}\nstart: "a"', "grammar")),
    ({"grammar": ""}, Output()),
    ({"guided_json": SCHEMA}, Output("schema", SCHEMA_TEXT, "guided_json")),
    ({"guided_json": SCHEMA_TEXT}, Output("schema", SCHEMA_TEXT, "guided_json")),
    ({"guided_regex": "[0-9]+"}, Output("regex", "[0-9]+", "guided_regex")),
    ({"guided_choice": ["a", "é"]}, Output("choice", '["a", "é"]', "guided_choice")),
    ({"guided_grammar": 'root ::= "a"'}, Output("grammar", 'root ::= "a"', "guided_grammar")),
    ({"guided_grammar": 'start: "a"'}, Output("lark", 'start: "a"', "guided_grammar")),
    ({"structured_outputs": {"json": SCHEMA}}, Output("schema", SCHEMA_TEXT, "structured_outputs.json")),
    ({"structured_outputs": {"regex": "a|b"}}, Output("regex", "a|b", "structured_outputs.regex")),
    ({"structured_outputs": {"choice": ["a"]}}, Output("choice", '["a"]', "structured_outputs.choice")),
    (
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
        Output("grammar", 'root ::= "a"', "structured_outputs.grammar"),
    ),
    ({"structured_outputs": {"lark": 'a: "a"'}}, Output("lark", 'a: "a"', "structured_outputs.lark")),
    ({"structured_outputs": {"json_object": True}}, Output("json", param="structured_outputs.json_object")),
    ({"structured_outputs": {"json_object": False}}, Output()),
]


@pytest.mark.parametrize(("fields", "output"), ASKED)
def test_each_way_of_asking_is_read(fields: dict[str, Any], output: Output) -> None:
    assert asked(**fields) == output


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert caught.value.param == param


def strict(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


PLACE = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            strict({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}),
            f"{PLACE}/properties/a/not",
            "`not` is not supported",
        ),
        (
            strict({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "uniqueItems": True}}}),
            f"{PLACE}/$defs/a/uniqueItems",
            "`uniqueItems`",
        ),
        (
            strict({"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}),
            f"{PLACE}/properties/a",
            "`oneOf`",
        ),
        (
            strict({"properties": {"a": {"items": {"type": "string", "pattern": "a(?=b)"}}}}),
            f"{PLACE}/properties/a/items",
            "look-around",
        ),
        (strict({"type": "string", "format": "colour"}), f"{PLACE}/format", "date-time"),
        ({"guided_regex": "a(?=b)"}, "guided_regex", "look-around"),
        ({"guided_regex": "a("}, "guided_regex", "`guided_regex`: unclosed group"),
        ({"guided_choice": []}, "guided_choice", "at least one"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"grammar": 'root ::= "a'}, "grammar", "line 1, column 10"),
        ({"grammar": 'root ::= a\na ::= b "x"'}, "grammar", "line 2, column 7"),
        ({"guided_grammar": "start: nowhere"}, "guided_grammar", "nowhere"),
    ],
)
def test_what_cannot_be_held_to_is_a_400_that_names_the_place(fields: dict[str, Any], param: str, words: str) -> None:
    async def law() -> None:
        async with client_of(app_of(PreparingHost())) as client:
            response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert words in error["message"]

    run(law)

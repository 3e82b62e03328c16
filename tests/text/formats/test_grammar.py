"""Laws of the grammars of calls: they compile, and whatever they allow is read as calls that fit their schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.core.work import Constraint
from llamahost.text.constraint import json_of
from llamahost.text.formats.calls import types_named
from llamahost.text.formats.format import Asked, Talk, Thinking
from llamahost.text.formats.functionary import FUNCTIONARY_3_2
from llamahost.text.formats.grammar import Embed, Held, Rules, Writes, calls_constraint
from llamahost.text.formats.harmony import HARMONY
from llamahost.text.formats.muse import MUSE
from llamahost.text.formats.table import FAMILIES
from llamahost.text.formats.tagged_calls import TaggedCalls
from tests.text.formats.reading import Told, read

llguidance = pytest.importorskip("llguidance")

TOOLS = (
    Tool(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"enum": ["Sankt Pölten", "Paris"], "type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 3},
                "exact": {"type": "boolean"},
                "where": {"$ref": "#/$defs/place"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {
                "place": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
                    "required": ["n"],
                    "additionalProperties": False,
                }
            },
        },
    ),
    Tool(name="get", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
)
THINKING = Thinking("<think>", "</think>")
WRITERS = {family.name: family for family in FAMILIES if isinstance(family, Writes)}


def embed(schema: object, param: str) -> str:
    assert isinstance(schema, dict)
    style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return f"%json {json.dumps({'x-guidance': style, **schema})}"


OTHERS = ["kimi-k3", "minimax-m3", "gemma-4", "llama-python"]  # that write values otherwise than as JSON, too


def constraint(
    family: Writes, held: Held, marks: dict[str, int], embed: Embed, *, is_loose: bool = False
) -> Constraint:
    return calls_constraint(family, held, Rules(marks, embed, is_loose=is_loose))


def held(tools: Sequence[Tool] = TOOLS, *, is_required: bool = True, n_calls: int | None = None) -> Held:
    return Held(tuple(tools), is_required, n_calls, is_thinking=False, thinking=None)


def rules() -> Rules:
    return Rules({}, embed)


def walked(grammar: str, seed: int, n_max: int = 3000, *, printable: bool = False) -> str:
    """A text that the grammar allows, byte by byte at random, ended as soon as it may end."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    draw = random.Random(seed)
    written = bytearray()
    while not matcher.is_accepting() and len(written) < n_max:
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(256) if mask[token >> 3] >> (token & 7) & 1]
        some = [token for token in allowed if 32 <= token < 127] if printable else []
        token = draw.choice(some or allowed)
        assert matcher.consume_token(token), matcher.get_error()
        written.append(token)
    assert matcher.is_accepting()
    return written.decode("utf-8", "replace")


def is_valid(name: str, arguments: str) -> bool:
    value = json.loads(arguments)
    if name == "get":
        return bool(value == {})
    known = {"city", "days", "exact", "where"}
    return (
        set(value) <= known
        and value["city"] in ("Sankt Pölten", "Paris")
        and value["days"] in (1, 2, 3)
        and value.get("exact", True) in (True, False)
        and 0 <= value.get("where", {"n": 0})["n"] <= 9
    )


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_grammar_allows_is_read_as_calls_that_fit(name: str) -> None:
    family = WRITERS[name]
    wanted: Constraint = constraint(family, held(), {}, embed)
    assert not wanted.triggers
    for seed in range(2):
        text = walked(wanted.grammar, seed)
        found: Told = read(Talk(family), text, 7, tools=TOOLS)
        assert found.text == "", (text, found)
        assert found.calls, text
        assert all(is_valid(*call) for call in found.calls), (text, found)


@pytest.mark.parametrize("name", WRITERS)
def test_calls_that_a_model_begins_are_held_to_from_their_mark_on(name: str) -> None:
    family = WRITERS[name]
    if not family.begins:
        pytest.skip("its calls begin without a mark")
    wanted = constraint(family, held(is_required=False), {}, embed)
    assert wanted.triggers == (family.begins,)
    assert wanted.repeats
    found = read(Talk(family), f"Well.\n{family.begins}{walked(wanted.grammar, 1)}", 3, tools=TOOLS)
    assert found.text == "Well."
    assert found.calls


@pytest.mark.parametrize("name", WRITERS)
def test_marks_that_are_tokens_are_written_as_tokens(name: str) -> None:
    family = WRITERS[name]
    if not family.begins:
        pytest.skip("it has no marks")
    marks = {mark: 300 + k for k, mark in enumerate(family.markers)}
    grammar = constraint(family, held(), marks, embed).grammar
    if family.begins in marks:
        assert f"<[{marks[family.begins]}]>" in grammar
        assert json.dumps(family.begins, ensure_ascii=False) not in grammar


def test_thoughts_may_come_before_what_is_required() -> None:
    family = WRITERS["hermes"]
    wanted = constraint(family, Held(TOOLS, True, 1, False, ("<think>", "</think>")), {}, embed)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), wanted.grammar)
    thought = '<think>\nWell {"a": <b>\n</think>\n\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'
    assert matcher.try_consume_tokens(list(thought.encode())) == len(thought.encode())
    assert matcher.is_accepting()
    opened = constraint(family, Held(TOOLS, True, 1, True, ("<think>", "</think>")), {}, embed)
    assert opened.starts_quiet
    assert opened.quiet == (("<think>", "</think>"),)


def test_free_text_in_tags_is_held_up_to_its_end() -> None:
    tool = Tool(
        name="say", parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    )
    family = WRITERS["qwen-coder"]
    grammar = constraint(family, held([tool], n_calls=1), {}, embed).grammar
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    text = "<tool_call>\n<function=say>\n<parameter=text>\na <b> </parameter\n</parameter>\n</function>\n</tool_call>"
    assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
    assert matcher.is_accepting()


def test_a_schema_that_cannot_be_held_to_is_loosened_unless_it_must_be() -> None:
    def refusing(schema: object, param: str) -> str:
        if schema != {"type": "object"}:
            raise InvalidRequest(param)
        return embed(schema, param)

    family = WRITERS["hermes"]
    tool = Tool(name="f", parameters={"not": {}})
    assert '"object"' in constraint(family, held([tool]), {}, refusing).grammar
    with pytest.raises(InvalidRequest, match=r"tools\[0\].function.parameters"):
        constraint(family, held([Tool(name="f", parameters={"not": {}}, strict=True)]), {}, refusing)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_required_of_harmony_is_read_as_a_call(seed: int) -> None:
    asked = Asked(tools=TOOLS, n_calls=1)
    wanted = HARMONY.constraint(asked, rules(), is_required=True)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), wanted.grammar)
    thought = "<|channel|>analysis<|message|>So<|end|><|start|>assistant"
    assert matcher.try_consume_tokens(list(thought.encode())) == len(thought)
    begun = HARMONY.constraint(asked, rules(), is_required=False)
    text = begun.triggers[0] + walked(begun.grammar, seed)
    found = read(HARMONY, thought + text, 5, tools=TOOLS)
    assert (found.reasoning, found.text) == ("So", "")
    assert [is_valid(*call) for call in found.calls] == [True]


BARE = {
    "llama": ('{"name": "get"', ', "parameters": {}}'),
    "llama-python": ("[get(", ")]"),
}


@pytest.mark.parametrize("name", BARE)
def test_calls_without_a_mark_are_held_from_where_they_can_be_nothing_else(name: str) -> None:
    begun, rest = BARE[name]
    wanted = Talk(WRITERS[name]).constraint(Asked(tools=TOOLS), rules(), is_required=False)
    assert wanted is not None
    assert begun in wanted.starts
    assert set(wanted.triggers) == set(WRITERS[name].opens)
    assert allows(wanted.grammar, begun + rest)  # the start is of the grammar itself
    assert Talk(None).constraint(Asked(tools=TOOLS), rules(), is_required=True) is None


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def allows(grammar: str, text: str) -> bool:
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return bool(matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting())


@pytest.mark.parametrize("name", WRITERS)
def test_with_a_form_for_the_words_there_are_calls_or_those_words(name: str) -> None:
    family = WRITERS[name]
    wanted = Talk(family, THINKING).constraint(Asked(tools=TOOLS), rules(), is_required=False, words=embed(PERSON, ""))
    assert wanted is not None
    assert not wanted.is_lazy
    for words in ('{"name": "Bob", "n": 3}', '{"name": "get", "n": 3}'):
        for thought in ("", "<think>\nHm {\n</think>\n\n"):
            assert allows(wanted.grammar, thought + words)
            if "Bob" in words:  # else it is read as a call, where calls may be bare
                assert read(Talk(family, THINKING), thought + words, 5, tools=TOOLS).text == words
    call = walked(constraint(family, held(TOOLS[1:]), {}, embed).grammar, 1).lstrip()
    assert allows(wanted.grammar, call)
    assert not allows(wanted.grammar, "Bob")


def test_words_alone_may_be_thought_about_unless_the_request_forbids_it() -> None:
    form = Talk(None, THINKING)
    for asked, may in (
        (Asked(), True),
        (Asked(may_think=False), False),
        (Asked(tells_thoughts=False), False),
    ):
        wanted = form.constraint(asked, rules(), is_required=False, words=embed(PERSON, ""))
        assert wanted is not None
        assert allows(wanted.grammar, '{"name": "", "n": 1}')
        assert allows(wanted.grammar, '<think>\n</think>\n\n{"name": "", "n": 1}') == may
    opened = form.constraint(Asked(is_thinking=True), rules(), is_required=False, words=embed(PERSON, ""))
    assert opened is not None
    assert opened.starts_quiet


@pytest.mark.parametrize("tools", [(), TOOLS])
def test_words_of_harmony_stand_in_a_message_of_their_own(tools: tuple[Tool, ...]) -> None:
    wanted = HARMONY.constraint(Asked(tools=tools), rules(), is_required=False, words=embed(PERSON, ""))
    thought = "<|channel|>analysis<|message|>So<|end|><|start|>assistant"
    words = '{"name": "Bob", "n": 3}'
    assert allows(wanted.grammar, f"{thought}<|channel|>final<|message|>{words}")
    assert not allows(wanted.grammar, words)
    call = "<|channel|>commentary to=functions.get <|constrain|>json<|message|>{}"
    assert allows(wanted.grammar, thought + call) == bool(tools)


@pytest.mark.parametrize("seed", range(2))
def test_messages_of_muse_go_to_functions_or_hold_words(seed: int) -> None:
    asked = Asked(tools=TOOLS, n_calls=1)
    required = MUSE.constraint(asked, rules(), is_required=True)
    thought = " to=self<|message|>So<|eom|><|start|>assistant"
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), required.grammar)
    assert matcher.try_consume_tokens(list(thought.encode())) == len(thought)
    begun = MUSE.constraint(asked, rules(), is_required=False)
    found = read(MUSE, f"{thought} {begun.triggers[0]}{walked(begun.grammar, seed)}", 5, tools=TOOLS)
    assert (found.reasoning, found.text) == ("So", "")
    assert [is_valid(*call) for call in found.calls] == [True]
    words = MUSE.constraint(Asked(tools=TOOLS), rules(), is_required=False, words=embed(PERSON, ""))
    assert allows(words.grammar, f'{thought} to=user<|message|>{{"name": "Bob", "n": 3}}')
    assert not allows(words.grammar, '{"name": "Bob", "n": 3}')


def test_parts_of_functionary_are_calls_or_words() -> None:
    required = FUNCTIONARY_3_2.constraint(Asked(tools=TOOLS, n_calls=1), rules(), is_required=True)
    assert required is not None
    found = read(FUNCTIONARY_3_2, walked(required.grammar, 1), 5, tools=TOOLS)
    assert [is_valid(*call) for call in found.calls] == [True]
    free = FUNCTIONARY_3_2.constraint(Asked(tools=TOOLS), rules(), is_required=False)
    assert free is not None
    assert (free.triggers, free.starts) == ((">>>",), ("get_weather\n", "get\n"))
    assert allows(free.grammar, "all\n")
    assert allows(free.grammar, "get\n{}")
    formed = FUNCTIONARY_3_2.constraint(Asked(tools=TOOLS), rules(), is_required=False, words=embed(PERSON, ""))
    assert formed is not None
    assert allows(formed.grammar, 'all\n{"name": "Bob", "n": 3}')
    assert allows(formed.grammar, "get\n{}")


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
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), wanted.grammar)
    assert not matcher.is_error(), matcher.get_error()
    assert types_named(properties["x0"], tool.parameters) == {"null", "string"}

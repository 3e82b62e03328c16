"""Laws of the grammars of calls: they compile, and whatever they allow is read as calls that fit their schemas."""

from __future__ import annotations

import json

import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.core.work import Constraint
from llamahost.text.formats.format import Asked, Talk
from llamahost.text.formats.functionary import FUNCTIONARY_3_2
from llamahost.text.formats.grammar import Held
from llamahost.text.formats.harmony import HARMONY
from llamahost.text.formats.muse import MUSE
from tests.text.formats.reading import Told, read
from tests.text.formats.writing import (
    THINKING,
    TOOLS,
    WRITERS,
    allows,
    constraint,
    embed,
    held,
    matcher_of,
    rules,
    walked,
)


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
    matcher = matcher_of(wanted.grammar)
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
    matcher = matcher_of(grammar)
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
    matcher = matcher_of(wanted.grammar)
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
    matcher = matcher_of(required.grammar)
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

"""Calls that are required, by a model of random weights: whatever it would rather say, they fit their schemas."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import ChatRequest, Message, Output, Text, Tool
from llamahost.fleet.request.preparer import Preparer
from llamahost.text.template import Template
from tests.openai_clients import ask
from tests.text.vocabulary import ByteVocabulary

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.openai

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        },
    },
}
NOTHING: Any = {"type": "object", "properties": {}, "additionalProperties": False}
OTHER: Any = {"type": "function", "function": {"name": "ping", "parameters": NOTHING}}
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Rain?"}], "max_tokens": 400}


def fits(call: Any) -> bool:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "ping":
        return bool(arguments == {})
    return set(arguments) == {"city", "days", "unit"} and 1 <= arguments["days"] <= 9 and arguments["unit"] in "CF"


def test_a_call_that_is_required_is_made_and_fits(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        for seed in range(4):
            answer = await client.chat.completions.create(
                tools=[WEATHER, OTHER], tool_choice="required", parallel_tool_calls=False, seed=seed, **ASK
            )
            choice = answer.choices[0]
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content is None
            assert [fits(call) for call in choice.message.tool_calls or ()] == [True]

    ask(tiny_llama, law, n_threads=1)


def test_a_call_by_name_is_made_of_that_function_and_streamed(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        choice: Any = {"type": "function", "function": {"name": "get_weather"}}
        tools = [OTHER, {**WEATHER, "function": {**WEATHER["function"], "strict": True}}]
        stream = await client.chat.completions.create(tools=tools, tool_choice=choice, stream=True, **ASK)
        deltas = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
        assert [call.function.name for call in deltas if call.function and call.function.name] == ["get_weather"]
        arguments = json.loads("".join(call.function.arguments or "" for call in deltas if call.function))
        assert set(arguments) == {"city", "days", "unit"}

    ask(tiny_llama, law, n_threads=1)


def test_calls_beside_free_answers_change_nothing_of_them(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        free: Any = {**ASK, "temperature": 0.0, "max_tokens": 24}
        alone = await client.chat.completions.create(**free)
        told = await client.chat.completions.create(tools=[OTHER], tool_choice="none", **free)
        assert alone.choices[0].message.content == told.choices[0].message.content

    ask(tiny_llama, law, n_threads=1)


def test_a_strict_schema_that_cannot_be_held_to_is_refused_by_its_keyword(tiny_llama: Path) -> None:
    import openai

    async def law(client: openai.AsyncOpenAI) -> None:
        parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        loose: Any = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        strict: Any = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as refused:
            await client.chat.completions.create(tools=[strict], **ASK)
        assert refused.value.param == "tools[0].function.parameters/properties/a/uniqueItems"
        answer = await client.chat.completions.create(
            tools=[loose], tool_choice="required", parallel_tool_calls=False, **ASK
        )
        assert answer.choices[0].message.tool_calls

    ask(tiny_llama, law, n_threads=1)


def test_a_schema_that_cannot_be_held_to_whole_is_held_to_in_all_else(tiny_llama: Path) -> None:
    odd = {"type": "integer", "minimum": 3, "maximum": 5, "not": {"const": 4}}
    either = {
        "oneOf": [{"type": "integer", "minimum": 7, "maximum": 8}, {"type": "integer", "minimum": 8, "maximum": 9}]
    }
    parameters = {"type": "object", "properties": {"n": odd, "m": either}, "required": ["n", "m"]}
    tool: Any = {"type": "function", "function": {"name": "pick", "parameters": parameters}}

    async def law(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            tools=[tool], tool_choice="required", parallel_tool_calls=False, **ASK
        )
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"n", "m"}
        assert 3 <= arguments["n"] <= 5
        assert 7 <= arguments["m"] <= 9

    ask(tiny_llama, law)


def test_a_form_is_of_the_words_and_not_of_thoughts_that_the_prompt_has_opened() -> None:
    template = "{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"
    preparer = Preparer(
        model="m", n_ctx=64, vocabulary=ByteVocabulary(), template=Template(template), compiles=lambda grammar: None
    )
    message = Message(role="user", parts=(Text("Hi"),))
    held = preparer.chat(ChatRequest(messages=(message,), output=Output("json"))).jobs[0].constraint
    assert held is not None
    assert held.starts_quiet
    assert held.quiet == (("<think>", "</think>"),)


@pytest.mark.parametrize(
    ("template", "tools", "closing", "is_open"),
    [
        ("{{ messages[0].content }}<think>{# </think> #}", (), "</think>", True),
        ("{{ messages[0].content }}<think>\n{{ '\\n</think>\\n\\n' if messages[1] }}", (), "\n</think>\n\n", True),
        ("{{ messages[0].content }}{# </think> #}", (), "</think>", False),
        (
            "{{ messages[0].content }}{# <|channel|><|message|> #}",
            (),
            "<|end|><|start|>assistant<|channel|>final",
            False,
        ),
    ],
)
def test_a_budget_for_reasoning_becomes_a_limit_of_the_job(
    template: str, tools: tuple[Tool, ...], closing: str, is_open: bool
) -> None:
    vocabulary = ByteVocabulary()
    preparer = Preparer(model="m", n_ctx=64, vocabulary=vocabulary, template=Template(template))
    asked = ChatRequest(
        messages=(Message(role="user", parts=(Text("Hi"),)),), max_reasoning=5, reasoning_end="Enough.", tools=tools
    )
    limit = preparer.chat(asked).jobs[0].thoughts
    assert limit is not None
    assert vocabulary.decode(array("i", limit.closing)).decode().startswith(f"Enough.{closing}")
    assert (limit.n_max, limit.is_open) == (5, is_open)
    with pytest.raises(InvalidRequest, match="marks"):
        preparer.chat(replace(asked, reasoning_end=limit.close))
    assert preparer.chat(replace(asked, max_reasoning=None)).jobs[0].thoughts is None
    wrong: Any = "5"
    for budget in (-1, 2**31, wrong):
        with pytest.raises(InvalidRequest, match="between 0 and"):
            replace(asked, max_reasoning=budget)
    plain = Preparer(model="m", n_ctx=64, vocabulary=vocabulary, template=Template("{{ messages[0].content }}"))
    assert plain.chat(asked).jobs[0].thoughts is None  # nothing of its answers can be told to be thought

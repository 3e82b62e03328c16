"""Tools and thoughts through the official client: a real socket, the whole server, a model that writes a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from llamahost.api.app import create_app
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Tool
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import AsyncHost
from llamahost.sync import Host
from tests.api.sockets import listening
from tests.fleet.fakes import spec_of
from tests.on_loop import LIMIT_S
from tests.scripted import Scripted

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.openai

HERMES = """\
{%- if tools %}{{ '<|system|>Call as <tool_call>{"name": ..., "arguments": ...}</tool_call>: ' }}{{ tools | tojson }}
{%- endif %}
{%- for message in messages %}
{{- '<|' + message.role + '|>' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% if enable_thinking %}{{ '<think>\\n' }}{% endif %}{% endif %}
{#- thoughts end with </think> #}"""

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
ASK: Any = {"model": "fake", "messages": [{"role": "user", "content": "Rain?"}]}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Sankt Pölten", "days": 2}}\n</tool_call>'

Law = Callable[["openai.AsyncOpenAI", Scripted], Awaitable[None]]


def ask(law: Law, template: str = HERMES, marks: tuple[str, ...] = ()) -> None:
    import openai

    async def bounded() -> None:
        model = Scripted(template, marks)
        host = AsyncHost(spec_of(), load=model)
        async with asyncio.timeout(LIMIT_S), listening(create_app(host, ServerSettings())) as port:
            await host.wait_ready()
            base_url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
                await law(client, model)

    asyncio.run(bounded())


def test_a_call_is_told_whole_and_the_text_before_it_stays_content() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(f"Let me look.\n\n{CALL}")
        answer = await client.chat.completions.create(tools=[WEATHER], **ASK)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me look."
        assert choice.message.tool_calls is not None
        call: Any = choice.message.tool_calls[0]
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Sankt Pölten", "days": 2}
        assert '"name": "get_weather"' in model.last_prompt

    ask(law)


def test_a_streamed_call_has_its_name_first_and_arguments_after_it() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(f"{CALL}\n{CALL}")
        stream = await client.chat.completions.create(tools=[WEATHER], stream=True, **ASK)
        chunks = [chunk async for chunk in stream]
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        assert not any(chunk.choices[0].delta.content for chunk in chunks)
        for index in (0, 1):
            first, *rest = [call for call in calls if call.index == index]
            assert first.function is not None
            assert first.function.name == "get_weather"
            assert first.id
            assert not any(call.id or (call.function and call.function.name) for call in rest)
            arguments = "".join(call.function.arguments or "" for call in (first, *rest) if call.function)
            assert json.loads(arguments) == {"city": "Sankt Pölten", "days": 2}
        assert len({call.id for call in calls if call.id}) == 2

    ask(law)


def test_a_call_and_its_result_go_back_into_the_prompt() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(CALL)
        first = await client.chat.completions.create(tools=[WEATHER], **ASK)
        said: Any = first.choices[0].message
        model.says("It will rain.")
        messages: Any = [
            *ASK["messages"],
            said.model_dump(exclude_none=False),
            {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"},
        ]
        last = await client.chat.completions.create(model="fake", messages=messages, tools=[WEATHER])
        assert last.choices[0].message.content == "It will rain."
        assert last.choices[0].finish_reason == "stop"
        assert "Sankt Pölten" in model.last_prompt
        assert "<|tool|>rain<|assistant|>" in model.last_prompt

    ask(law)


def test_thoughts_have_their_own_place_and_count_and_calls_in_them_are_none() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        thought = f"Perhaps {CALL}"
        model.says(f"<think>\n{thought}\n</think>\n\nNo.")
        answer = await client.chat.completions.create(tools=[WEATHER], **ASK)
        message: Any = answer.choices[0].message
        assert (message.reasoning_content, message.content, message.tool_calls) == (thought, "No.", None)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == len(f"\n{thought}\n</think>".encode())
        stream = await client.chat.completions.create(stream=True, **ASK)
        deltas: list[Any] = [chunk.choices[0].delta async for chunk in stream]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought
        assert "".join(delta.content or "" for delta in deltas) == "No."

    ask(law)


def test_a_prompt_that_opens_thoughts_begins_the_answer_in_them() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says("hm</think>\nYes.")
        answer: Any = await client.chat.completions.create(extra_body={"enable_thinking": True}, **ASK)
        assert model.last_prompt.endswith("<think>\n")
        assert answer.choices[0].message.reasoning_content == "hm"
        assert answer.choices[0].message.content == "Yes."
        plain: Any = await client.chat.completions.create(extra_body={"enable_thinking": False}, **ASK)
        assert plain.choices[0].message.content == "hm</think>\nYes."

    ask(law)


def test_without_a_format_thoughts_stay_in_the_text() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says("<think>hm</think>\nYes.")
        for extra in ({}, {"tools": [WEATHER]}):
            answer: Any = await client.chat.completions.create(extra_body={"reasoning_format": "none", **extra}, **ASK)
            assert answer.choices[0].message.content == "<think>hm</think>\nYes."
            assert not hasattr(answer.choices[0].message, "reasoning_content")

    ask(law)


def test_one_call_is_all_where_parallel_calls_are_not_wanted() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(f"{CALL}{CALL}")
        answer = await client.chat.completions.create(tools=[WEATHER], parallel_tool_calls=False, **ASK)
        assert len(answer.choices[0].message.tool_calls or ()) == 1
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.usage is not None
        assert answer.usage.completion_tokens < len(CALL.encode())  # the second was not waited for

    ask(law)


def test_the_choice_of_none_hides_the_tools_and_reads_no_calls() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(CALL)
        answer = await client.chat.completions.create(tools=[WEATHER], tool_choice="none", **ASK)
        assert answer.choices[0].message.content == CALL
        assert answer.choices[0].finish_reason == "stop"
        assert "get_weather" not in model.last_prompt

    ask(law)


def test_functions_are_answered_as_they_were_before_there_were_tools() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(f"{CALL}{CALL}")
        functions: Any = [WEATHER["function"]]
        answer = await client.chat.completions.create(functions=functions, **ASK)
        choice = answer.choices[0]
        assert choice.finish_reason == "function_call"
        assert choice.message.tool_calls is None
        assert choice.message.function_call is not None
        assert json.loads(choice.message.function_call.arguments)["days"] == 2
        stream = await client.chat.completions.create(functions=functions, stream=True, **ASK)
        calls = [chunk.choices[0].delta.function_call async for chunk in stream]
        told = [call for call in calls if call]
        assert told[0].name == "get_weather"
        assert json.loads("".join(call.arguments or "" for call in told)) == {"city": "Sankt Pölten", "days": 2}
        model.says("Rain.")
        messages: Any = [
            *ASK["messages"],
            {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
            {"role": "function", "name": "get_weather", "content": "rain"},
        ]
        await client.chat.completions.create(model="fake", messages=messages, functions=functions)
        assert "<|tool|>rain<|assistant|>" in model.last_prompt

    ask(law)


def test_a_call_cut_by_the_limit_ends_for_the_limit() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        model.says(CALL)
        answer = await client.chat.completions.create(tools=[WEATHER], max_tokens=70, **ASK)
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.tool_calls is not None

    ask(law)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    (
        {"tools": [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]},
        "tools[0].function.strict",
    ),
]


def test_what_cannot_be_promised_is_refused() -> None:
    import openai

    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        for asked, param in REFUSED:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(**asked, **ASK)
            assert refused.value.param == param, asked

    ask(law)


def test_the_library_calls_and_takes_results_back() -> None:
    model = Scripted(HERMES)
    with Host(spec_of(), load=model) as host:
        tool = Tool(name="get_weather", parameters=WEATHER["function"]["parameters"])
        model.says(CALL)
        first = host.chat("Rain?", tools=[tool])
        assert first.finish_reason == "tool"
        assert [json.loads(call.arguments) for call in first.tool_calls] == [{"city": "Sankt Pölten", "days": 2}]
        model.says("Rain.")
        turns: list[dict[str, object]] = [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "tool_calls": first.tool_calls},
            {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"},
        ]
        assert host.chat(turns, tools=[tool]).text == "Rain."
        assert "<|tool|>rain<|assistant|>" in model.last_prompt
        as_openai = {"id": "1", "function": {"name": "get_weather", "arguments": "{}"}}
        host.chat([turns[0], {**turns[1], "tool_calls": [as_openai]}, turns[2]], tools=[tool])
        with pytest.raises(InvalidRequest, match="tool_calls"):
            host.chat([turns[0], {**turns[1], "tool_calls": ["f"]}, turns[2]], tools=[tool])


CHANNELS = """\
{%- for message in messages %}{{ '<|start|>' + message.role + '<|message|>' + (message.content or '') + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}{#- speaks on <|channel|>final #}"""
CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>")


def test_marks_that_are_control_tokens_are_read_and_never_shown() -> None:
    async def law(client: openai.AsyncOpenAI, model: Scripted) -> None:
        thought = "<|channel|>analysis<|message|>If so<|end|><|start|>assistant"
        model.says(f"{thought}<|channel|>final<|message|>Yes.")
        answer: Any = await client.chat.completions.create(**ASK)
        assert answer.choices[0].message.reasoning_content == "If so"
        assert answer.choices[0].message.content == "Yes."
        called = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"days": 2}<|call|>'
        model.says(thought + called)
        answer = await client.chat.completions.create(tools=[WEATHER], **ASK)
        assert answer.choices[0].message.content is None
        assert answer.choices[0].message.tool_calls[0].function.arguments == '{"days": 2}'
        assert answer.choices[0].finish_reason == "tool_calls"

    ask(law, CHANNELS, CHANNEL_MARKS)

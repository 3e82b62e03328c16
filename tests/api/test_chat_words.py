"""What a chat's fields mean: whose message is continued, what reaches the template, what is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from llamahost.core.messages import ChatRequest
from tests.api.asking import post
from tests.api.fakes import FakeHost, run

USER = {"role": "user", "content": "Hi"}
OPEN = {"role": "assistant", "content": "He"}
THOUGHT = {"role": "assistant", "content": "", "reasoning_content": "Hm"}
BOTH = {"role": "assistant", "content": "He", "reasoning_content": "Hm"}
CALLING = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def asked(**fields: Any) -> ChatRequest:
    """The request that these fields are."""
    host = FakeHost()

    async def law() -> None:
        response = await post(host, **fields)
        assert response.status_code == 200, response.text

    run(law)
    (request,) = host.requests
    assert isinstance(request, ChatRequest)
    return request


@pytest.mark.parametrize(
    ("last", "fields", "continued"),
    [
        (USER, {}, "no"),
        (USER, {"continue_final_message": False}, "no"),
        (OPEN, {}, "text"),
        (OPEN, {"add_generation_prompt": False}, "text"),
        (OPEN, {"continue_final_message": True}, "text"),
        (OPEN, {"continue_final_message": True, "add_generation_prompt": False}, "text"),
        (OPEN, {"continue_final_message": "content"}, "text"),
        (OPEN, {"continue_final_message": False}, "no"),
        (OPEN, {"add_generation_prompt": True}, "no"),
        (THOUGHT, {}, "reasoning"),
        (THOUGHT, {"continue_final_message": "reasoning_content"}, "reasoning"),
        (THOUGHT, {"continue_final_message": "content"}, "text"),
        (BOTH, {}, "text"),
        ({"role": "assistant", "content": None}, {}, "text"),
        (CALLING, {"continue_final_message": False}, "no"),
    ],
)
def test_a_last_message_of_the_assistant_is_continued(
    last: dict[str, Any], fields: dict[str, Any], continued: str
) -> None:
    assert asked(messages=[USER, last], **fields).continued == continued


@pytest.mark.parametrize(
    ("last", "fields", "param"),
    [
        ([USER], {"continue_final_message": True}, "messages[0].role"),
        ([USER], {"add_generation_prompt": False}, "add_generation_prompt"),
        ([OPEN], {"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ([OPEN], {"continue_final_message": "both"}, "continue_final_message"),
        ([USER, CALLING], {}, "messages[1].tool_calls"),
        ([BOTH], {"continue_final_message": "reasoning_content"}, "messages[0].content"),
        ([USER, OPEN, OPEN], {}, "messages"),
    ],
)
def test_what_cannot_be_continued_is_told(last: list[Any], fields: dict[str, Any], param: str) -> None:
    async def law() -> None:
        response = await post(FakeHost(), messages=last, **fields)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param

    run(law)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_passed_back(field: str) -> None:
    request = asked(messages=[USER, {"role": "assistant", "content": "a", field: "hm"}, USER])
    assert request.messages[1].reasoning == "hm"


def test_names_and_the_effort_reach_the_template() -> None:
    request = asked(messages=[{**USER, "name": "ada"}], reasoning_effort="low", chat_template_kwargs={"mood": "calm"})
    assert request.messages[0].name == "ada"
    assert request.template_options == {"reasoning_effort": "low", "mood": "calm"}
    quick = asked(reasoning_effort="none")
    assert (quick.thinking, quick.template_options) == (False, {})


@pytest.mark.parametrize(
    ("fields", "thinking", "budget"),
    [
        ({}, None, None),
        ({"reasoning_effort": "low"}, True, None),  # who makes an effort is to think
        ({"reasoning_effort": "none", "enable_thinking": True}, False, None),
        ({"reasoning_effort": "high", "enable_thinking": False}, False, None),
        ({"reasoning_budget_tokens": 9}, None, 9),
        ({"thinking_budget_tokens": 9}, None, 9),
        ({"thinking_budget": 9, "reasoning_budget_tokens": -1}, None, None),
        ({"reasoning_budget_tokens": 0}, False, 0),
        ({"reasoning_budget_tokens": 0, "enable_thinking": True}, True, 0),
    ],
)
def test_whether_to_think_and_for_how_long(fields: dict[str, Any], thinking: bool | None, budget: int | None) -> None:
    request = asked(**fields)
    assert (request.thinking, request.max_reasoning) == (thinking, budget)


def test_what_is_asked_for_by_name_in_the_template_wins() -> None:
    request = asked(reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "high"})
    assert request.template_options == {"reasoning_effort": "high"}

"""The model of the package calls functions that it was never shown, through other makers' clients.

What a constraint promises is asserted of every answer; which function it takes, where the question names it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest

from llamahost.fleet.settings.builtin import NAME
from tests.clients.serving import LIMIT_S, installed
from tests.processes import serving

pytestmark = pytest.mark.slow

pydantic = pytest.importorskip("pydantic")

ASKED = "Find the lighthouse in Oslo."


class FindLighthouse(pydantic.BaseModel):  # type: ignore[misc, name-defined] # where it is not installed it has no types
    """Find the lighthouse."""

    city: str = pydantic.Field(min_length=1, max_length=20)


class OpenUmbrella(pydantic.BaseModel):  # type: ignore[misc, name-defined] # the same
    """Open the umbrella."""

    colour: Literal["red", "green"]
    n_ribs: int = pydantic.Field(ge=6, le=12)


class Trip(pydantic.BaseModel):  # type: ignore[misc, name-defined] # the same
    """A trip to a lighthouse."""

    to: FindLighthouse
    umbrellas: list[OpenUmbrella] = pydantic.Field(min_length=1, max_length=2)


def find_lighthouse(city: str) -> dict[str, str]:
    """Find the lighthouse."""
    return {"status": "open", "city": city}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("builtin"), "--log-level", "warning") as process:
        process.line("ready: ")
        yield f"{process.url}/v1"


@pytest.fixture
def plain(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=LIMIT_S) as client:
        yield client


@pytest.fixture
def chat(url: str) -> Iterator[Any]:
    langchain = installed("langchain_openai")
    with httpx.Client(timeout=LIMIT_S) as client:
        yield langchain.ChatOpenAI(
            base_url=url, api_key="none", model=NAME, max_retries=0, temperature=0, max_tokens=300, http_client=client
        )


@pytest.mark.parametrize("streams", [False, True])
def test_langchain_has_a_function_chosen_called_and_answered(chat: Any, streams: bool) -> None:
    tools = installed("langchain_core.tools")
    messages = installed("langchain_core.messages")
    found = tools.StructuredTool.from_function(find_lighthouse, args_schema=FindLighthouse)
    opened = tools.StructuredTool.from_function(lambda **_: "open", name="open_umbrella", args_schema=OpenUmbrella)
    bound = chat.bind_tools([found, opened], tool_choice="any", parallel_tool_calls=False)
    if streams:
        first, *others = bound.stream(ASKED)
        answer = sum(others, first)
        assert isinstance(answer, messages.AIMessageChunk)
    else:
        answer = bound.invoke(ASKED)
    (call,) = answer.tool_calls
    assert call["name"] == "find_lighthouse"
    assert FindLighthouse.model_validate(call["args"])
    result = found.invoke(call)
    said = chat.bind_tools([found, opened]).invoke([messages.HumanMessage(ASKED), answer, result])
    assert said.content or said.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_a_nested_object(chat: Any, method: str) -> None:
    assert isinstance(chat.with_structured_output(Trip, method=method, strict=True).invoke(ASKED), Trip)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_gets_a_nested_object_at_its_first_try(plain: openai.OpenAI, mode: str) -> None:
    instructor = installed("instructor")
    client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
    asked = [{"role": "user", "content": ASKED}]
    trip = client.chat.completions.create(
        response_model=Trip, max_retries=0, model=NAME, messages=asked, max_tokens=300, temperature=0
    )
    assert isinstance(trip, Trip)


def test_instructor_gets_an_object_in_pieces(plain: openai.OpenAI) -> None:
    instructor = installed("instructor")
    client = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    *_, last = client.chat.completions.create_partial(
        response_model=Trip, model=NAME, messages=[{"role": "user", "content": ASKED}], max_tokens=300, temperature=0
    )
    assert Trip.model_validate(last.model_dump())


def test_pydantic_ai_runs_a_function_and_goes_on(url: str) -> None:
    ai = installed("pydantic_ai")
    models = installed("pydantic_ai.models.openai")
    providers = installed("pydantic_ai.providers.openai")
    asked_for: list[str] = []

    def find_lighthouse(city: str) -> str:
        """Find the lighthouse."""
        asked_for.append(city)
        return json.dumps({"status": "open"})

    async def law() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=LIMIT_S) as client:
            model = models.OpenAIChatModel(NAME, provider=providers.OpenAIProvider(openai_client=client))
            settings = {"max_tokens": 300, "temperature": 0.0}
            agent = ai.Agent(model, tools=[find_lighthouse], model_settings=settings)
            assert (await agent.run(ASKED)).output
            for kind in (ai.ToolOutput, ai.NativeOutput):
                whole = ai.Agent(model, output_type=kind(Trip), model_settings=settings)
                assert isinstance((await whole.run(ASKED)).output, Trip)

    asyncio.run(law())
    assert len(asked_for) == 1
    assert asked_for[0]

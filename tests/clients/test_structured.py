"""Objects and calls as LangChain, instructor and pydantic-ai ask for them: of random weights, and always valid."""

from __future__ import annotations

import asyncio
from typing import Literal

import httpx
import openai
import pytest

from tests.clients.serving import KEY, LIMIT_S, NAME, Served, installed

pytestmark = pytest.mark.slow

pydantic = pytest.importorskip("pydantic")

PROMPT = "Tell me of a person."


class Address(pydantic.BaseModel):  # type: ignore[misc, name-defined] # where it is not installed it has no types
    town: str = pydantic.Field(max_length=8)
    number: int = pydantic.Field(ge=1, le=99)


class Person(pydantic.BaseModel):  # type: ignore[misc, name-defined] # the same
    """Someone."""

    name: str = pydantic.Field(max_length=8)
    role: Literal["author", "editor"]
    address: Address
    tags: list[Literal["new", "old"]] = pydantic.Field(max_length=2)


def look_up(town: str, days: int) -> str:
    """The weather of a town."""
    return f"{town}: rain for {days} days"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("strict", [None, True])
def test_langchain_gets_an_object_of_its_class(server: Served, method: str, strict: bool | None) -> None:
    langchain = installed("langchain_openai")
    with httpx.Client(timeout=LIMIT_S) as client:
        chat = langchain.ChatOpenAI(
            base_url=server.url, api_key=KEY, model=NAME, max_retries=0, max_tokens=600, http_client=client
        )
        asks = chat.with_structured_output(Person, method=method, strict=strict)
        for _ in range(3):
            assert isinstance(asks.invoke(PROMPT), Person)


def test_langchain_binds_tools_and_gives_their_results_back(server: Served) -> None:
    langchain = installed("langchain_openai")
    tools = installed("langchain_core.tools")
    messages = installed("langchain_core.messages")

    class Asked(pydantic.BaseModel):  # type: ignore[misc, name-defined] # the same
        town: Literal["Paris", "Rome"]
        days: int = pydantic.Field(ge=1, le=9)

    tool = tools.StructuredTool.from_function(look_up, args_schema=Asked)
    with httpx.Client(timeout=LIMIT_S) as client:
        chat = langchain.ChatOpenAI(
            base_url=server.url, api_key=KEY, model=NAME, max_retries=0, max_tokens=400, http_client=client
        )
        answer = chat.bind_tools([tool], tool_choice="look_up", parallel_tool_calls=False).invoke(PROMPT)
        (call,) = answer.tool_calls
        assert call["name"] == "look_up"
        result = tool.invoke(call)
        assert "rain for" in result.content
        turns = [messages.HumanMessage(PROMPT), answer, result]
        assert chat.bind_tools([tool], tool_choice="none").invoke(turns, max_tokens=5).usage_metadata


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_gets_an_object_of_its_class_at_once(server: Served, mode: str) -> None:
    instructor = installed("instructor")
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=LIMIT_S) as plain:
        client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
        person = client.chat.completions.create(
            response_model=Person,
            max_retries=0,
            messages=[{"role": "user", "content": PROMPT}],
            model=NAME,
            max_tokens=600,
        )
        assert isinstance(person, Person)


@pytest.mark.parametrize("output", ["ToolOutput", "NativeOutput"])
def test_pydantic_ai_gets_an_object_of_its_class(server: Served, output: str) -> None:
    ai = installed("pydantic_ai")
    models = installed("pydantic_ai.models.openai")
    providers = installed("pydantic_ai.providers.openai")

    async def law() -> None:
        async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=LIMIT_S) as client:
            model = models.OpenAIChatModel(NAME, provider=providers.OpenAIProvider(openai_client=client))
            agent = ai.Agent(model, output_type=getattr(ai, output)(Person), model_settings={"max_tokens": 600})
            assert isinstance((await agent.run(PROMPT)).output, Person)

    asyncio.run(law())

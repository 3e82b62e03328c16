"""llama-index: OpenAILike, its class for servers such as this one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx
import openai
import pytest

from tests.clients.serving import (
    ENDLESS,
    KEY,
    LIMIT_S,
    N_CTX,
    N_MANY,
    NAME,
    TOO_LONG,
    Served,
    installed,
    stop_within,
)

pytestmark = pytest.mark.slow

PROMPT = "Hello from llama-index"

T = TypeVar("T")


@pytest.fixture(scope="module")
def like(server: Served) -> Any:
    return installed("llama_index.llms.openai_like").OpenAILike


@pytest.fixture
def words(server: Served) -> Iterator[dict[str, Any]]:
    with httpx.Client(timeout=LIMIT_S) as client:  # its own would stay open
        yield {
            "api_base": server.url,
            "api_key": KEY,
            "model": NAME,
            "context_window": N_CTX,
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": 12,
            "http_client": client,
        }


@pytest.fixture
def chat(like: Any, words: dict[str, Any]) -> Any:
    return like(**words, is_chat_model=True)


def messages(text: str = PROMPT) -> list[Any]:
    return [installed("llama_index.core.llms").ChatMessage(role="user", content=text)]


def on_loop(like: Any, words: dict[str, Any], law: Callable[[Any], Awaitable[T]]) -> T:
    """What the law finds out of a chat model that belongs to its loop."""

    async def bounded() -> T:
        async with httpx.AsyncClient(timeout=LIMIT_S) as client:
            return await law(like(**words, is_chat_model=True, async_http_client=client))

    return asyncio.run(bounded())


def test_a_chat_is_the_librarys_own_greedy_answer(chat: Any, server: Served) -> None:
    answer = chat.chat(messages())
    assert answer.message.role.value == "assistant"
    assert answer.message.content == server.chat(PROMPT)
    assert answer.raw.choices[0].finish_reason == "length"
    assert answer.raw.usage.prompt_tokens == server.n_prompt(PROMPT)
    assert answer.raw.usage.completion_tokens == 12


def test_a_stream_is_the_whole(chat: Any, server: Served) -> None:
    chunks = list(chat.stream_chat(messages()))
    assert "".join(chunk.delta or "" for chunk in chunks) == server.chat(PROMPT)
    assert chunks[-1].message.content == server.chat(PROMPT)


def test_a_text_is_completed_whole_and_streamed(like: Any, words: dict[str, Any], server: Served) -> None:
    model = like(**words, is_chat_model=False)
    assert model.complete(PROMPT).text == server.complete(PROMPT)
    chunks = list(model.stream_complete(PROMPT))
    assert "".join(chunk.delta for chunk in chunks) == chunks[-1].text == server.complete(PROMPT)


def test_a_text_for_a_chat_model_is_a_message(chat: Any, server: Served) -> None:
    assert chat.complete(PROMPT).text == server.chat(PROMPT)


def test_many_at_once_on_a_loop_get_what_each_gets_alone(like: Any, words: dict[str, Any], server: Served) -> None:
    async def law(chat: Any) -> tuple[list[str], str]:
        together = await asyncio.gather(*(chat.achat(messages(f"number {k}")) for k in range(N_MANY)))
        stream = await chat.astream_chat(messages())
        return [answer.message.content for answer in together], "".join([chunk.delta async for chunk in stream])

    together, streamed = on_loop(like, words, law)
    assert together == [server.chat(f"number {k}") for k in range(N_MANY)]
    assert streamed == server.chat(PROMPT)


def test_a_stop_string_ends_the_answer_before_itself(chat: Any, server: Served) -> None:
    whole = server.chat(PROMPT)
    stop = stop_within(whole)
    answer = chat.chat(messages(), stop=[stop])
    assert answer.message.content == whole[: whole.index(stop)]
    assert answer.raw.choices[0].finish_reason == "stop"


def test_logprobs_come_with_the_answer(like: Any, words: dict[str, Any]) -> None:
    answer = like(**words, is_chat_model=True, logprobs=True, top_logprobs=2).chat(messages())
    assert len(answer.logprobs) == 12
    assert all(len(token) == 2 for token in answer.logprobs)
    assert all(likely[0].logprob >= likely[1].logprob for likely in answer.logprobs)


@pytest.mark.parametrize("is_chat", [True, False])
def test_errors_are_openais_classes_with_our_words(like: Any, words: dict[str, Any], is_chat: bool) -> None:
    def ask(text: str = PROMPT, **more: Any) -> None:
        like(**words | more, is_chat_model=is_chat).complete(text)

    with pytest.raises(openai.NotFoundError, match=f"did you mean `{NAME}`"):
        ask(model=f"{NAME}x")
    with pytest.raises(openai.AuthenticationError, match="not valid here"):
        ask(api_key="wrong")
    with pytest.raises(openai.BadRequestError, match="top_p must be"):
        ask(additional_kwargs={"top_p": -1})
    with pytest.raises(openai.BadRequestError, match=f"`{NAME}`, {N_CTX} tokens") as long:
        ask(TOO_LONG)
    assert long.value.code == "context_length_exceeded"


def test_what_is_cancelled_frees_the_slot(like: Any, words: dict[str, Any], server: Served) -> None:
    more = {"max_tokens": ENDLESS["max_tokens"], "additional_kwargs": {"extra_body": {"ignore_eos": True}}}
    endless = words | more

    async def law(chat: Any) -> None:
        task = asyncio.create_task(chat.achat(messages()))
        await asyncio.to_thread(server.until_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with server.cancelling():
        on_loop(like, endless, law)
    with server.cancelling():
        stream = like(**endless, is_chat_model=True).stream_chat(messages())
        next(stream)
        stream.close()
        gc.collect()  # it holds the connection in a circle of references

"""langchain-openai: ChatOpenAI and OpenAI, as chains use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest

from tests.clients.serving import ENDLESS, KEY, LIMIT_S, N_MANY, NAME, TOO_LONG, Served, installed, served, stop_within

pytestmark = pytest.mark.slow

PROMPT = "Hello from langchain"

T = TypeVar("T")


@pytest.fixture(scope="module")
def langchain(server: Served) -> Any:
    return installed("langchain_openai")


@pytest.fixture
def words(server: Served) -> Iterator[dict[str, Any]]:
    with httpx.Client(timeout=LIMIT_S) as client:  # it keeps clients of its own for ever, and their sockets open
        yield {
            "base_url": server.url,
            "api_key": KEY,
            "model": NAME,
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": 12,
            "http_client": client,
        }


@pytest.fixture
def chat(langchain: Any, words: dict[str, Any]) -> Any:
    return langchain.ChatOpenAI(**words)


def on_loop(langchain: Any, words: dict[str, Any], law: Callable[[Any], Awaitable[T]]) -> T:
    """What the law finds out of a chat model that belongs to its loop."""

    async def bounded() -> T:
        async with httpx.AsyncClient(timeout=LIMIT_S) as client:
            return await law(langchain.ChatOpenAI(**words, http_async_client=client))

    return asyncio.run(bounded())


def test_a_chat_is_the_librarys_own_greedy_answer(chat: Any, server: Served) -> None:
    answer = chat.invoke(PROMPT)
    assert answer.content == server.chat(PROMPT)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == NAME
    n_prompt = server.n_prompt(PROMPT)
    assert answer.usage_metadata["input_tokens"] == n_prompt
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.usage_metadata["total_tokens"] == n_prompt + 12
    assert answer.usage_metadata["input_token_details"]["cache_read"] >= 0


def test_roles_come_to_the_model_as_they_are(chat: Any, server: Served) -> None:
    turns = [("system", "Be short."), ("human", "Hi"), ("ai", "Hello"), ("human", PROMPT)]
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    messages = [{"role": roles[role], "content": content} for role, content in turns]
    assert chat.invoke(turns).content == server.host.chat(messages, temperature=0.0, max_tokens=12).text


def test_a_stream_is_the_whole_and_tells_usage_when_asked(
    langchain: Any, words: dict[str, Any], server: Served
) -> None:
    chunks = list(langchain.ChatOpenAI(**words, stream_usage=True).stream(PROMPT))
    whole = reduce(add, chunks)
    assert whole.content == server.chat(PROMPT)
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata["output_tokens"] == 12


def test_it_streams_on_a_loop_too(langchain: Any, words: dict[str, Any], server: Served) -> None:
    async def law(chat: Any) -> str:
        return "".join([chunk.content async for chunk in chat.astream(PROMPT)])

    assert on_loop(langchain, words, law) == server.chat(PROMPT)


def test_a_batch_gets_what_each_gets_alone(chat: Any, langchain: Any, words: dict[str, Any], server: Served) -> None:
    asked = [f"number {k}" for k in range(N_MANY)]
    wanted = [server.chat(text) for text in asked]
    assert [answer.content for answer in chat.batch(asked, {"max_concurrency": N_MANY})] == wanted

    async def law(chat: Any) -> list[str]:
        return [answer.content for answer in await chat.abatch(asked)]

    assert on_loop(langchain, words, law) == wanted


def test_a_stop_string_ends_the_answer_before_itself(chat: Any, server: Served) -> None:
    whole = server.chat(PROMPT)
    stop = stop_within(whole)
    answer = chat.bind(stop=[stop]).invoke(PROMPT)
    assert answer.content == whole[: whole.index(stop)]
    assert answer.response_metadata["finish_reason"] == "stop"


def test_logprobs_come_with_the_answer(langchain: Any, words: dict[str, Any]) -> None:
    answer = langchain.ChatOpenAI(**words, logprobs=True, top_logprobs=2).invoke(PROMPT)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert len(tokens) == 12
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] for token in tokens)  # greedy


def test_text_completions_go_whole_streamed_and_in_batches(
    langchain: Any, words: dict[str, Any], server: Served
) -> None:
    model = langchain.OpenAI(**words)
    assert model.invoke(PROMPT) == server.complete(PROMPT)
    assert "".join(model.stream(PROMPT)) == server.complete(PROMPT)
    answers = model.generate([PROMPT, "one"])  # one request of two prompts
    assert [each[0].text for each in answers.generations] == [server.complete(PROMPT), server.complete("one")]
    assert answers.llm_output["token_usage"]["completion_tokens"] == 24


def test_errors_are_its_own_classes_with_our_words(langchain: Any, words: dict[str, Any]) -> None:
    core = installed("langchain_core.exceptions")
    for model in (langchain.ChatOpenAI, langchain.OpenAI):
        with pytest.raises(openai.NotFoundError, match=f"did you mean `{NAME}`"):
            model(**words | {"model": f"{NAME}x"}).invoke(PROMPT)
        with pytest.raises(openai.AuthenticationError, match="not valid here"):
            model(**words | {"api_key": "wrong"}).invoke(PROMPT)
        with pytest.raises(openai.BadRequestError, match="temperature must be"):
            model(**words | {"temperature": -1}).invoke(PROMPT)
        with pytest.raises(openai.BadRequestError, match=f"`{NAME}`, 8192 tokens"):
            model(**words).invoke(TOO_LONG)
    chat = langchain.ChatOpenAI(**words)
    with pytest.raises(core.ContextOverflowError):
        chat.invoke(TOO_LONG)
    with pytest.raises(core.ContextOverflowError):
        list(chat.stream(TOO_LONG))


def test_a_chain_that_is_cancelled_frees_the_slot(langchain: Any, words: dict[str, Any], server: Served) -> None:
    endless = words | {"max_tokens": ENDLESS["max_tokens"], "extra_body": {"ignore_eos": True}}

    async def law(chat: Any) -> None:
        task = asyncio.create_task(chat.ainvoke(PROMPT))
        await asyncio.to_thread(server.until_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with server.cancelling():
        on_loop(langchain, endless, law)
    with server.cancelling():
        stream = langchain.ChatOpenAI(**endless).stream(PROMPT)
        next(stream)
        stream.close()


def test_embeddings_are_the_librarys_own_in_batches_and_of_long_texts_in_parts(
    langchain: Any, tiny_llama: Path, tmp_path: Path
) -> None:
    with served(tiny_llama, tmp_path, "--embeddings") as server, httpx.Client(timeout=LIMIT_S) as client:
        words = {"base_url": server.url, "api_key": KEY, "model": NAME, "max_retries": 0, "http_client": client}
        vectors = langchain.OpenAIEmbeddings(**words, check_embedding_ctx_length=False, chunk_size=2)
        texts = ["one", "two words", "", "a third text"]
        found = vectors.embed_documents(texts)
        expected = server.host.embed(texts).vectors
        assert [len(each) for each in found] == [len(each) for each in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine == pytest.approx(list(theirs), abs=2e-3)
        assert vectors.embed_query("one") == pytest.approx(found[0], abs=2e-3)
        with pytest.raises(openai.BadRequestError):
            vectors.embed_query(TOO_LONG)

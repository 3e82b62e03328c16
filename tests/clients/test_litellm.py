"""litellm, as a library: the client that routers and agents of others are built on."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.serving import ENDLESS, KEY, N_MANY, NAME, TOO_LONG, Served, installed, stop_within

pytestmark = [
    pytest.mark.slow,
    # pydantic's, of how litellm uses it; some of its parts are imported by the first call
    pytest.mark.filterwarnings("ignore:Items? .* (is|are) using the `ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute on the instance:DeprecationWarning"),
]

PROMPT = "Hello from litellm"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would else fetch a list of prices at import
        module = installed("litellm")
        module.telemetry = False
        module.suppress_debug_info = True  # advertisements on standard output at each error
        yield module
        del module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a loop of its own that it leaves open
            gc.collect()


@pytest.fixture
def words(server: Served) -> dict[str, Any]:
    return {"model": f"openai/{NAME}", "api_base": server.url, "api_key": KEY, "max_retries": 0} | GREEDY


GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def test_a_chat_is_the_librarys_own_greedy_answer(litellm: Any, server: Served, words: dict[str, Any]) -> None:
    answer = litellm.completion(messages=MESSAGES, **words)
    assert answer.choices[0].message.content == server.chat(PROMPT)
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == NAME
    assert answer.usage.prompt_tokens == server.n_prompt(PROMPT)
    assert answer.usage.completion_tokens == 12


def test_a_stream_is_put_together_as_the_whole(litellm: Any, server: Served, words: dict[str, Any]) -> None:
    stream = litellm.completion(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **words)
    chunks = list(stream)
    told = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]  # the last has the usage alone
    assert "".join(told) == server.chat(PROMPT)
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].message.content == server.chat(PROMPT)
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (server.n_prompt(PROMPT), 12)


def test_text_completions_go_whole_and_streamed(litellm: Any, server: Served, words: dict[str, Any]) -> None:
    words = words | {"model": f"text-completion-openai/{NAME}", "prompt": PROMPT}
    answer = litellm.text_completion(**words)
    assert answer.choices[0].text == server.complete(PROMPT)
    assert answer.usage.completion_tokens == 12
    stream = litellm.text_completion(stream=True, **words)
    assert "".join(chunk.choices[0].text or "" for chunk in stream) == server.complete(PROMPT)


def test_a_stop_string_ends_the_answer_before_itself(litellm: Any, server: Served, words: dict[str, Any]) -> None:
    whole = server.chat(PROMPT)
    stop = stop_within(whole)
    answer = litellm.completion(messages=MESSAGES, stop=[stop], **words)
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_many_at_once_get_what_each_gets_alone(litellm: Any, server: Served, words: dict[str, Any]) -> None:
    asked = [[{"role": "user", "content": f"number {k}"}] for k in range(N_MANY)]
    answers = litellm.batch_completion(messages=asked, **words)
    assert [answer.choices[0].message.content for answer in answers] == [
        server.chat(f"number {k}") for k in range(N_MANY)
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_its_own_classes_with_our_words(litellm: Any, words: dict[str, Any], stream: bool) -> None:
    def ask(content: str = PROMPT, **more: Any) -> None:
        messages = [{"role": "user", "content": content}]
        litellm.completion(**{"messages": messages, "stream": stream, **words, **more})

    with pytest.raises(litellm.NotFoundError, match=f"did you mean `{NAME}`"):
        ask(model=f"openai/{NAME}x")
    with pytest.raises(litellm.AuthenticationError, match="not valid here"):
        ask(api_key="wrong")
    with pytest.raises(litellm.BadRequestError, match="temperature must be"):
        ask(temperature=-1)
    with pytest.raises(litellm.ContextWindowExceededError, match=f"`{NAME}`, 8192 tokens"):
        ask(TOO_LONG)


def test_a_router_falls_back_from_a_context_that_is_too_small(
    litellm: Any, server: Served, words: dict[str, Any]
) -> None:
    """What people run it for: the class of the error decides where the request goes next."""
    mocked = {"model": "openai/other", "api_key": "none", "mock_response": "from the larger one"}
    router = litellm.Router(
        model_list=[
            {"model_name": "small", "litellm_params": words},
            {"model_name": "large", "litellm_params": mocked},
        ],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
    )
    answer = router.completion("small", [{"role": "user", "content": TOO_LONG}])
    assert answer.choices[0].message.content == "from the larger one"
    answer = router.completion("small", MESSAGES)
    assert answer.choices[0].message.content == server.chat(PROMPT)


@pytest.mark.parametrize("stream", [False, True])
def test_a_task_that_is_cancelled_frees_the_slot(
    litellm: Any, server: Served, words: dict[str, Any], stream: bool
) -> None:
    async def law() -> None:
        async def ask() -> None:
            endless = words | {"max_tokens": ENDLESS["max_tokens"], "extra_body": {"ignore_eos": True}}
            answer = await litellm.acompletion(messages=MESSAGES, stream=stream, **endless)
            async for _ in answer:
                pass

        task = asyncio.create_task(ask())
        await asyncio.to_thread(server.until_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with server.cancelling():
        asyncio.run(law())

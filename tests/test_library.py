"""Laws of the library in somebody's program: what it forgets, forks, mounts and mistakes."""

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from llamahost import (
    AsyncHost,
    ChatResult,
    CompletionResult,
    ContextTooLong,
    DeadlineExceeded,
    Delta,
    Host,
    InvalidRequest,
    LlamahostError,
    LoadFailed,
    ManifestError,
    ModelNotFound,
    Overloaded,
    Tool,
    Unavailable,
    create_app,
)
from llamahost.core.errors import PullFailed
from llamahost.given import ChatOptions, CompletionOptions, chat_request, completion_request, embed_request, manifest_of
from tests.api.asking import ASK
from tests.api.fakes import client_of
from tests.fakes import FakeBackend
from tests.fleet.fakes import FakeLoader, spec_of
from tests.hosted import chat, completion, events_of, host_of
from tests.on_loop import LIMIT_S, on_loop


def test_a_text_that_no_file_can_be_called_is_refused_as_a_name() -> None:
    with pytest.raises(ManifestError, match="1 to 256 characters"):
        manifest_of("Tell me a story " * 300, {})


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("wrong", param="n"),
        ContextTooLong(n_prompt=9, n_ctx=8, model="m", param="prompt"),
        ModelNotFound("m", nearest="n"),
        Overloaded("full", retry_after_s=2.0),
        Unavailable("gone", retry_after_s=3.0),
        DeadlineExceeded(1.5),
        LoadFailed("no file"),
        PullFailed("nothing", is_unknown=True),
        ManifestError("wrong", key="k", line=7),
    ],
)
def test_an_error_is_the_same_in_another_process_and_as_a_copy(error: LlamahostError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_host_that_nobody_holds_any_more_is_closed_when_its_last_stream_is_over() -> None:
    threads = set(threading.enumerate())
    loader = FakeLoader(lambda: FakeBackend(n_ctx=512))
    stream = Host(spec_of(), load=loader).complete("abc", stream=True, max_tokens=9)

    def ended() -> None:
        assert len(list(stream)) > 0, "the stream alone holds it"
        for thread in set(threading.enumerate()) - threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), f"it left the thread {thread.name}"

    with pytest.warns(ResourceWarning, match="was not closed"):
        ended()
    assert loader.is_all_closed


def test_what_runs_is_neither_copied_nor_pickled_and_what_it_said_is() -> None:
    with Host(spec_of(), load=FakeLoader()) as host:
        stream = host.chat("hi", stream=True, max_tokens=3)
        assert list(stream)
        for alive in (host, stream, AsyncHost(spec_of(), load=FakeLoader())):
            for again in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="neither copied nor sent"):
                    again(alive)
        assert pickle.loads(pickle.dumps(stream.result)) == copy.deepcopy(stream.result) == stream.result


FORKED = """
import os
from llamahost import Host, Unavailable
from tests.fleet.fakes import FakeLoader, spec_of

with Host(spec_of(), load=FakeLoader()) as host:
    stream = host.complete("abc", stream=True)
    child = os.fork()
    if not child:
        for ask in (lambda: host.complete("abc"), lambda: next(stream)):
            try:
                ask()
                os._exit(1)
            except Unavailable as error:
                assert "before the process forked" in str(error)
        host.close()
        with Host(spec_of(), load=FakeLoader()) as other:
            assert other.complete("abc", max_tokens=3).usage.n_generated == 3
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert host.complete("abc", max_tokens=3).usage.n_generated == 3
"""


@pytest.mark.slow  # two processes that begin
def test_a_forked_child_is_told_to_make_a_host_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        check=False,
        text=True,
        capture_output=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


@on_loop
async def test_plain_values_ask_what_requests_ask() -> None:
    async with host_of() as (host, _):
        asked = await ChatResult.of(host.chat(chat("hi", max_tokens=5, sampling={"seed": 1})))
        plain = await ChatResult.of(host.chat("hi", max_tokens=5, seed=1))
        turns = [{"role": "user", "content": "hi"}]
        assert plain.text == asked.text == (await ChatResult.of(host.chat(turns, max_tokens=5, seed=1))).text
        whole = await CompletionResult.of(host.complete("abc", max_tokens=6, seed=0))
        events = await events_of(host, completion("abc", max_tokens=6))
        assert whole.text == "".join(event.text for event in events if isinstance(event, Delta))
        with pytest.raises(TypeError, match="holds its own"):
            host.chat(chat("hi"), max_tokens=5)
        with pytest.raises(TypeError, match="did you mean `max_tokens`"):
            host.complete("hi", max_token=5)  # type: ignore[call-arg]  # this is the mistake


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: chat_request(None, {}), "messages must be a list"),  # type: ignore[arg-type]
        (lambda: chat_request({"role": "user", "content": "x"}, {}), "messages must be a list"),  # type: ignore[arg-type]
        (lambda: chat_request(["x"], {}), "messages[0] must be a Message"),  # type: ignore[list-item]
        (lambda: chat_request("x", {"tools": [{"name": "f"}]}), "tools[0] must be a Tool"),
        (lambda: chat_request("x", {"output": "json"}), "output must be an Output"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"model": 3}), "model must be text"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"tools": 3}), "tools must be a list"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"stop_ids": 3}), "stop_ids must be a list"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"adapters": ["a"]}), "adapters must be a dict"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"thinking": "no"}), "thinking must be True or False"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"continued": "x"}), "one of 'no', 'text'"),  # type: ignore[typeddict-item]
        (lambda: embed_request("x", {"kind": "queries"}), "one of '', 'query'"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"template_options": 3}), "options must be a dict"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"n_calls": "x"}), "n_calls must be a whole number"),  # type: ignore[typeddict-item]
        (lambda: completion_request("x", {"n_prompt_logprobs": "x"}), "logprobs of 0 to 20"),  # type: ignore[typeddict-item]
        (lambda: embed_request("x", {"dimensions": "x"}), "dimensions must be"),  # type: ignore[typeddict-item]
        (lambda: chat_request("x", {"stop": ""}), "must not be empty"),
        (lambda: chat_request("x", {"stop": 3}), "stop must be a text"),  # type: ignore[typeddict-item]
        (lambda: completion_request(b"abc", {}), "a prompt is text"),
        (lambda: completion_request(None, {}), "a prompt is text"),  # type: ignore[arg-type]
        (lambda: embed_request(["a", 3], {}), "inputs must be texts"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_plain_value_is_told_by_its_field(make: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert sentence in str(caught.value)


def test_an_option_that_is_none_is_left_out() -> None:
    options: Any = dict.fromkeys(set(ChatOptions.__annotations__) - {"seed"})
    assert chat_request("x", options) == chat_request("x", {})
    options = dict.fromkeys(set(CompletionOptions.__annotations__) - {"seed"})
    assert completion_request("x", options) == completion_request("x", {})


def test_tools_may_be_written_as_openai_does() -> None:
    written = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    tool = Tool(name="f", description="d", parameters={"type": "object"})
    assert chat_request("x", {"tools": [written]}).tools == chat_request("x", {"tools": [tool]}).tools == (tool,)


def test_a_repository_in_place_of_a_path_is_told_how_to_be_had() -> None:
    with pytest.raises(LoadFailed, match='repo="Qwen/Qwen3-8B-GGUF"'):
        manifest_of("Qwen/Qwen3-8B-GGUF", {})
    with pytest.raises(TypeError, match="not int"):
        manifest_of(3, {})  # type: ignore[arg-type]


def test_options_beside_the_built_in_model_are_those_beside_a_file() -> None:
    (spec,) = manifest_of("builtin", {"name": "tiny", "n_ctx": 64}).models
    assert (spec.name, spec.aliases, spec.n_ctx, spec.n_threads) == ("tiny", (), 64, 1)
    (spec,) = manifest_of("builtin", {"aliases": ("small",)}).models
    assert (spec.name, spec.aliases) == ("builtin", ("small",))
    for model in ("builtin", "m.gguf"):
        with pytest.raises(ManifestError, match="must be AdapterSpecs, not 'poet'"):
            manifest_of(model, {"adapters": ("poet",)})  # type: ignore[typeddict-item]


@on_loop
async def test_a_host_that_was_not_started_or_is_closed_says_so_in_place_of_waiting() -> None:
    loader = FakeLoader()
    host = AsyncHost(spec_of(), load=loader)
    for call in (host.tokenize("a"), host.load("fake"), host.wait_ready(), ChatResult.of(host.chat("a"))):
        with pytest.raises(Unavailable, match="async with"):
            await call
    async with host:
        assert (await ChatResult.of(host.chat("hi", max_tokens=1))).usage.n_generated == 1

        def elsewhere() -> None:
            asyncio.run(ChatResult.of(host.chat("hi")))

        with pytest.raises(RuntimeError, match="loop that started it"):
            await asyncio.to_thread(elsewhere)
        with pytest.raises(TypeError, match="unknown setting `n_ctxt`; did you mean `n_ctx`"):
            await host.load("fake", {"n_ctxt": 64})
    with pytest.raises(Unavailable, match="make another"):
        await host.start()
    with pytest.raises(Unavailable, match="shutting down"):
        await asyncio.to_thread(elsewhere)


def test_without_asyncio_a_host_says_what_it_wants() -> None:
    start = AsyncHost(spec_of(), load=FakeLoader()).start()
    with pytest.raises(RuntimeError, match="asyncio"):
        start.send(None)  # as trio does


@on_loop
async def test_another_application_may_have_it_in_its_life_and_be_told_of_its_requests() -> None:
    loader = FakeLoader()
    host = AsyncHost(spec_of(), load=loader)
    llm = create_app(host)
    outer = Starlette(routes=[Mount("/llm", app=llm)], lifespan=llm.lifespan)
    async with client_of(outer) as client:
        assert (await client.post("/llm/v1/chat/completions", json=ASK)).status_code == 503
        async with outer.router.lifespan_context(outer):
            await host.wait_ready()
            answered: httpx.Response = await client.post("/llm/v1/chat/completions", json=ASK | {"max_tokens": 3})
            assert answered.status_code == 200
            async with aclosing(host.chat("hi", max_tokens=2)) as events:
                assert [event async for event in events]
            told = (await client.get("/llm/api/requests")).json()["requests"]
            assert [each["n_generated"] for each in told if each["status"] == "length"] == [2, 3]
    assert loader.is_all_closed

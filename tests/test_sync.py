"""Laws of the plain host: the same answers without asyncio, streams that can be left, threads that end."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import llamahost
from llamahost.core.errors import BackendError, GenerationFailed, InvalidRequest, LoadFailed, Unavailable
from llamahost.core.events import Delta, Finished, Started, Usage
from llamahost.core.messages import Message, Text, ToolCall
from llamahost.core.results import ChatResult, CompletionResult, Fold, chat_result
from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from llamahost.given import message_of
from llamahost.sync import Host
from tests.fakes import FakeBackend, alone
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import LIMIT_S


@contextmanager
def host_of(
    backend: FakeBackend | None = None,
    *,
    server: ServerSettings = ServerSettings(),  # noqa: B008 # it is frozen
    **options: Any,
) -> Iterator[tuple[Host, FakeLoader]]:
    threads = set(threading.enumerate())
    loader = FakeLoader(lambda: backend or FakeBackend(n_ctx=512))
    with Host(Manifest(models=(spec_of(**options),), server=server), load=loader) as host:
        yield host, loader
    assert loader.is_all_closed
    for thread in set(threading.enumerate()) - threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), f"the host left the thread {thread.name}"


def test_a_chat_and_its_stream_say_the_same() -> None:
    with host_of() as (host, _):
        turns: list[Message | Mapping[str, object]] = [
            {"role": "system", "content": "Be kind."},
            Message(role="user", parts=(Text("hi"),)),
        ]
        result = host.chat(turns, seed=1, max_tokens=20)
        assert isinstance(result, ChatResult)
        assert (result.finish_reason, result.usage.n_generated, result.model) == ("length", 20, "fake")
        with host.chat(turns, stream=True, seed=1, max_tokens=20) as stream:
            with pytest.raises(RuntimeError, match="not come to its end"):
                _ = stream.result
            assert "".join(delta.text for delta in stream) == result.text
            assert stream.result.text == result.text
            assert list(stream) == []


def test_a_completion_is_what_the_model_says() -> None:
    with host_of() as (host, loader):
        result = host.complete("abc", seed=0, max_tokens=6)
        assert isinstance(result, CompletionResult)
        assert host.complete([256, 97, 98, 99], seed=0, max_tokens=6).text == result.text
        assert "".join(d.text for d in host.complete("abc", stream=True, seed=0, max_tokens=6)) == result.text
        assert result.usage == Usage(n_prompt=4, n_cached=result.usage.n_cached, n_generated=6)
        request = llamahost.CompletionRequest(
            prompts=("abc",), generation=llamahost.Generation(sampling={"seed": 0}, max_tokens=6)
        )
        [job] = loader.opened[0].preparer.complete(request).jobs
        assert result.text == bytes(alone(job, 512)).decode()


def test_text_alone_is_a_users_turn() -> None:
    with host_of() as (host, _):
        options: dict[str, Any] = {"seed": 1, "max_tokens": 5}
        assert host.chat("hi", **options).text == host.chat([{"role": "user", "content": "hi"}], **options).text
        parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
        assert host.chat([{"role": "user", "content": parts}], **options).text == host.chat("hi", **options).text


@pytest.mark.parametrize("arguments", ['{"a": "é"}', {"a": "é"}])
def test_the_arguments_of_a_call_may_be_text_or_an_object(arguments: object) -> None:
    turn = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": arguments}}]}
    assert message_of(turn, 0).tool_calls == (ToolCall("c1", "f", '{"a": "é"}'),)


def test_more_answers_are_in_others_by_index() -> None:
    with host_of() as (host, _):
        result = host.complete(["abc", "de"], n=2, seed=0, max_tokens=3)
        assert len(result.others) == 3
        assert result.text == host.complete("abc", seed=0, max_tokens=3).text
        assert result.others[1].text == host.complete("de", seed=0, max_tokens=3).text


def test_logprobs_and_stops_come_through() -> None:
    with host_of() as (host, _):
        whole = host.complete("abc", seed=0, max_tokens=30, n_logprobs=2)
        assert len(whole.logprobs) == 30
        assert len(whole.logprobs[0].top) == 2
        stop = whole.text[10]
        cut = host.complete("abc", seed=0, max_tokens=30, stop=stop)
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.finish_reason == "stop"


def test_a_last_message_of_the_assistant_is_continued_where_it_is_asked_for() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Once"}]
    with host_of() as (host, _):
        options: dict[str, Any] = {"seed": 1, "max_tokens": 5}
        spelled = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nOnce"
        assert host.chat(turns, continued="text", **options).text == host.complete(spelled, **options).text
        assert host.chat(turns, **options).text != host.complete(spelled, **options).text
        with pytest.raises(InvalidRequest, match="only a last message of the assistant"):
            host.chat("hi", continued="text")


def test_a_prompts_logprobs_and_its_echo_are_in_the_result() -> None:
    with host_of() as (host, _):
        plain = host.complete("abc", seed=0, max_tokens=5)
        scored = host.complete("abc", seed=0, max_tokens=5, n_prompt_logprobs=2)
        assert scored.text == plain.text
        assert [(token.piece, token.offset) for token in scored.prompt_logprobs] == [
            (b"<s>", 0), (b"a", 0), (b"b", 1), (b"c", 2),
        ]  # fmt: skip
        assert [len(token.top) for token in scored.prompt_logprobs] == [0, 2, 2, 2]
        assert scored.usage.n_cached == 0
        with host.complete("abc", seed=0, max_tokens=5, echo=True, n_prompt_logprobs=2, stream=True) as stream:
            assert "".join(delta.text for delta in stream) == plain.text
            assert stream.result.text == "abc" + plain.text
            assert stream.result.prompt_logprobs == scored.prompt_logprobs


def test_a_prompt_may_be_computed_for_nothing_but_the_next() -> None:
    with host_of() as (host, _):
        warmed = host.complete("abc" * 20, max_tokens=0)
        assert (warmed.text, warmed.finish_reason, warmed.usage.n_generated) == ("", "length", 0)
        assert host.complete("abc" * 20 + "d", max_tokens=1).usage.n_cached == 61


@pytest.mark.parametrize("how", ["close", "with", "forget"])
def test_leaving_a_stream_early_frees_the_slot(how: str) -> None:
    backend = FakeBackend(n_ctx=100_000, n_slots=1)
    with host_of(backend) as (host, _):
        stream = host.complete("abc", stream=True, max_tokens=90_000)
        assert isinstance(next(stream), Delta)
        if how == "close":
            stream.close()
            stream.close()
            assert list(stream) == []
        elif how == "with":
            with stream:
                pass
        del stream  # the last reference: nothing else has to be done
        assert host.complete("next", max_tokens=3).usage.n_generated == 3
    assert backend.n_computed < 90_000


def test_errors_are_raised_where_the_call_is() -> None:
    backend = FakeBackend(failures={0: BackendError("bad step")})
    with host_of(backend, server=ServerSettings(n_retries=0)) as (host, _):
        with pytest.raises(GenerationFailed, match="bad step"):
            host.complete("abc")
        with pytest.raises(InvalidRequest, match="max_tokens"):
            host.complete("abc", max_tokens=-1)
        stream = host.complete("x" * 300, stream=True)
        with pytest.raises(llamahost.ContextTooLong):
            next(stream)
        assert list(stream) == []
        for wrong in (
            [{"role": "robot", "content": "x"}],
            [{"role": "user", "content": 3}],
            [{"role": "user", "content": [{"type": "image_url"}]}],
            [{"role": "user", "text": "x"}],
            [],
        ):
            with pytest.raises(InvalidRequest, match="messages"):
                host.chat(wrong)


def test_an_unknown_option_names_the_nearest() -> None:
    with host_of() as (host, _):
        with pytest.raises(TypeError, match="did you mean `temperature`"):
            host.chat("hi", temprature=0)  # type: ignore[call-overload]  # this is the mistake
        with pytest.raises(TypeError, match="unknown option `tools`"):
            host.complete("hi", tools=[])  # type: ignore[call-overload]  # a completion has none


def test_a_host_serves_several_threads_at_once() -> None:
    with host_of() as (host, _), ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda k: host.complete("abc" * (k % 4), seed=0, max_tokens=9).text, range(32)))
        assert texts == texts[:4] * 8


def test_a_host_that_cannot_load_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(LoadFailed, match="no such file"):
        Host(spec_of(), load=FakeLoader(failures=[LoadFailed("no such file")]))
    for thread in set(threading.enumerate()) - threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_closing_ends_open_streams_and_refuses_what_comes_later() -> None:
    with host_of(FakeBackend(n_ctx=100_000)) as (host, _):
        stream = host.complete("abc", stream=True, max_tokens=90_000)
        next(stream)
        host.close()
        host.close()
        with pytest.raises(Unavailable):
            list(stream)
        for call in (lambda: host.complete("x"), lambda: host.tokenize("x"), lambda: host.chat("x", stream=True)):
            with pytest.raises(Unavailable, match="closed"):
                call()


def test_a_call_that_is_pending_when_the_host_closes_is_told_so() -> None:
    with host_of() as (host, _), ThreadPoolExecutor(1) as pool:
        is_pending = threading.Event()

        async def pending() -> None:
            is_pending.set()
            await asyncio.Event().wait()

        told = pool.submit(lambda: host._call(pending()))
        assert is_pending.wait(LIMIT_S)
        host.close()
        with pytest.raises(Unavailable, match="closed"):
            told.result(LIMIT_S)


def test_tokens_there_and_back() -> None:
    with host_of() as (host, _):
        assert host.detokenize(host.tokenize("to and fro")) == "to and fro"


def test_a_fold_tells_channels_and_calls_apart() -> None:
    fold = Fold(chat_result)
    usage = Usage(3, 0, 5, 1)
    for event in (
        Started(0, "m", 3, 0),
        Delta(0, "hm", "reasoning"),
        Delta(0, "hello"),
        Delta(0, "", "tool", "c1", "search"),
        Delta(0, '{"q":', "tool"),
        Delta(0, "1}", "tool"),
    ):
        fold.feed(event)
        assert not fold.is_whole
    fold.feed(Finished(0, "tool", usage))
    assert fold.result() == ChatResult(
        text="hello",
        reasoning="hm",
        tool_calls=(ToolCall("c1", "search", '{"q":1}'),),
        finish_reason="tool",
        usage=usage,
        model="m",
    )


def test_public_names_are_all_there() -> None:
    for name in llamahost.__all__:
        assert getattr(llamahost, name) is not None
    with pytest.raises(AttributeError):
        _ = llamahost.no_such_name


def test_the_package_costs_nothing_until_used_and_a_host_starts_without_heavy_imports() -> None:
    code = """
import logging, sys, llamahost
assert not {"llama_cpp", "jinja2", "numpy", "asyncio"} & set(sys.modules)
logging.getLogger("llamahost.fleet").error("in a program that set no log up, this is told to nobody")
import llamahost.host
assert not {"llama_cpp", "jinja2", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_generated_model_chats(tiny_llama: Path) -> None:
    with Host(tiny_llama, n_ctx=256, n_slots=2, n_threads=1) as host:
        result = host.chat("hello", max_tokens=8, seed=1)
        assert 1 <= result.usage.n_generated <= 8
        assert "".join(delta.text for delta in host.chat("hello", stream=True, max_tokens=8, seed=1)) == result.text
        assert host.detokenize(host.tokenize("hello")).strip() == "hello"


def test_a_program_that_ends_without_closing_ends_well(tiny_llama: Path) -> None:
    code = f"""
import sys, llamahost
host = llamahost.Host({str(tiny_llama)!r}, n_ctx=256, n_slots=2, n_threads=1)
next(host.complete("hello", stream=True, ignore_eos=True))
sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 3


def test_a_trained_model_chats(shared_models: Path) -> None:
    with Host(shared_models / "tinytalk-3M-chat-q8_0.gguf", n_ctx=256, n_slots=2, n_threads=1) as host:
        result = host.chat([{"role": "user", "content": "hey, how are you?"}], temperature=0.0)
        assert result.text.strip() == "I'm good, thanks for asking. How about you?"
        assert result.finish_reason == "stop"

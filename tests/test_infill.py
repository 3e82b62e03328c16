"""/infill from end to end, as an editor uses it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from llamahost import AsyncHost, create_app
from llamahost.api.auth import Keys
from llamahost.api.infill import InfillAnswer, InfillEncoder, until_set
from llamahost.core.errors import InvalidRequest
from llamahost.core.events import Event, Finished, Started, Usage
from llamahost.fleet.settings.manifest import ServerSettings
from tests.api.fakes import FakeHost, app_of, client_of, said
from tests.gguf_models import write_model
from tests.on_loop import on_loop, turns

GAP: dict[str, Any] = {"input_prefix": "def f(", "input_suffix": "):\n    pass", "temperature": 0, "n_predict": 8}


@pytest.fixture(scope="module")
def filler(model_folder: Path) -> Path:
    return write_model(model_folder / "filler.gguf", has_fim=True)


def test_a_stop_string_is_named_as_llama_server_does() -> None:
    encoder = InfillEncoder()
    usage = Usage(n_prompt=3, n_generated=2, n_cached=0)
    for reason, stop, told in (("stop", "\n\n", "word"), ("stop", "", "eos"), ("length", "", "limit")):
        encoder.feed(Finished(0, reason, usage, stop=stop))  # type: ignore[arg-type] # each is a Reason
        last = json.loads(encoder.body())
        assert (last["stop_type"], last["stopping_word"]) == (told, stop)


@asynccontextmanager
async def served(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncHost(model, n_ctx=512, n_slots=1, n_threads=1) as host, client_of(create_app(host)) as client:
        yield client


async def filled(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await client.post("/infill", json={**GAP, **more})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@on_loop
async def test_a_gap_is_filled_as_the_model_fills_it_in_where_the_marks_are_spelled(filler: Path) -> None:
    async with served(filler) as client:
        told = await filled(client)
        spelled = {"prompt": "<before>def f(<after>):\n    pass<between>", "temperature": 0, "max_tokens": 8}
        expected = (await client.post("/v1/completions", json=spelled)).json()
        assert told["content"] == expected["choices"][0]["text"]
        assert told["tokens_evaluated"] == expected["usage"]["prompt_tokens"]
        assert (told["tokens_predicted"], told["stop"], told["stop_type"], told["truncated"]) == (
            8,
            True,
            "limit",
            False,
        )
        typed = await filled(client, input_prefix="def ", prompt="f(")
        assert typed["content"] == told["content"]
        assert typed["timings"]["cache_n"] > 0
        cut = await filled(
            client, input_prefix="x = 1\n" * 400, input_extra=[{"text": "import os", "filename": "a.py"}]
        )
        assert cut["truncated"] is True
        assert cut["tokens_evaluated"] <= 512 - 8


@on_loop
async def test_a_stream_is_in_llama_servers_form(filler: Path) -> None:
    async with served(filler) as client:
        whole = await filled(client)
        answer = await client.post("/infill", json={**GAP, "stream": True})
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
        assert "".join(event["content"] for event in events) == whole["content"]
        assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1]["tokens_predicted"] == 8


@on_loop
async def test_editors_are_answered_as_they_ask(filler: Path) -> None:
    """llama.vim's request, and the one by which it has its other files computed before somebody types."""
    fields = ["content", "timings/prompt_n", "timings/predicted_n", "truncated", "tokens_cached", "no/such"]
    asked: dict[str, Any] = {
        "id_slot": 0,
        "input_extra": [{"text": "x = 1", "time": [1, 2], "filename": "a.py"}],
        "prompt": "    ",
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
        "response_fields": fields,
    }
    async with served(filler) as client:
        told = (await client.post("/infill", json={"input_prefix": "def f(", "input_suffix": "):", **asked})).json()
        assert list(told) == fields[:-1]
        assert told["timings/prompt_n"] > 0
        probs = {"input_prefix": "def f(", "input_suffix": "):", "n_predict": 3, "n_probs": 2, "temperature": 0}
        whole = (await client.post("/infill", json=probs)).json()
        assert [len(each["top_logprobs"]) for each in whole["completion_probabilities"]] == [2] * whole[
            "tokens_predicted"
        ]
        after = (await client.post("/infill", json={**probs, "post_sampling_probs": True})).json()
        assert {each["prob"] for each in after["completion_probabilities"]} == {1.0}
        warm = {"n_predict": 0, "samplers": [], "response_fields": [""], "prompt": ""}
        answer = await client.post("/infill", json={"input_prefix": "", "input_suffix": "", **asked, **warm})
        assert (answer.status_code, answer.json()) == (200, {})
        for each in (told, whole, answer.json()):
            msgspec.convert(each, InfillAnswer)  # as /openapi.json tells it, also where fields were chosen


@on_loop
async def test_what_cannot_be_filled_in_is_refused_by_its_field(filler: Path, tiny_llama: Path) -> None:
    async with served(filler) as client:
        for more, param in (
            ({"input_prefix": None}, "input_prefix"),
            ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
            ({"n": 2}, "n"),
            ({"n_predict": 511}, "n_predict"),
        ):
            answer = await client.post("/infill", json={**GAP, **more})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    async with served(tiny_llama) as client:
        asked: list[dict[str, object]] = [{}, {"stream": True}, {"session_id": "editor"}]
        for given in asked:
            answer = await client.post("/infill", json={**GAP, **given})
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (501, "not_supported_error"), "as llama-server answers"
            assert "does not fill in" in error["message"]
        answer = await client.post("/v1/completions", json={"prompt": "a", "suffix": "b"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix"), "a 500 is asked for again"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_next_request_of_a_session_ends_the_one_before_and_no_others(is_streamed: bool) -> None:
    @on_loop
    async def law() -> None:
        gate = asyncio.Event()
        host = FakeHost([*said("a")[:1], gate.wait, *said("a", "b")[1:]])
        app = app_of(host)
        async with client_of(app) as client:

            async def ask(session: str, **header: str) -> httpx.Response:
                body = {**GAP, "session_id": session, "stream": is_streamed}
                headers = {name.replace("_", "-"): value for name, value in header.items()}
                return await client.post("/infill", json=body, headers=headers)

            shown = [("one", {"x_api_key": "k"}), ("two", {"x_api_key": "k"}), ("one", {"x_api_key": "another"})]
            shown += [("one", {"authorization": "Bearer a third"}), ("one", {})]
            asked = [asyncio.create_task(ask(session, **header)) for session, header in shown]
            while host.n_open < len(asked):
                await turns()
            app.adopt(ServerSettings(), Keys(()))  # another manifest does not part a session from its request
            later = asyncio.create_task(ask("one", authorization="Bearer k"))  # the same key, however it is shown
            first = await asked[0]
            if not is_streamed:
                assert first.status_code == 409
            assert "superseded" in first.text
            assert host.n_cancelled == 1
            gate.set()
            for answer in await asyncio.gather(*asked[1:], later):
                assert answer.status_code == 200
                assert "superseded" not in answer.text

    law()


@on_loop
async def test_a_request_that_fails_in_the_turn_in_which_its_editor_leaves_is_passed_over_in_silence() -> None:
    async def leave() -> None:
        async def failing() -> AsyncGenerator[Event, None]:
            yield Started(0, "tiny", 1, 0)
            await turns()
            answering.cancel()
            raise InvalidRequest("no gap")

        events = until_set(failing(), asyncio.Event())
        await anext(events)
        answering = asyncio.ensure_future(anext(events))
        with pytest.raises(asyncio.CancelledError):
            await answering

    await leave()
    await turns()
    gc.collect()  # then the loop would complain of an exception that nobody has heard of

"""What clients see over HTTP where replicas fail or are full: an error event, another's answer, or a 429."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from llamahost.api.app import create_app
from llamahost.core.errors import BackendError, BackendLost
from llamahost.core.work import Plan
from tests.api.sockets import listening
from tests.fakes import FakeBackend
from tests.on_loop import LIMIT_S, on_loop, turns
from tests.replicas import Records, two_replicas

PATH = "/v1/completions"


class Held(FakeBackend):
    """Computes while its gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        def cost(_: Plan) -> float:
            assert gate.wait(LIMIT_S)
            return 0.001

        super().__init__(n_ctx=10**6, n_slots=1, cost=cost)


def body(n_tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "abc", "max_tokens": n_tokens, **more}


@pytest.mark.slow
@on_loop
async def test_a_replica_that_is_lost_mid_stream_is_an_error_event_and_its_other_requests_move() -> None:
    gate = threading.Event()
    gate.set()
    backends = [Held(gate), Held(gate)]
    async with two_replicas(*backends, records=Records()) as host, AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(create_app(host)))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S)
        )
        stack.callback(gate.set)
        running: dict[str, tuple[FakeBackend, httpx.Response]] = {}
        for _ in range(2):  # one on each
            answer = await stack.enter_async_context(client.stream("POST", PATH, json=body(900_000, stream=True)))
            (backend,) = [b for b in backends if b.n_steps and all(b is not known for known, _ in running.values())]
            running[answer.headers["x-llamahost-replica"]] = backend, answer
        assert running.keys() == {"m#0", "m#1"}
        gate.clear()
        waiting = [asyncio.ensure_future(client.post(PATH, json=body(3))) for _ in range(4)]
        while host.models()[0].n_in_flight < 6:
            await turns()
        (lost, failed), (_, going) = running.values()
        lost.fail_next(BackendLost("the device is gone"))
        gate.set()
        last = [line async for line in failed.aiter_lines() if line][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["code"], error["message"]) == ("generation_failed", "the device is gone")
        await going.aclose()  # so that the others have a slot
        answers = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert {answer.headers["x-llamahost-tries"] for answer in answers} == {"1", "2"}


@on_loop
async def test_a_step_that_fails_before_the_first_token_is_another_replica_s_answer() -> None:
    bad = {0: BackendError("a bad step")}
    async with (
        two_replicas(FakeBackend(failures=bad), FakeBackend(failures=bad), records=Records()) as host,
        listening(create_app(host)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client,
    ):
        answer = await client.post(PATH, json=body(3, stream=True))
    assert (answer.status_code, answer.headers["x-llamahost-tries"]) == (200, "3")
    assert "error" not in answer.text


@on_loop
async def test_an_error_s_headers_say_who_failed_last_and_after_how_many_tries() -> None:
    bad = {k: BackendError("a bad step") for k in range(9)}
    async with (
        two_replicas(FakeBackend(failures=bad), FakeBackend(failures=bad), records=Records()) as host,
        listening(create_app(host)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client,
    ):
        too_long = await client.post(PATH, json=body(3, prompt="abc" * 10**5))
        failed = await client.post(PATH, json=body(3))
    assert (failed.status_code, too_long.status_code) == (500, 400)
    headers = ("x-llamahost-model", "x-llamahost-replica", "x-llamahost-tries")
    assert [failed.headers.get(name) for name in headers] in (["m", "m#0", "3"], ["m", "m#1", "3"])
    assert too_long.headers["x-llamahost-replica"].startswith("m#")


@pytest.mark.slow
@on_loop
async def test_where_all_replicas_are_full_it_is_a_429_that_says_when_to_come_again() -> None:
    gate = threading.Event()
    gate.set()
    async with two_replicas(Held(gate), Held(gate), records=Records(), max_queue=0) as host, AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(create_app(host)))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S)
        )
        stack.callback(gate.set)
        for _ in range(2):
            await stack.enter_async_context(client.stream("POST", PATH, json=body(900_000, stream=True)))
        gate.clear()
        refused = await client.post(PATH, json=body(3))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-llamahost-tries"] == "1"
        assert "x-llamahost-replica" not in refused.headers, "nobody had room"

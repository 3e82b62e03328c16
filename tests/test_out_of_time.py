"""Who comes when all is full, or waits beyond a deadline, is told so over a real socket, and costs nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from llamahost.host import AsyncHost
from tests.fakes import Gated
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import on_loop, turns
from tests.served import COMPLETE, asked, post, serving, until_free


@on_loop
async def test_a_full_queue_is_429_with_retry_after_and_is_answered_later() -> None:
    backend = Gated()
    host = AsyncHost(spec_of(max_queue=1), load=FakeLoader(lambda: backend))
    body = post(COMPLETE, b'{"prompt": "a", "max_tokens": 2}')
    async with serving(host) as port:
        n_room = backend.n_slots + 1
        inside = [asyncio.create_task(asked(port, body)) for _ in range(n_room)]
        while host.models()[0].n_in_flight < n_room:
            await turns(1)
        for sent in (body, body.replace(b"2}", b'2, "stream": true}').replace(b": 32", b": 48")):
            (answer,) = await asked(port, sent)
            assert answer.status == 429
            assert answer.error["code"] == "queue_full"
            assert answer.error["type"] == "rate_limit_error"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert host.models()[0].n_in_flight == n_room
        backend.open()
        assert [answer.status for answers in await asyncio.gather(*inside) for answer in answers] == [200] * n_room
        (answer,) = await asked(port, body)
        assert answer.status == 200
        await until_free(host)


@pytest.mark.parametrize("is_streamed", [False, True])
@on_loop
async def test_a_deadline_that_passed_is_504_and_frees_its_slot(is_streamed: bool) -> None:
    backend = Gated()
    host = AsyncHost(spec_of(), load=FakeLoader(lambda: backend))
    late = {"prompt": "a", "max_tokens": 2, "timeout": 0.01, "stream": is_streamed}
    async with serving(host) as port:
        (answer,) = await asked(port, post(COMPLETE, json.dumps(late).encode()))
        assert answer.status == 504
        told = {"type": "timeout_error", "param": "timeout", "code": "deadline_exceeded"}
        assert {key: answer.error[key] for key in told} == told
        assert host.models()[0].n_in_flight == 0
        backend.open()
        (answer,) = await asked(port, post(COMPLETE, b'{"prompt": "a", "max_tokens": 2}'))
        assert answer.status == 200
        await until_free(host)


@on_loop
async def test_the_servers_own_deadline_is_504_too() -> None:
    backend = Gated()
    host = AsyncHost(
        Manifest(models=(spec_of(),), server=ServerSettings(timeout_s=0.01)), load=FakeLoader(lambda: backend)
    )
    async with serving(host) as port:
        (answer,) = await asked(port, post(COMPLETE, b'{"prompt": "a"}'))
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        backend.open()
        await until_free(host)

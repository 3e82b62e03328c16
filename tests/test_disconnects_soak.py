"""A thousand clients that leave at random moments, of a real server on a real model: no slot may be lost."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from llamahost.host import AsyncHost
from tests.openai_clients import serving

N_CLIENTS = 1000
N_AT_ONCE = 24
LIMIT_S = 240.0


def request_bytes(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def leave_somewhere(port: int, chance: random.Random) -> str:
    """Ask, and leave after a random part: of the request, of the wait, or of the answer. Tells where."""
    n_words = chance.choice([3, 30, 150])
    prompt = " ".join(chance.choice(["sea", "ship", "sail", "storm"]) for _ in range(n_words))
    is_streamed = chance.random() < 0.7
    request = request_bytes(
        "/v1/completions",
        {
            "prompt": prompt,
            "max_tokens": 200,
            "stream": is_streamed,
            "ignore_eos": True,
            "n": chance.choice([1, 1, 1, 3]),
        },
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        where = chance.choice(["in the request", "at once", "soon", "in the answer", "in the answer"])
        if where == "in the request":
            writer.write(request[: chance.randrange(len(request))])
            await writer.drain()
            return where
        writer.write(request)
        await writer.drain()
        if where == "soon":
            await asyncio.wait({asyncio.ensure_future(reader.read(1))}, timeout=chance.random() * 0.02)
        elif where == "in the answer":
            await reader.read(chance.randrange(1, 4000))
        return where
    finally:
        writer.transport.abort()


async def until_idle(host: AsyncHost) -> None:
    for _ in range(1_000_000):
        if not any(model.n_in_flight for model in host.models()):
            return
        await asyncio.sleep(0)
    raise AssertionError("a request of a client that left is still in flight")


@pytest.mark.slow
@pytest.mark.parametrize("kv_layout", ["split", "unified"])
def test_a_thousand_clients_that_leave_cost_no_slot(tiny_llama: Path, kv_layout: str) -> None:
    async def soak() -> None:
        options = {"n_slots": 4, "n_ctx": 512, "kv_layout": kv_layout, "n_threads": 1, "max_queue": 64}
        async with asyncio.timeout(LIMIT_S), serving(tiny_llama, **options) as (port, host, _):
            chance = random.Random(7)
            gate = asyncio.Semaphore(N_AT_ONCE)
            places: dict[str, int] = {}

            async def one() -> None:
                async with gate:
                    where = await leave_somewhere(port, chance)
                    places[where] = places.get(where, 0) + 1

            await asyncio.gather(*(one() for _ in range(N_CLIENTS)))
            assert min(places.values()) > N_CLIENTS // 10
            # All are gone; what they left behind ends by itself, and every slot answers again.
            await until_idle(host)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                request_bytes("/v1/completions", {"prompt": "sea", "max_tokens": 8, "n": 8, "ignore_eos": True})
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head.splitlines()[0]
            length = int(
                next(line for line in head.splitlines() if line.lower().startswith(b"content-length")).split()[1]
            )
            answer = json.loads(await reader.readexactly(length))
            assert len(answer["choices"]) == 8
            assert answer["usage"]["completion_tokens"] == 64
            writer.close()
            await until_idle(host)

    asyncio.run(soak())

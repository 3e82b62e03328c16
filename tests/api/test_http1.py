"""What comes before a request: heads without end, offers to upgrade, bytes that are no HTTP. Over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from collections.abc import Awaitable, Callable

import pytest

from llamahost.api.http1 import MAX_HEAD_BYTES, N_SPARE, Http1
from llamahost.api.server import MAX_FILES, many_files
from tests.api.asking import ASK
from tests.api.fakes import FakeHost, app_of, run, said
from tests.api.sockets import Client, listening

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n"
WEBSOCKET = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
CHAT = "/v1/chat/completions"


def law(body: Callable[[FakeHost, Client], Awaitable[None]], **settings: object) -> None:
    async def served() -> None:
        host = FakeHost()
        async with listening(app_of(host, **settings)) as port:  # type: ignore[arg-type] # a test's shorthand
            client = await Client.open(port)
            try:
                await body(host, client)
            finally:
                client.vanish()

    run(served)


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_an_offer_to_upgrade_is_passed_over_and_the_body_is_read(offer: str) -> None:
    """Java's HttpClient makes it with the first request of every connection, whatever the address."""

    async def body(host: FakeHost, client: Client) -> None:
        for headers in (offer, "", offer):
            client.post(CHAT, ASK, headers=headers)
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            await client.until(b"predicted_per_second")
            await client.until(b"}}")
        assert len(host.requests) == 3

    law(body)


def test_offers_may_follow_each_other_without_end() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        n = 1500  # in one piece, or a few
        client.writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * n)
        for _ in range(n):
            assert (await client.until(b"\r\n\r\n")).endswith(b"\r\n\r\n")
        client.post(CHAT, ASK, headers="Connection: close\r\n")
        assert b"predicted_per_second" in await client.reader.read()

    law(body)


@pytest.mark.parametrize("cut", [1, 40, 130])
def test_an_offer_may_come_in_pieces(cut: int) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        data = json.dumps(ASK).encode()
        whole = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{H2C}Content-Length: {len(data)}\r\n\r\n".encode() + data
        for at in range(0, len(whole), cut):
            client.writer.write(whole[at : at + cut])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    law(body)


def test_a_connection_that_is_to_be_closed_is_closed_in_spite_of_an_offer() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.post(CHAT, ASK, headers=H2C.replace("Upgrade,", "close, upgrade,"))
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer

    law(body)


@pytest.mark.parametrize("one", [b"X-Some: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["headers", "a header"])
def test_a_head_without_end_is_refused(one: bytes) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ")

        async def go_on() -> None:
            for _ in range(100_000):
                client.writer.write(one)
                await client.writer.drain()

        with pytest.raises(ConnectionError):
            await go_on()
        assert host.requests == []

    law(body)


@pytest.mark.parametrize("begun", [b"1\r\na\r\n0\r\nX-Long: ", b"1;x="], ids=["behind the body", "of a chunk"])
def test_what_a_body_in_chunks_says_beside_it_is_bounded_too(begun: bytes) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + begun)

        async def go_on() -> None:
            for _ in range(100_000):
                client.writer.write(b"y" * 1000)
                await client.writer.drain()

        with pytest.raises(ConnectionError):
            await go_on()
        assert host.requests == []

    law(body)


def test_a_body_of_many_chunks_may_have_headers_behind_it() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        data = json.dumps(ASK).encode() + b" " * 3 * MAX_HEAD_BYTES
        client.writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for at in range(0, len(data), 999):
            piece = data[at : at + 999]
            client.writer.write(b"%x;x=y\r\n%b\r\n" % (len(piece), piece))
            await client.writer.drain()
        client.writer.write(b"0\r\nX-Sum: 1\r\n\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    law(body)


@pytest.mark.parametrize("end", [b"", b"\r\nX-More: y\r\n\r\n"], ids=["so far", "whole"])
@pytest.mark.parametrize("begun", [b"GET /health HTTP/1.1\r\nX-Long: ", b"GET /health?"], ids=["header", "path"])
def test_a_head_that_is_too_large_is_told_so(begun: bytes, end: bytes) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        path = b" HTTP/1.1\r\nX-Long: y" if b"?" in begun else b""
        client.writer.write(begun + b"y" * MAX_HEAD_BYTES + path + end)
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert "head is larger" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]

    law(body)


def test_a_large_head_is_no_mistake() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.post(CHAT, ASK, headers=f"Cookie: {'y' * 30_000}\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    law(body)


def test_what_is_no_http_is_refused_in_json() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
        head, _, told = (await client.reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(told)["error"]["type"] == "invalid_request_error"

    law(body)


@pytest.mark.parametrize("offer", ["", WEBSOCKET], ids=["plain", "with an offer"])
def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_its_connection(offer: str) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        asked = json.dumps({**ASK, "stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.0\r\nHost: x\r\n{offer}Content-Length: {len(asked)}\r\n\r\n"
        client.writer.write(head.encode() + asked)
        told, _, events = (await client.reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in told.lower()
        assert b"connection: close" in told
        assert events.startswith(b"data: {")
        assert events.endswith(b"\n\ndata: [DONE]\n\n")

    law(body)


def test_of_many_requests_sent_in_advance_few_are_looked_at_and_all_answered() -> None:
    async def served() -> None:
        n, release = 1000, asyncio.Event()
        host = FakeHost([release.wait, *said("Hello")])
        async with listening(app_of(host)) as port:
            client = await Client.open(port)
            client.post(CHAT, ASK)
            await host.waiting.wait()
            client.writer.write(b"GET /ready HTTP/1.1\r\n\r\n" * n)
            (connection,) = port.server.server_state.connections
            assert isinstance(connection, Http1)
            while not connection.flow.read_paused:  # noqa: ASYNC110  nobody tells it
                await asyncio.sleep(0)
            assert len(connection.pipeline) < n / 4
            release.set()
            for _ in range(n + 1):
                assert (await client.until(b"\r\n\r\n")).count(b"HTTP/1.1 200 OK") == 1
            client.vanish()

    run(served)


def test_connections_leave_files_to_all_else() -> None:
    async def served() -> None:
        with socket.socket() as next_free:
            n_files = next_free.fileno() + 2 * N_SPARE
        async with listening(app_of(FakeHost()), n_files=n_files) as port:
            clients = [await Client.open(port) for _ in range(N_SPARE)]  # each of which is two files here
            for client in clients:
                client.post(CHAT, ASK, headers="Connection: close\r\n")
            answers = [await client.reader.read() for client in clients]
            statuses = [re.findall(rb"HTTP/1\.1 (\d+)", answer) for answer in answers]
            assert statuses == sorted(statuses)
            assert (statuses[0], statuses[-1]) == ([b"200"], [b"503"])
            assert b"\r\nretry-after: 1\r\n" in answers[-1]
            assert json.loads(answers[-1].partition(b"\r\n\r\n")[2])["error"]["code"] == "unavailable"
            for client in clients:
                client.vanish()

    run(served)


def test_the_server_may_have_as_many_files_as_it_can_be_given() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        n_files = many_files()
        assert n_files >= soft or n_files == MAX_FILES
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == n_files
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nobody_is_connected_through() -> None:
    async def body(host: FakeHost, client: Client) -> None:
        client.writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.reader.read()).startswith(b"HTTP/1.1 4")

    law(body)


def test_a_body_that_is_refused_is_read_to_its_end_so_that_the_answer_is_seen() -> None:
    """A client that sends all before it reads anything would otherwise meet a reset."""

    async def body(host: FakeHost, client: Client) -> None:
        n = 8 * 2**20
        for headers in ("", "Connection: close\r\n"):
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {n}\r\n\r\n"
            client.writer.write(head.encode())
            for _ in range(8):
                client.writer.write(bytes(n // 8))
                await client.writer.drain()
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
            assert b"body_too_large" in await client.until(b"}}")

    law(body, max_body_bytes=2048)


@pytest.mark.parametrize("n_before", [1, 2])
@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (b"no HTTP at all\r\n\r\n", b"400"),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nX-Many: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", b"431"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /infill HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", b"400"),
    ],
    ids=["no HTTP", "a large head", "CONNECT", "a broken body"],
)
def test_what_is_wrong_behind_requests_is_told_behind_their_answers(
    n_before: int, behind: bytes, status: bytes
) -> None:
    async def body(host: FakeHost, client: Client) -> None:
        data = json.dumps(ASK).encode()
        asked = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        client.writer.write(asked * n_before + behind + asked)  # what comes after it is nothing
        answers = await client.reader.read()
        assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200"] * n_before + [status]
        assert answers.count(b"predicted_per_second") == n_before
        assert len(host.requests) == n_before

    law(body)

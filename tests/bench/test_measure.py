"""A whole measurement against a small server in the test: counts, errors, order, and the report's schema."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llamahost.bench.client import Target, stream
from llamahost.bench.report import Report
from llamahost.bench.servers import BenchFailed
from llamahost.bench.session import Candidate, Options, measure, order_of
from tests.on_loop import LIMIT_S

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Talker:
    """Answers like an OpenAI-compatible server, one event a token; remembers the bodies it got."""

    def __init__(self, *, has_usage: bool = True, fails_every: int = 0, breaks: bool = False) -> None:
        self.bodies: list[bytes] = []
        self._has_usage = has_usage
        self._fails_every = fails_every
        self._breaks = breaks

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        if head.startswith("GET"):
            writer.write(plain(b'{"data":[{"id":"small"}]}'))
        else:
            length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
            body = await reader.readexactly(int(length.split(":")[1]))
            self.bodies.append(body)
            if self._fails_every and len(self.bodies) % self._fails_every == 0:
                writer.write(plain(b'{"error":{"message":"full"}}', b"429 Too Many Requests"))
            else:
                writer.write(self._answer(orjson.loads(body)))
        await writer.drain()
        writer.close()

    def _answer(self, body: dict[str, Any]) -> bytes:
        n = body["max_tokens"]
        is_chat = "messages" in body
        events = [orjson.dumps({"choices": [{"delta": {"content": "a"}} if is_chat else {"text": "a"}]})] * n
        events.append(b'{"choices":[{"text":"","finish_reason":"length"}]}')
        n_prompt = len(orjson.dumps(body.get("prompt") or body["messages"]).split())
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": 1}}
        if self._has_usage:
            events.append(orjson.dumps({"choices": [], "usage": usage}))
        events.append(b"[DONE]")
        raw = b"".join(b"data: " + event + b"\n\n" for event in events)
        if self._breaks:
            return HEAD + b"%x\r\n%s" % (len(raw) + 9, raw)
        return HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(raw), raw)


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def serve(talker: Talker) -> tuple[asyncio.Server, Target]:
    server = await asyncio.start_server(talker, "127.0.0.1", 0)
    return server, Target("127.0.0.1", server.sockets[0].getsockname()[1])


def measured(options: Options, *talkers: Talker) -> Report:
    async def work() -> Report:
        served = [await serve(talker) for talker in talkers]
        try:
            candidates = [Candidate(f"s{number}", target) for number, (_, target) in enumerate(served)]
            return await measure(options, candidates, lambda line: None)
        finally:
            for server, _ in served:
                server.close()

    return asyncio.run(work())


QUICK = Options(workloads=("short",), n_clients=(1, 3), n_rounds=3, n_max=5)


def test_all_that_was_generated_is_counted() -> None:
    report = measured(QUICK, Talker())
    for cell, n in zip(report.cells, (4, 6), strict=True):
        (summary,) = cell.summaries
        assert (summary.n_requests, summary.n_failed) == (3 * n, 0)
        assert summary.n_generated == 3 * n * 5
        assert summary.n_cached == 3 * n
        assert summary.first_s is not None
        assert summary.first_s.n == 3 * n
        assert summary.gap_s is not None
        assert summary.gap_s.n == 3 * n * 4
        assert summary.tokens_per_s is not None
        assert summary.tokens_per_s.n == 3


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["short", "long-prompt", "shared-prefix", "agent", "mixed"])
@pytest.mark.parametrize("is_open", [False, True])
def test_all_servers_get_the_same_bytes(workload: str, is_open: bool) -> None:
    one, other = Talker(), Talker()
    options = Options(
        workloads=(workload,), n_clients=(2,), rates=(500.0,) if is_open else (), n_rounds=2, n_requests=4, n_max=2
    )
    measured(options, one, other)
    n_probes = 2  # of the base alone
    assert sorted(one.bodies[n_probes:]) == sorted(other.bodies)


@pytest.mark.slow
def test_rounds_alternate() -> None:
    assert [order_of(3, n) for n in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    report = measured(QUICK, Talker(), Talker())
    for cell in report.cells:
        assert [run.server for run in cell.runs] == ["s0", "s1", "s1", "s0", "s0", "s1"]
        (comparison,) = cell.comparisons
        assert (comparison.base, comparison.rival, comparison.is_best_rival) == ("s0", "s1", True)
        assert len(comparison.ratios["tokens_per_s"].rounds) == 3


@pytest.mark.slow
def test_one_rival_is_the_best() -> None:
    report = measured(QUICK, Talker(), Talker(), Talker())
    for cell in report.cells:
        assert sum(comparison.is_best_rival for comparison in cell.comparisons) == 1


@pytest.mark.slow
def test_failures_are_counted_by_kind_and_make_no_tokens() -> None:
    report = measured(QUICK, Talker(fails_every=4))
    summary = report.cells[0].summaries[0]
    assert summary.errors == {"http 429": summary.n_failed}
    assert summary.n_failed >= 3
    assert summary.n_generated == 5 * (summary.n_requests - summary.n_failed)
    assert "full" in summary.details[0]


@pytest.mark.slow
def test_without_usage_events_stand_for_tokens() -> None:
    summary = measured(QUICK, Talker(has_usage=False)).cells[0].summaries[0]
    assert not summary.is_metered
    assert summary.n_generated == summary.n_requests * 5


def test_chat_is_measured_alike() -> None:
    options = Options(workloads=("agent",), n_clients=(2,), n_rounds=1, n_max=3, endpoint="chat")
    summary = measured(options, Talker()).cells[0].summaries[0]
    assert (summary.n_requests, summary.n_generated) == (12, 36)


def test_time_that_is_up_skips_and_says_so() -> None:
    options = Options(n_clients=(1,), n_rounds=1, n_requests=5, seconds=0.0)
    with pytest.raises(BenchFailed, match="none was begun"):
        measured(options, Talker())


def test_a_server_that_always_fails_ends_the_measurement() -> None:
    with pytest.raises(BenchFailed, match="429"):
        measured(QUICK, Talker(fails_every=1))


def test_kinds_of_failure() -> None:
    async def work() -> list[str]:
        server, target = await serve(Talker(breaks=True))
        broken = await stream(target, "/v1/completions", b'{"prompt":"a","max_tokens":1}', timeout_s=LIMIT_S)
        server.close()
        await server.wait_closed()
        refused = await stream(target, "/v1/completions", b"{}", timeout_s=LIMIT_S)
        return [broken.error, refused.error]

    assert asyncio.run(work()) == ["cut", "connect"]


@pytest.mark.slow
def test_the_report_keeps_its_schema(tmp_path: Path) -> None:
    parsed = orjson.loads(measured(QUICK, Talker(), Talker()).to_json())
    assert parsed["schema"] == 1
    assert set(parsed) == {"schema", "created_at", "version", "machine", "options", "servers", "cells"}
    assert {"name", "url", "command", "libraries", "health_s", "ready_s", "memory"} == set(parsed["servers"][0])
    cell = parsed["cells"][0]
    assert set(cell) == {"workload", "n_clients", "rate", "runs", "summaries", "comparisons"}
    assert len(cell["runs"]) == 6
    assert {"server", "round_no", "place", "tokens_per_s", "first_s", "gap_s", "total_s", "client_cpu_share"} <= set(
        cell["runs"][0]
    )
    ratio = cell["comparisons"][0]["ratios"]["tokens_per_s"]
    assert set(ratio) == {"spread", "rounds"}
    assert set(ratio["spread"]) == {"n", "low", "q1", "median", "q3", "high"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://box:1/v1/", "http://box:1"),
        ("https://box/api/v1", "https://box:443/api"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_urls_are_taken_as_people_write_them(text: str, url: str) -> None:
    assert Target.parse(text).url == url


def test_what_is_no_url_is_refused() -> None:
    for text in ("ftp://box", "http://", ""):
        with pytest.raises(ValueError):
            Target.parse(text)


def test_the_key_is_sent_and_never_reported() -> None:
    target = Target.parse("box:1", api_key="k-secret")
    assert b"Authorization: Bearer k-secret\r\n" in target.request("GET", "/health")
    assert "k-secret" not in target.url

"""A server after a fuzz: it lives, is well, no slot is taken, and all of them answer."""

from __future__ import annotations

import http.client

from tests.on_loop import LIMIT_S
from tests.processes import Server


def assert_at_rest(server: Server, *, n_slots: int, model: str = "tiny") -> None:
    assert server.process.poll() is None
    assert server.request("/health") == (200, {"status": "ok"})
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=LIMIT_S)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    assert f'llamahost_requests_running{{model="{model}"}} 0.0' in lines
    assert f'llamahost_requests_waiting{{model="{model}"}} 0.0' in lines
    assert server.request("/v1/completions", {"prompt": "a", "n": n_slots, "max_tokens": 2})[0] == 200

"""Ask a fake host for a chat, and read what it streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.api.fakes import FakeHost, app_of, client_of

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def post(host: FakeHost, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    async with client_of(app_of(host)) as client:
        return await client.post(path, json={**ASK, **fields})


def chunks_of(text: str) -> Iterator[dict[str, Any]]:
    """The JSON of each event, and that the stream ends as it must."""
    *events, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    for event in events:
        assert event.startswith("data: ")
        yield json.loads(event.removeprefix("data: "))

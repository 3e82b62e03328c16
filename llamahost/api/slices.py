"""Send what is long as it is made, a slice in each turn of the loop, so that nobody waits for all of it. Knows bytes.

A list of thousands of models takes a tenth of a second to write, and every stream would stand still for so long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from starlette.types import Send

SLICE_S = 0.001
"""What one turn of the loop is given; what fits into one is sent whole, with its length."""


async def send_slices(
    send: Send, pieces: Iterable[bytes], content_type: bytes, *, clock: Callable[[], float] = time.perf_counter
) -> None:
    """One response. Its client may be slow: no more is made than it takes."""
    headers = [(b"content-type", content_type)]
    slices = _slices(iter(pieces), clock)
    body, is_last = next(slices)
    if is_last:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
    while not is_last:
        await asyncio.sleep(0)
        body, is_last = next(slices)
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})


def _slices(pieces: Iterator[bytes], clock: Callable[[], float]) -> Iterator[tuple[bytes, bool]]:
    """Each as long as it took SLICE_S, and whether it is the last."""
    taken: list[bytes] = []
    began = clock()
    for piece in pieces:
        taken.append(piece)
        if clock() - began > SLICE_S:
            yield b"".join(taken), False
            taken.clear()
            began = clock()
    yield b"".join(taken), True


def listed(head: bytes, items: Iterable[bytes]) -> Iterator[bytes]:
    """`head` and the items of the JSON list that it opens, within one object."""
    yield head
    comma = b""
    for item in items:
        yield comma + item
        comma = b","
    yield b"]}"

"""Read an HTTP/1.1 answer and the server-sent events within it. Knows bytes and counts; opens no socket.

A load generator that works hard slows the server beside it on a small machine, so an event costs it one scan for line
ends: JSON is parsed only until the first text shows and in the last few events, where the usage is.
"""

from __future__ import annotations

from collections import deque

import orjson

MAX_HEAD_BYTES = 64 * 1024
N_TAIL = 4
"""How many last events are parsed: finish reason, usage and error stand there."""


class WireError(Exception):
    """The peer did not speak HTTP/1.1 as it should."""


class ResponseReader:
    """One response, fed as it comes, cut anywhere. Bodies: chunked, with a length, or until the connection ends."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._buffer = b""
        self._read = self._read_head
        self._left = 0  # body bytes still to come, of the chunk or of the whole
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body that these bytes complete."""
        self._buffer = self._buffer + data if self._buffer else data
        while not self.is_complete and self._read():
            pass
        body, self._body = self._body, []
        return body

    def feed_eof(self) -> None:
        """The peer closed. Raises WireError where more was promised."""
        if self.is_complete:
            return
        if self._read == self._read_until_close:
            self.is_complete = True
            return
        raise WireError("the connection ended within the response")

    # Each reader consumes one thing from the buffer and says whether it could.

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise WireError("the response's head does not end")
            return False
        first, *lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise WireError(f"not an HTTP/1.1 response: {first[:80]!r}")
        self.status = int(words[1])
        if 100 <= self.status < 200:
            return True  # an interim response; the real one follows
        self.headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            self.headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        self._choose_body()
        return True

    def _choose_body(self) -> None:
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            self.is_complete = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._read = self._read_chunk_size
        elif length is None:
            self._read = self._read_until_close
        elif not length.isdigit():
            raise WireError(f"not a content length: {length!r}")
        else:
            self._left = int(length)
            self.is_complete = self._left == 0
            self._read = self._read_length

    def _read_until_close(self) -> bool:
        self._take(len(self._buffer))
        return False

    def _read_length(self) -> bool:
        self._take(self._left)
        self.is_complete = self._left == 0
        return False

    def _read_chunk_size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise WireError("a chunk's size does not end")
            return False
        digits = self._buffer[:end].partition(b";")[0].strip()
        try:
            self._left = int(digits, 16)
        except ValueError:
            raise WireError(f"not a chunk size: {digits[:20]!r}") from None
        if self._left < 0:
            raise WireError(f"not a chunk size: {digits[:20]!r}")
        self._buffer = self._buffer[end + 2 :]
        self._read = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._take(self._left)
        if self._left:
            return False
        self._read = self._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if not self._buffer.startswith(b"\r\n"):
            raise WireError("a chunk is longer than its size")
        self._buffer = self._buffer[2:]
        self._read = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        self._buffer = self._buffer[end + 2 :]
        self.is_complete = end == 0  # an empty line ends the trailers
        return True

    def _take(self, n: int) -> None:
        piece = self._buffer[:n]
        if piece:
            self._body.append(piece)
            self._buffer = self._buffer[len(piece) :]
            self._left -= len(piece)


class EventReader:
    """Server-sent events, cut anywhere: gives the data of each. Comments, names and ids are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        lines = (self._rest + body).split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif self._data and line in (b"", b"\r"):
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        return events


class Trace:
    """When text came, and what the last events said. Times are the reader's own clock."""

    def __init__(self) -> None:
        self.stamps: list[float] = []  # of each event that brought text
        self.is_done = False  # [DONE] was seen
        self.n_prompt: int | None = None
        self.n_cached = 0
        self.n_generated: int | None = None
        self.finish_reason = ""
        self.error = ""
        self._tail: deque[tuple[bytes, float]] = deque(maxlen=N_TAIL)

    def add(self, event: bytes, now: float) -> None:
        if event == b"[DONE]":
            self.is_done = True
            return
        if not self.stamps and not _has_text(_parse(event)):
            self._tail.append((event, -1.0))
            return
        self.stamps.append(now)
        self._tail.append((event, now))

    def finish(self) -> None:
        """Read the last events: usage and reason are taken, those without text leave the stamps. Call it once."""
        for event, stamp in self._tail:
            parsed = _parse(event)
            self._read(parsed)
            if stamp >= 0.0 and not _has_text(parsed):
                self.stamps.remove(stamp)  # equal stamps are interchangeable
        self._tail.clear()

    def _read(self, parsed: dict[str, object]) -> None:
        usage = parsed.get("usage")
        if isinstance(usage, dict):
            self.n_prompt = _count(usage.get("prompt_tokens"))
            self.n_generated = _count(usage.get("completion_tokens"))
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self.n_cached = _count(details.get("cached_tokens")) or 0
        for choice in _choices(parsed):
            reason = choice.get("finish_reason")
            if isinstance(reason, str):
                self.finish_reason = reason
        error = parsed.get("error")
        if error:
            message = error.get("message") if isinstance(error, dict) else error
            self.error = str(message)


def _parse(event: bytes) -> dict[str, object]:
    try:
        parsed = orjson.loads(event)
    except orjson.JSONDecodeError:
        return {"error": f"an event is not JSON: {event[:80]!r}"}
    return parsed if isinstance(parsed, dict) else {"error": f"an event is not an object: {event[:80]!r}"}


def _choices(parsed: dict[str, object]) -> list[dict[str, object]]:
    choices = parsed.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _has_text(parsed: dict[str, object]) -> bool:
    for choice in _choices(parsed):
        delta = choice.get("delta")
        source = delta if isinstance(delta, dict) else choice
        if any(source.get(key) for key in ("content", "text", "reasoning_content", "reasoning", "tool_calls")):
            return True
    return False


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None

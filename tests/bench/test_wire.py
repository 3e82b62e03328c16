"""The reader of HTTP and events: however the bytes are cut, the events are the same."""

import pytest

from llamahost.bench.wire import EventReader, ResponseReader, Trace, WireError

EVENTS = (
    b': ping\n\ndata: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"h\xc3\xa9"}}]}\r\n\r\n'
    b'id: 7\nevent: chunk\ndata:{"choices":[{"delta":{"content":"llo"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":3}}}'
    b"\n\ndata: [DONE]\n\n"
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: 1\r\n\r\n"


RESPONSES = {
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(EVENTS, 50),
    "in small chunks": HEAD + b"transfer-encoding: Chunked\r\n\r\n" + chunked(EVENTS, 7),
    "with a length": HEAD + b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS,
    "until closed": HEAD + b"\r\n" + EVENTS,
    "after an interim one": b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\n" + EVENTS,
}


def read(parts: list[bytes]) -> tuple[ResponseReader, list[bytes]]:
    response, events = ResponseReader(), EventReader()
    found = [event for part in parts for piece in response.feed(part) for event in events.feed(piece)]
    response.feed_eof()
    return response, found


@pytest.mark.parametrize("raw", RESPONSES.values(), ids=RESPONSES.keys())
def test_events_are_the_same_cut_at_every_byte(raw: bytes) -> None:
    response, whole = read([raw])
    assert (response.status, response.is_complete) == (200, True)
    assert len(whole) == 6
    assert whole[-1] == b"[DONE]"
    for cut in range(1, len(raw)):
        assert read([raw[:cut], raw[cut:]])[1] == whole
    assert read([raw[i : i + 1] for i in range(len(raw))])[1] == whole


@pytest.mark.parametrize("kind", ["chunked", "with a length"])
def test_an_early_end_is_an_error_wherever_it_comes(kind: str) -> None:
    raw = RESPONSES[kind]
    for cut in range(len(raw) - 1):
        response = ResponseReader()
        response.feed(raw[:cut])
        with pytest.raises(WireError):
            response.feed_eof()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"x" * 100_000,
    ],
)
def test_what_is_not_http_is_said_to_be(raw: bytes) -> None:
    with pytest.raises(WireError):
        ResponseReader().feed(raw)


def test_no_body_ends_with_the_head() -> None:
    for head in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"):
        response = ResponseReader()
        assert response.feed(head) == []
        assert response.is_complete


def test_data_on_several_lines_is_one_event() -> None:
    assert EventReader().feed(b"data: a\ndata: b\n\n\n\ndata: c\n\n") == [b"a\nb", b"c"]


def trace_of(events: list[bytes]) -> Trace:
    trace = Trace()
    for place, event in enumerate(events):
        trace.add(event, float(place))
    trace.finish()
    return trace


def test_only_events_with_text_have_stamps() -> None:
    trace = trace_of(read([RESPONSES["chunked"]])[1])
    assert trace.stamps == [1.0, 2.0]
    assert (trace.n_prompt, trace.n_cached, trace.n_generated) == (5, 3, 2)
    assert (trace.finish_reason, trace.is_done, trace.error) == ("length", True, "")


def test_usage_in_the_last_event_with_text_is_read() -> None:
    event = b'{"choices":[{"text":"x","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    trace = trace_of([event, b"[DONE]"])
    assert (trace.stamps, trace.n_generated, trace.finish_reason) == ([0.0], 1, "stop")


def test_an_error_event_is_told_and_no_text() -> None:
    text = b'{"choices":[{"text":"x"}]}'
    trace = trace_of([text, text, b'{"error":{"message":"lost"}}'])
    assert (trace.error, trace.stamps) == ("lost", [0.0, 1.0])
    assert trace_of([b"<html>"]).error
    assert trace_of([]).n_generated is None

"""The table of bad input: each mistake gets its clear answer over a real socket, from a real model, and costs nothing.

After each the same server answers a good request, no slot is taken, and no request is counted as under way. What needs
a full queue or a deadline stands in test_out_of_time; a GGUF that is wrong in native/test_gguf and fuzz/, a port in use
in test_cli, signals in test_signals.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.host import AsyncHost
from tests.on_loop import LIMIT_S
from tests.served import CHAT, COMPLETE, MAX_BODY, Answer, asked, post, serving, until_free

N_CTX = 64

HI = [{"role": "user", "content": "Hi"}]
GOOD = {"model": "tiny", "prompt": "a", "max_tokens": 2}
RAISING = "{{ raise_exception('Only Latin is spoken here') }}"


@dataclass(frozen=True)
class Bad:
    """What is sent, and what must come back: the status, and these fields of the error."""

    status: int
    sent: bytes
    told: dict[str, Any] = field(default_factory=dict)
    says: str = ""


def wrong(body: bytes, param: str | None = None, *, path: str = CHAT, says: str = "") -> Bad:
    return Bad(400, post(path, body), {"type": "invalid_request_error", "param": param, "code": None}, says)


def chat(param: str | None, says: str = "", **fields: Any) -> Bad:
    body = {"model": "tiny", "messages": HI, "max_tokens": 2, **fields}
    return wrong(json.dumps(body).encode(), param, says=says)


def complete(param: str | None, says: str = "", **fields: Any) -> Bad:
    return wrong(json.dumps({**GOOD, **fields}).encode(), param, path=COMPLETE, says=says)


def literal(name: str, value: bytes, param: str | None, says: str = "") -> Bad:
    """A field whose JSON Python does not write."""
    body = json.dumps({"model": "tiny", "messages": HI, "max_tokens": 2, name: 0}).encode()
    return wrong(body.replace(b'"%s": 0' % name.encode(), b'"%s": %s' % (name.encode(), value)), param, says=says)


def too_long(n: int, param: str) -> dict[str, Any]:
    return {
        "type": "exceed_context_size_error",
        "code": "context_length_exceeded",
        "param": param,
        "n_prompt_tokens": n,
        "n_ctx": N_CTX,
    }


def chunked(*chunks: bytes, headers: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n" % (COMPLETE.encode(), headers)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


TOO_LARGE = {"type": "invalid_request_error", "code": "body_too_large", "param": None}

NOT_FOUND = {"type": "not_found_error", "param": None}

DEEP = b"[" * 10_000 + b"]" * 10_000

TABLE: dict[str, Bad] = {
    # malformed JSON
    "no body": wrong(b"", says="empty"),
    "half an object": wrong(b'{"messages": [', says="not valid JSON"),
    "two objects": wrong(b'{"messages": []}{}', says="not valid JSON"),
    "a text": wrong(b'"hello"', says="object"),
    "a form": wrong(b"messages=Hi&model=tiny", says="not valid JSON"),
    "a trailing comma": wrong(b'{"messages": [],}', says="not valid JSON"),
    "single quotes": wrong(b"{'messages': []}", says="not valid JSON"),
    # wrong types, missing fields
    "messages are text": chat("messages", messages="Hi"),
    "no messages": wrong(b"{}", "messages", says="required"),
    "no prompt": wrong(b"{}", "prompt", path=COMPLETE, says="required"),
    "content is a number": chat("messages[0].content", messages=[{"role": "user", "content": 3}]),
    "a number is text": chat("temperature", temperature="0.5"),
    "a number is true": chat("max_tokens", max_tokens=True),
    "a count has a fraction": chat("max_tokens", max_tokens=1.5),
    "stream is text": chat("stream", stream="yes"),
    "stop is a number": chat("stop", stop=3),
    # negative, infinite and NaN numbers
    "a negative temperature": chat("temperature", temperature=-1),
    "a negative top_p": chat("top_p", top_p=-0.1),
    "a negative n": chat("n", n=-1),
    "negative max_tokens": chat("max_tokens", max_tokens=-5),
    "a negative seed's neighbour": chat("seed", seed=-(2**63) - 1),
    "a negative token": complete("prompt[0]", prompt=[-1]),
    "NaN": literal("temperature", b"NaN", None, "not valid JSON"),
    "Infinity": literal("temperature", b"Infinity", None, "not valid JSON"),
    "an infinite number": literal("temperature", b"1e999", "temperature"),
    "a minus infinite number": literal("presence_penalty", b"-1e999", "presence_penalty"),
    # integers beyond 64 bits, and between 32 and 64, which ctypes would cut
    "top_k of 65 bits": chat("top_k", top_k=2**64),
    "top_k of 33 bits": chat("top_k", top_k=2**32 + 40),
    "max_tokens of 33 bits": chat("max_tokens", max_tokens=2**32 + 1),
    "max_tokens of 10,000 digits": literal("max_tokens", b"9" * 10_000, "max_tokens"),
    "repeat_last_n of 33 bits": chat("repeat_last_n", repeat_last_n=2**32),
    "mirostat of 33 bits": chat("mirostat", mirostat=2**32 + 1),
    "min_keep of 64 bits": chat("min_keep", min_keep=2**63 - 1),
    "a token of 33 bits": complete("prompt[1]", prompt=[20, 2**32 + 20]),
    "a bias on a token of 33 bits": chat("logit_bias", logit_bias={str(2**32 + 20): 1}),
    # huge n
    "n of 129": chat("n", n=129),
    "n of 64 bits": chat("n", n=2**63 - 1),
    "best_of of 32 bits": complete("best_of", best_of=2**31),
    "more answers than may be asked for": complete("prompt", prompt=["a"] * 9, n=128),
    # beyond the context
    "a prompt longer than the context": Bad(
        400, post(COMPLETE, json.dumps({**GOOD, "prompt": "x" * 100}).encode()), too_long(101, "prompt")
    ),
    "a prompt that leaves no room": Bad(
        400, post(COMPLETE, json.dumps({**GOOD, "prompt": [20] * N_CTX}).encode()), too_long(N_CTX, "prompt")
    ),
    "a chat longer than the context, streamed": Bad(
        400,
        post(
            CHAT, json.dumps({"stream": True, "model": "bare", "messages": [{**HI[0], "content": "x" * 100}]}).encode()
        ),
        too_long(101, "messages"),
    ),
    "a prompt of 200,000 characters": Bad(
        400, post(COMPLETE, json.dumps({**GOOD, "prompt": "x" * 200_000}).encode()), too_long(200_001, "prompt")
    ),
    # messages
    "empty messages": chat("messages", messages=[]),
    "a message that is null": chat("messages[0]", messages=[None]),
    "an unknown role": chat("messages[0].role", messages=[{"role": "robot", "content": "x"}]),
    "a role that is a number": chat("messages[0].role", messages=[{"role": 1, "content": "x"}]),
    "no role": chat("messages[0].role", messages=[{"content": "x"}]),
    "a template that raises": Bad(
        400,
        post(CHAT, json.dumps({"model": "raising", "messages": HI}).encode()),
        {"type": "invalid_request_error", "param": "messages"},
        "Only Latin is spoken here",
    ),
    "a template option of any kind": Bad(
        400,
        post(
            CHAT, json.dumps({"model": "options", "messages": HI, "chat_template_kwargs": {"depth": "deep"}}).encode()
        ),
        {"type": "invalid_request_error", "param": "messages"},
        "chat template",
    ),
    # invalid UTF-8
    "a byte that is no UTF-8": wrong(b'{"messages": [{"role": "user", "content": "\xff"}]}', says="UTF-8"),
    "half a character": wrong(b'{"messages": [{"role": "user", "content": "\xe2\x82"}]}', says="UTF-8"),
    "a surrogate in UTF-8": wrong(b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}', says="UTF-8"),
    "half a surrogate pair": wrong(
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', says="half of a surrogate"
    ),
    "the other half": wrong(b'{"messages": [{"role": "user", "content": "\\udc00"}]}', says="surrogate"),
    "half a pair in the model's name": wrong(b'{"model": "\\ud800", "messages": []}', says="surrogate"),
    "half a pair in a key": wrong(b'{"\\ud800": 1, "messages": []}', says="surrogate"),
    "UTF-16": wrong('{"messages": []}'.encode("utf-16"), says="UTF-16; JSON is sent in UTF-8"),
    "no message behind a byte order mark": wrong(b'\xef\xbb\xbf{"messages": []}', "messages", says="at least one"),
    # tokens outside the vocabulary
    "a token outside the vocabulary": complete("prompt", "vocabulary of 512", prompt=[20, 512]),
    "a token of another list": complete("prompt", "vocabulary of 512", prompt=[[20], [2**31 - 1]]),
    "a bias on a token outside the vocabulary": chat("logit_bias", "vocabulary of 512", logit_bias={"512": 1}),
    "a ban outside the vocabulary": chat("logit_bias", "vocabulary of 512", logit_bias=[[2**31 - 1, False]]),
    # depth
    "10,000 deep where nothing is known": wrong(b'{"deep": ' + DEEP + b"}", says="nested too deeply"),
    "10,000 deep where anything goes": wrong(
        b'{"messages": [], "chat_template_kwargs": {"a": ' + DEEP + b"}}", says="nested too deeply"
    ),
    "10,000 deep in messages": wrong(b'{"messages": ' + DEEP + b"}", "messages[0]"),
    "10,000 deep and cut": wrong(b'{"chat_template_kwargs": {"a": ' + b"[" * 10_000, says="nested too deeply"),
    # size
    "a body over the limit": Bad(413, post(COMPLETE, b" " * (MAX_BODY + 1)), TOO_LARGE),
    "a body that only claims to be, and waits for leave": Bad(
        413,
        b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        % (COMPLETE.encode(), 10**15),
        TOO_LARGE,
    ),
    "a body over the limit in chunks": Bad(413, chunked(*[b" " * 2**16] * 5), TOO_LARGE),
    "a body far over the limit": Bad(413, post(COMPLETE, b" " * 32 * MAX_BODY), TOO_LARGE),
    "chunks far over the limit": Bad(413, chunked(*[b" " * MAX_BODY] * 32), TOO_LARGE),
    # names and paths
    "an unknown model": Bad(
        404,
        post(COMPLETE, b'{"model": "tinny", "prompt": "a"}'),
        {"type": "not_found_error", "param": "model", "code": "model_not_found"},
        "did you mean `tiny`",
    ),
    "a name of any characters": Bad(
        404, post(COMPLETE, '{"model": "\\u0000\\n\U0001f999`", "prompt": "a"}'.encode()), {"param": "model"}
    ),
    "a name too long to look for": wrong(
        json.dumps({**GOOD, "model": "m" * 2000}).encode(), "model", path=COMPLETE, says="1024"
    ),
    "a path of Ollama's": Bad(404, post("/api/chat", b"{}"), NOT_FOUND, "use POST /v1/chat/completions"),
    "a path of Anthropic's": Bad(404, post("/v1/messages", b"{}"), NOT_FOUND, "use POST /v1/chat/completions"),
    "a path of llama-server's": Bad(404, post("/completion", b"{}"), NOT_FOUND, "use POST /v1/completions"),
    "a path misspelt": Bad(404, post("/v1/chat/completion", b"{}"), NOT_FOUND, "did you mean /v1/chat/completions?"),
    "a path that is no UTF-8": Bad(404, b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND),
    "a path with a surrogate": Bad(404, b"GET /%ed%a0%80 HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND),
    "a path with NUL and newline": Bad(404, b"GET /%00%0d%0a HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND),
    "a model's path that is no UTF-8": Bad(404, b"GET /v1/models/%ff HTTP/1.1\r\nHost: x\r\n\r\n", {"param": "model"}),
    "a query that is no UTF-8": Bad(404, b"GET /ready?model=%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n", {"param": "model"}),
    "a wrong method": Bad(405, b"GET /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n", {"type": "invalid_request_error"}),
    "a method of nobody's": Bad(405, b"PURGE /health HTTP/1.1\r\nHost: x\r\n\r\n", {"type": "invalid_request_error"}),
    # headers
    "headers that are no UTF-8": Bad(
        400,
        post(COMPLETE, b"{", b"X-Request-Id: \xff\xfe\r\nAuthorization: Bearer \xff\r\nX-Name: \xe9\r\n"),
        {"type": "invalid_request_error"},
    ),
}


class Served:
    """One server of one real model for the whole table, on a loop that only runs while it is asked."""

    def __init__(self, model: Path) -> None:
        self._runner = asyncio.Runner()
        shape: dict[str, Any] = {"n_ctx": N_CTX, "n_slots": 2, "n_threads": 1, "kv_layout": "split", "n_ubatch": 64}
        templates = {
            "tiny": "",
            "raising": RAISING,
            "bare": "{{ messages[0].content }}",
            "options": "{{ depth + 1 }}",
        }
        specs = [ModelSpec(name=name, path=model, template=text, **shape) for name, text in templates.items()]
        self.host = AsyncHost(Manifest(models=tuple(specs)), is_strict=True)
        self._serving = serving(self.host)
        self.port = self._runner.run(self._serving.__aenter__())

    def ask(self, *sent: bytes) -> list[Answer]:
        async def bounded() -> list[Answer]:
            async with asyncio.timeout(LIMIT_S):
                answers = await asked(self.port, *sent)
                await until_free(self.host)
                return answers

        return self._runner.run(bounded())

    def close(self) -> None:
        async def end() -> None:
            await self._serving.__aexit__(None, None, None)

        self._runner.run(end())
        self._runner.close()


@contextmanager
def served_model(model: Path) -> Iterator[Served]:
    served = Served(model)
    try:
        yield served
    finally:
        served.close()


@pytest.fixture(scope="module")
def server(tiny_llama: Path) -> Iterator[Served]:
    with served_model(tiny_llama) as served:
        yield served


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_answered_clearly_and_costs_nothing(name: str, server: Served) -> None:
    bad = TABLE[name]
    answer, after = server.ask(bad.sent, post(COMPLETE, json.dumps(GOOD).encode()))
    assert answer.status == bad.status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.error["message"]
    assert bad.says in answer.error["message"]
    assert {key: answer.error[key] for key in bad.told} == bad.told
    assert "Traceback" not in answer.body.decode()
    assert after.status == 200
    assert json.loads(after.body)["usage"]["completion_tokens"] == 2


def test_max_tokens_beyond_the_context_ends_where_the_context_does(server: Served) -> None:
    """The one number that is not refused: OpenAI's clients send the largest there is, and nothing of it is cut."""
    for n in (N_CTX, 2**31 - 1):
        body = {**GOOD, "max_tokens": n, "ignore_eos": True}
        (answer,) = server.ask(post(COMPLETE, json.dumps(body).encode()))
        told = json.loads(answer.body)
        assert told["choices"][0]["finish_reason"] == "length"
        assert told["usage"]["total_tokens"] == N_CTX


@pytest.mark.parametrize(
    "noise",
    [
        b"\0\1\2\3\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a port that speaks none
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-\xc3\xa9: 1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda noise: repr(noise[:60]),
)
def test_what_is_no_http_is_refused_and_the_connection_closed(noise: bytes, server: Served) -> None:
    async def said() -> bytes:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(noise)
            answer = await reader.read()
            writer.close()
            return answer

    answer = server._runner.run(said())
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"Traceback" not in answer
    (after,) = server.ask(post(COMPLETE, json.dumps(GOOD).encode()))
    assert after.status == 200

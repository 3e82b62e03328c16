"""Where requests come in and go out: each gets an id, one log line, and an answer to every error.

The outermost layer, so it also sees what the layers within refuse. Knows no dialect and no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamahost.api.body import ClientGone, pass_over
from llamahost.api.problems import BodyTooLarge, problem_of
from llamahost.api.sse import send_json
from llamahost.api.trace import Trace, open_trace
from llamahost.core.errors import Unavailable
from llamahost.core.observe import asker, request_id

access = logging.getLogger("llamahost.access")
logger = logging.getLogger("llamahost.api")

CLIENT_GONE = 499  # nginx's number for it; never sent, only logged
LINGER_S = 10.0  # for the rest of a body that is refused

_PLAIN_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Gate:
    """Owned by the event loop. Counts the requests inside; closed, it lets no new one in.

    `on_close` ends those that would stay for ever.
    """

    def __init__(self, on_close: Callable[[], None] = lambda: None) -> None:
        self.n_inside = 0
        self._on_close = on_close
        self.is_closed = False
        self._emptied = asyncio.Event()
        self._emptied.set()

    def close(self) -> None:
        self.is_closed = True
        self._on_close()

    def enter(self) -> None:
        self.n_inside += 1
        self._emptied.clear()

    def leave(self) -> None:
        self.n_inside -= 1
        if self.n_inside == 0:
            self._emptied.set()

    async def empty(self, timeout_s: float) -> bool:
        """Wait until nobody is inside; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True


class Border:
    """`open_paths` are answered even when the gate is closed; they and `quiet_paths` are asked often, and logged
    quietly where all is well."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        *,
        open_paths: frozenset[str],
        quiet_paths: frozenset[str] = frozenset(),
        on_response: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._app = app
        self._gate = gate
        self._open_paths = open_paths
        self._quiet_paths = quiet_paths
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id_ = request_id_of(scope)
        id_header = (b"x-request-id", id_.encode())
        trace = open_trace(scope, id_)
        request_id.set(id_)  # each request is served by a task of its own
        asker.set(trace)
        status = 0
        is_whole = False

        async def answer(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], id_header, *trace.headers]
            await send(message)
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        is_probe = scope["path"] in self._open_paths
        if not is_probe:
            self._gate.enter()
        try:
            if self._gate.is_closed and not is_probe:
                raise Unavailable("the server is shutting down", retry_after_s=5.0)
            await self._app(scope, receive, answer)
        except ClientGone:
            status = CLIENT_GONE
        except Exception as error:
            problem = problem_of(error, id_)
            if status:  # too late to tell; uvicorn closes the connection
                logger.error("request %s broke after its response began: %s", id_, problem.message)
                raise
            closing = ((b"connection", b"close"),) if self._gate.is_closed or _waits(scope) else ()
            headers = (*problem.headers, *closing)
            if not isinstance(error, BodyTooLarge) or error.is_read or closing:
                await send_json(answer, problem.body, status=problem.status, headers=headers)
                return
            # Whoever still sends when the connection is closed never sees why: what is left is read, and forgotten.
            await send_json(answer, problem.body, status=problem.status, headers=headers, is_last=False)
            await pass_over(receive, LINGER_S)
            await answer({"type": "http.response.body"})
        finally:
            if not is_probe:
                self._gate.leave()
            if status and not is_whole:
                status = CLIENT_GONE
            self._on_response(status)
            is_quiet = is_probe or (status == 200 and scope["path"] in self._quiet_paths)
            _log(scope, trace, status, is_quiet=is_quiet)


def _waits(scope: Scope) -> bool:
    """Whether the client waits for leave to send its body: without it, nobody knows what comes next on the line."""
    return any(name == b"expect" for name, _ in scope["headers"])


def request_id_of(scope: Scope) -> str:
    """The client's own where it is short and plain, else a new one: it goes into headers and logs."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _PLAIN_ID.fullmatch(value):
            given: bytes = value
            return given.decode("ascii")
    return "req_" + os.urandom(12).hex()


def _log(scope: Scope, trace: Trace, status: int, *, is_quiet: bool) -> None:
    level = logging.DEBUG if is_quiet else logging.INFO
    if not access.isEnabledFor(level):
        return
    fields: dict[str, object] = {"method": scope["method"], "path": scope["path"][:256], "status": status}
    if trace.model:
        fields["model"] = trace.model
        if trace.n_tries > 1:
            fields["replica"], fields["tries"] = trace.replica, trace.n_tries
        fields["n_prompt"] = trace.n_prompt
        fields["n_cached"] = trace.n_cached
        fields["n_generated"] = trace.n_generated
        fields["queue_ms"] = round(trace.queued_s * 1000, 1)
        fields["ttft_ms"] = round(trace.first_s * 1000, 1)
    fields["total_ms"] = round(trace.elapsed_s * 1000, 1)
    if scope.get("client"):
        fields["client"] = scope["client"][0][:64]  # behind a proxy that is believed: whom it names
    fields["request_id"] = trace.request_id
    path = fields["path"] if scope["path"].isprintable() else repr(fields["path"])
    head = f"{fields['method']} {path} {status}"
    tail = " ".join([f"{key}={value}" for key, value in fields.items() if key not in ("method", "path", "status")])
    access.log(level, "%s %s", head, tail, extra={"fields": fields})

"""Ollama's POST /api/pull: a model fetched from the hub, told line by line as JSON. Whoever leaves ends it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import orjson
from starlette.types import Receive, Scope, Send

from llamahost.api.body import Reading, decode_body, read_body
from llamahost.api.cors import refuse_strange_pages
from llamahost.api.openai_answers import Answer
from llamahost.api.openai_types import Name
from llamahost.api.problems import problem_of
from llamahost.api.service import Service, model_named
from llamahost.api.sse import EventStream, send_json, while_connected
from llamahost.core.errors import InvalidRequest, LlamahostError, ModelNotFound, Unavailable
from llamahost.core.threads import in_thread
from llamahost.files.pulls import Pulls
from llamahost.fleet.settings.manifest import ServerSettings

if TYPE_CHECKING:
    from llamahost.files.download import Step

HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class PullBody(msgspec.Struct, kw_only=True):
    """POST /api/pull. `model` is OWNER/NAME[:QUANT|/FILE.gguf], also behind hf.co/; `name` is an older word for it."""

    model: Name | None = None
    name: Name | None = None
    revision: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    stream: bool | None = None
    insecure: bool | None = None


class PullLine(Answer):
    """A line of the answer; the last one says `success`, or `error` in its place."""

    status: str
    digest: str | msgspec.UnsetType = msgspec.UNSET
    total: int | msgspec.UnsetType = msgspec.UNSET
    completed: int | msgspec.UnsetType = msgspec.UNSET


class PullDone(Answer):
    """The whole answer where it is not streamed."""

    status: Literal["success"]


class PullComplaint(Answer):
    """What went wrong, as clients of Ollama read it."""

    error: str


PULL = msgspec.json.Decoder(PullBody)


@dataclass(frozen=True, slots=True)
class PullRoute:
    """One ASGI callable."""

    service: Service
    pulls: Pulls
    settings: ServerSettings
    reading: Reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.stall_s)
        try:
            refuse_strange_pages(scope, self.settings)
            body = await self.reading.run(lambda: decode_body(data, PULL), len(data))
            name = body.model or body.name
            if not name:
                raise InvalidRequest("`model` is required", param="model")
            steps = await self._steps(name, body.revision or "")
            if body.stream is False:
                await while_connected(receive, _last(steps))
                await send_json(send, orjson.dumps({"status": "success"}))
                return
            lines = _Lines()
            stream = EventStream(
                steps, lines, ping_s=self.settings.ping_s, stall_s=self.settings.stall_s, headers=HEADERS, ping=b""
            )
            await stream(receive, send)
        except LlamahostError as error:  # before anything was sent; in the form that clients of Ollama read
            problem = problem_of(error)
            await send_json(
                send, orjson.dumps({"error": problem.message}), status=problem.status, headers=problem.headers
            )

    async def _steps(self, name: str, revision: str) -> AsyncGenerator[Step, None]:
        """Of what is asked for; clients that pull before they ask need no hub for a served model that is here.

        Raises InvalidRequest, ModelNotFound; Unavailable while a load fetches it, and where one fails.
        """
        from llamahost.files.repo import looks_like_repo, parse_reference
        from llamahost.fleet.machine.located import missing, reference_of

        served = self.service.models()
        known = {each: status for status in served for each in (status.name, *status.aliases)}
        found = known.get(name)
        if found is None and not looks_like_repo(name):
            with contextlib.suppress(ModelNotFound):
                found = model_named(served, name)
        if found is None:
            return self.pulls.pull(parse_reference(name, revision=revision))
        if found.state == "pulling":
            raise Unavailable(f"`{name}` is being pulled already: {found.reason}", retry_after_s=10.0)
        spec = found.spec
        if found.state == "ready" or found.replicas or spec is None:
            return _here()
        if why := await in_thread("pull", lambda: missing(spec)):
            if not spec.repo:
                raise ModelNotFound(name, reason=f"`{spec.name}` is served from a file, and {why}")
            return self.pulls.pull(reference_of(spec))
        if found.state == "failed":
            raise Unavailable(f"`{spec.name}` is on this machine, and cannot be loaded: {found.reason}")
        return _here()


async def _here() -> AsyncGenerator[Step, None]:
    from llamahost.files.download import Step  # what pulls is there when somebody pulls

    yield Step("done")


class _Lines:
    """Steps as Ollama says them: a digest's line is repeated as its bytes come."""

    def feed(self, step: Step) -> bytes:
        if step.kind in ("pulling", "linking"):
            short = step.digest.partition(":")[2][:12]
            line = {
                "status": f"pulling {short}",
                "digest": step.digest,
                "total": step.n_total,
                "completed": step.n_done,
            }
        elif step.kind == "verifying":
            line = {"status": "verifying sha256 digest"}
        elif step.kind == "waiting":
            line = {"status": step.told}
        else:
            line = {"status": "pulling manifest" if step.kind == "listing" else "writing manifest"}
        return orjson.dumps(line) + b"\n"

    def end(self) -> bytes:
        return b'{"status":"success"}\n'

    def fail(self, error: Exception) -> bytes:
        return orjson.dumps({"error": problem_of(error).message}) + b"\n"


async def _last(steps: AsyncGenerator[Step, None]) -> None:
    async with aclosing(steps):
        async for _ in steps:
            pass

"""/health, /ready and /metrics: what supervisors, balancers and dashboards ask. Never waits for a step.

/health asks whether the process should live: a supervisor restarts what answers 503. /ready asks whether requests
should come: a balancer sends them elsewhere. For one model from the command line both are the same question, as
llama-server answers it; models of a manifest come and go while the process is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from llamahost.api.service import Service, models_named
from llamahost.api.sse import send_json
from llamahost.core.turn import in_turn
from llamahost.host import Health, ModelStatus
from llamahost.ops.metrics import Metrics, ModelLoad

NO_MODEL = (
    "no model is configured: start with `llamahost serve model.gguf`, "
    "or name models in a file given by `llamahost serve --manifest model_manifest.toml`"
)


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """GET /health: 200 while something can answer, as llama-server says it.

    With a manifest also while something can still come to answer; `degraded` then, with the models that do not.
    """

    service: Service
    from_manifest: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        health = self.service.health()
        trouble = trouble_of(health)
        if not self.from_manifest:
            await _tell(send, "ok", trouble, {})
            return
        is_dead = health.is_draining or health.is_stalled or all(m.state == "failed" for m in health.models)
        lacking = {model.name: _state(model) for model in health.models if not _is_well(model)}
        details: dict[str, object] = {"models": lacking} if lacking else {}
        await _tell(send, "degraded" if lacking else "ok", trouble if is_dead else "", details)


@dataclass(frozen=True, slots=True)
class ReadyProbe:
    """GET /ready and /readiness: 200 while a model can answer, and how each is; `?model=NAME` asks for that one,
    or for those of a route, of which one is enough."""

    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        health = self.service.health()
        trouble = trouble_of(health)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("model")
        if asked is None:
            await _tell(send, "ready", trouble, {"models": {model.name: _state(model) for model in health.models}})
            return
        models = models_named(health.models, asked[-1], self.service.routes()).models
        if not (health.is_draining or health.is_stalled):
            trouble = "" if any(model.can_answer for model in models) else _troubles(models)
        await _tell(send, "ready", trouble, {"models": {model.name: _state(model) for model in models}})


@dataclass(frozen=True, slots=True)
class MetricsProbe:
    """GET /metrics: Prometheus text."""

    service: Service
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write = self.metrics.scrape(map(_load, self.service.models()))
        body = await asyncio.to_thread(in_turn, write)
        headers = [(b"content-type", Metrics.content_type.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def trouble_of(health: Health) -> str:
    """Why nothing can be answered now; empty when something can."""
    if health.is_draining:
        return "the server is shutting down"
    if health.is_stalled:
        return "a step of the decoder does not return"
    if not health.models:
        return NO_MODEL
    if health.is_ready:
        return ""
    return _troubles(health.models)


def _troubles(models: Sequence[ModelStatus]) -> str:
    return "; ".join(f"{model.name}: {_sentence(model)}" for model in models)


def _sentence(model: ModelStatus) -> str:
    if model.state == "failed":
        return model.reason or "failed to load"
    if model.state == "loading":
        return f"loading, {model.progress:.0%}"
    return model.reason or model.state


def _is_well(model: ModelStatus) -> bool:
    """It answers, or nothing is wrong with that it does not: nobody has asked for it."""
    return model.state == "ready" or (model.load != "start" and model.state in ("unloaded", "draining"))


def _state(model: ModelStatus) -> dict[str, object]:
    state: dict[str, object] = {"state": model.state}
    if model.state in ("loading", "pulling"):
        state["progress"] = round(model.progress, 3)
    if model.reason:
        state["reason"] = model.reason
    if model.is_stalled:
        state["is_stalled"] = True
    return state


async def _tell(send: Send, good: str, trouble: str, details: dict[str, object]) -> None:
    if not trouble:
        await send_json(send, orjson.dumps({"status": good, **details}))
        return
    error = {"code": 503, "message": trouble, "type": "unavailable_error"}
    body = orjson.dumps({"status": "unavailable", "error": error, **details})
    await send_json(send, body, status=503, headers=((b"retry-after", b"1"),))


def _load(model: ModelStatus) -> ModelLoad:
    stats = model.stats
    return ModelLoad(
        model=model.name,
        is_ready=model.state == "ready",
        n_slots=model.n_slots,
        n_running=stats.n_running if stats else 0,
        n_waiting=stats.n_waiting if stats else 0,
        n_cells=stats.n_cells if stats else 0,
        n_cells_used=stats.n_cells_used if stats else 0,
        n_chars_asked=model.heard.n_asked,
        n_chars_tokenised=model.heard.n_tokenised,
        thread_s=model.thread_s,
    )

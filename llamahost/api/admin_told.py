"""From how things are to what the admin routes tell of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from llamahost.api.admin_types import FaultInfo, GpusInfo, ModelDetails, ModelInfo, RatesInfo, RequestInfo
from llamahost.api.openai import capabilities
from llamahost.host import ModelStatus
from llamahost.ops.gpu import Fault, Gpus
from llamahost.ops.journal import Entry
from llamahost.ops.tally import Rates, Tally, Total

M = TypeVar("M", ModelInfo, ModelDetails)


def model_told(status: ModelStatus, rates: Rates) -> ModelInfo:
    return _told(ModelInfo, status, rates)


def model_told_whole(status: ModelStatus, rates: Rates) -> ModelDetails:
    card = status.card
    return _told(
        ModelDetails,
        status,
        rates,
        architecture=card.architecture if card else None,
        description=card.description if card else None,
        n_params=card.n_params if card else None,
        size_bytes=card.n_bytes if card else None,
        n_ctx_train=card.n_ctx_train if card else None,
        n_vocab=card.n_vocab if card else None,
        capabilities=capabilities(card) if card else [],
        chat_template_caps=dict(card.template_caps) if card else {},
    )


def _told(kind: type[M], status: ModelStatus, rates: Rates, **more: object) -> M:
    stats = status.stats
    return kind(
        id=status.name,
        aliases=list(status.aliases),
        state=status.state,
        reason=status.reason,
        progress=round(status.progress, 3),
        is_stalled=status.is_stalled,
        n_ctx=status.card.n_ctx if status.card else None,
        n_slots=status.n_slots,
        n_in_flight=status.n_in_flight,
        n_running=stats.n_running if stats else 0,
        n_waiting=stats.n_waiting if stats else 0,
        n_cells=stats.n_cells if stats else 0,
        n_cells_used=stats.n_cells_used if stats else 0,
        rates=RatesInfo(
            tokens_per_s=round(rates.tokens_per_s, 2),
            prompt_tokens_per_s=round(rates.prompt_tokens_per_s, 2),
            requests_per_min=rates.requests_per_min,
        ),
        last_used=rates.last_used,
        **more,  # type: ignore[arg-type]  # those of the longer one
    )


def request_told(entry: Entry) -> RequestInfo:
    record = entry.record
    return RequestInfo(
        id=record.id,
        model=record.model,
        replica=record.replica,
        kind=record.kind,
        status=record.outcome,
        error=record.error,
        n_tries=record.n_tries,
        n_prompt=record.n_prompt,
        n_cached=record.n_cached,
        n_generated=record.n_generated,
        ended_at=round(entry.ended_at, 3),
        queued_s=round(record.queued_s, 6),
        first_s=round(record.first_s, 6),
        generation_s=round(record.generation_s, 6),
        total_s=round(record.total_s, 6),
    )


def gpus_told(gpus: Gpus) -> GpusInfo:
    return msgspec.convert(gpus, GpusInfo, from_attributes=True)


def fault_told(fault: Fault) -> FaultInfo:
    return msgspec.convert(fault, FaultInfo, from_attributes=True)


def count(tally: Tally, statuses: tuple[ModelStatus, ...]) -> None:
    """Let the tally see how many tokens there are by now."""
    tally.count((status.name for status in statuses), _totals(statuses))


def _totals(statuses: tuple[ModelStatus, ...]) -> Iterator[Total]:
    for status in statuses:
        if status.stats is not None:
            yield Total(status.name, status.name, status.stats.n_tokens_in, status.stats.n_tokens_out)

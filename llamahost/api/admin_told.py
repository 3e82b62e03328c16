"""From how things are to what the admin routes tell of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from llamahost.api.admin_types import (
    FaultInfo,
    GpusInfo,
    LoadInfo,
    MemoryInfo,
    ModelDetails,
    ModelInfo,
    RatesInfo,
    ReplicaInfo,
    RequestInfo,
)
from llamahost.api.openai import capabilities
from llamahost.core.observe import LoadProgress
from llamahost.fleet.machine.footprint import Footprint
from llamahost.host import ModelStatus, ReplicaStatus
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
    replicas = [replica_told(each) for each in status.replicas]
    return kind(
        id=status.name,
        aliases=list(status.aliases),
        task=status.task,
        load=status.load,
        state=status.state,
        reason=status.reason,
        progress=round(status.progress, 3),
        is_stalled=status.is_stalled,
        devices=sorted({device for each in replicas for device in each.devices}),
        memory_bytes=sum((each.measured or each.estimated).total_bytes for each in replicas),
        n_ctx=status.card.n_ctx if status.card else None,
        n_slots=status.n_slots,
        n_in_flight=status.n_in_flight,
        n_pending=status.n_pending,
        n_running=sum(each.n_running for each in replicas),
        n_waiting=sum(each.n_waiting for each in replicas),
        n_cells=sum(each.n_cells for each in replicas),
        n_cells_used=sum(each.n_cells_used for each in replicas),
        rates=RatesInfo(
            tokens_per_s=round(rates.tokens_per_s, 2),
            prompt_tokens_per_s=round(rates.prompt_tokens_per_s, 2),
            requests_per_min=rates.requests_per_min,
        ),
        last_used=rates.last_used,
        replicas=replicas,
        **more,  # type: ignore[arg-type]  # those of the longer one
    )


def replica_told(status: ReplicaStatus) -> ReplicaInfo:
    stats = status.stats
    return ReplicaInfo(
        id=status.id,
        state=status.state,
        reason=status.reason,
        progress=round(status.progress, 3),
        is_stalled=status.is_stalled,
        devices=list(status.devices),
        note=status.note,
        estimated=memory_told(status.estimated),
        measured=memory_told(status.measured) if status.measured else None,
        n_slots=status.n_slots,
        n_in_flight=status.n_in_flight,
        n_running=stats.n_running if stats else 0,
        n_waiting=status.n_waiting,
        n_cells=stats.n_cells if stats else 0,
        n_cells_used=stats.n_cells_used if stats else 0,
        last_used=status.last_used or None,
    )


def memory_told(footprint: Footprint) -> MemoryInfo:
    return msgspec.convert(footprint, MemoryInfo, from_attributes=True)


def request_told(entry: Entry) -> RequestInfo:
    record = entry.record
    return RequestInfo(
        id=record.id,
        route=record.route,
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


def load_told(progress: LoadProgress) -> LoadInfo:
    return msgspec.convert(progress, LoadInfo, from_attributes=True)


def fault_told(fault: Fault) -> FaultInfo:
    return msgspec.convert(fault, FaultInfo, from_attributes=True)


def count(tally: Tally, statuses: tuple[ModelStatus, ...]) -> None:
    """Let the tally see how many tokens there are by now."""
    tally.count((status.name for status in statuses), _totals(statuses))


def _totals(statuses: tuple[ModelStatus, ...]) -> Iterator[Total]:
    for status in statuses:
        for replica in status.replicas:
            if replica.stats is not None:
                yield Total(status.name, replica.id, replica.stats.n_tokens_in, replica.stats.n_tokens_out)

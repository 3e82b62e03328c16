"""Say why a model does not fit: the sum, who holds the rest, and what would fit. Pure; decides nothing."""

from __future__ import annotations

from llamahost.core.sizes import bytes_told
from llamahost.fleet.machine.devices import gpus_of
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.memory.memory import Memory, may_go
from llamahost.fleet.memory.placement import Bytes, advice, least
from llamahost.fleet.memory.residents import MODELS, Model


def why_not(model: Model, memory: Memory, free: Bytes) -> str:
    """`free` is what there is once everything has left that may be asked to."""
    name, spec, facts = model.spec.name, memory.spec_of(model), model.facts or FileFacts()
    devices, room = memory.usable(), memory.room
    smallest = least(spec, facts, devices, room)
    if smallest is None:
        wanted = "any" if spec.devices == "auto" else ", ".join(spec.devices)
        there = ", ".join(each.id for each in devices) or "none"
        if len(spec_shares := spec.tensor_split) > (n_gpus := len(gpus_of(devices))) > 1:
            return f"`{name}` has a tensor_split of {len(spec_shares)} shares, and there are {n_gpus} GPUs"
        lost = "".join(f"; {device} is out of use: {reason}" for device, reason in memory.quarantined.items())
        return f"`{name}` has no device: it may go on {wanted}, there are {there}{lost}"
    parts = []
    for device, n_bytes in smallest.bytes.items():
        told = f"on {device} that is {bytes_told(n_bytes)} of {bytes_told(room.get(device, 0))}"
        others = [each for each in memory.models.values() if each is not model]
        stay = [each for each in others if not (model.may_evict and may_go(each, model))]
        holders = [text for each in stay if (text := _held(each, device))]
        parts.append(told + (f", where {', '.join(holders)}" if holders else ""))
    if free[MODELS] < 1 and not model.replicas:
        parts.append(f"{room[MODELS]} models may be loaded at once")
    would = advice(spec, facts, devices, free, room)
    told = f"`{name}` does not fit: it takes at least {smallest.footprint.told()}; {'; '.join(parts)}"
    return told + (f"; {would}" if would else "")


def _held(model: Model, device: str) -> str:
    n_bytes = sum(each.bytes.get(device, 0) for each in model.replicas)
    if not n_bytes:
        return ""
    return f"`{model.spec.name}` has {bytes_told(n_bytes)}" + (" (pinned)" if model.spec.pinned else "")

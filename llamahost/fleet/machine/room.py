"""How much of each device models may have. Pure: settings, what is free, what models already take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamahost.fleet.machine.devices import Device
from llamahost.fleet.settings.manifest import ServerSettings


def room_of(
    devices: Sequence[Device],
    free: Mapping[str, int],
    settings: ServerSettings,
    *,
    taken: Mapping[str, int] | None = None,
    first: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """A fraction of all, less what is reserved, and no more than is there beside what others use and nobody counts.

    `taken` is what models have of it by now, those left out that only begin to load: what these have taken already is
    then not seen, and nothing is granted twice. `first` is what was free before any model came; on a CPU there is
    never more, since the system calls free what it may take back of a file that is mapped.
    """
    room = {}
    for device in devices:
        share = int(device.total_bytes * _of(settings.memory_fraction, device, 1.0))
        if device.id in free:
            share = min(share, free[device.id] + (taken or {}).get(device.id, 0) - device.unseen_bytes)
        if device.kind == "cpu" and first is not None and device.id in first:
            share = min(share, first[device.id])
        room[device.id] = max(0, share - int(_of(settings.reserved_bytes, device, 0)))
    return room


def strangers(devices: Sequence[Device], settings: ServerSettings) -> str:
    """Which names in the tables of the settings mean no device, so that what is meant is not bounded; else empty."""
    tables = {"memory_fraction": settings.memory_fraction, "reserved_bytes": settings.reserved_bytes}
    strange = [
        f"{key} names {name!r}"
        for key, table in tables.items()
        for name in (table if isinstance(table, Mapping) else ())
        if not any(each.is_called(name) for each in devices)
    ]
    there = ", ".join(each.id for each in devices)
    return f"{', '.join(strange)}, and there are {there}: of what is meant nothing is held back" if strange else ""


def _of(setting: float | Mapping[str, float], device: Device, default: float) -> float:
    """For all devices, or for those that a table names."""
    if not isinstance(setting, Mapping):
        return setting
    return next((value for name, value in setting.items() if device.is_called(name)), default)

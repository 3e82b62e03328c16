"""What there is of each device, and what would be: the arithmetic of residency. Pure; asks nobody to leave.

Owned by residency. How many models may be in memory is counted like the bytes of a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from llamahost.fleet.machine.devices import Device, gpus_of
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.memory.placement import Bytes, Effort, Placement, place
from llamahost.fleet.memory.residents import MODELS, Model, Replica
from llamahost.fleet.settings.manifest import ModelSpec


class Memory:
    """Devices, and what models may have of them. `models` is residency's own table."""

    def __init__(self, models: Mapping[str, Model], *, max_loaded: int | None, may_page: bool) -> None:
        self.models = models
        self.devices: tuple[Device, ...] = ()
        self.room: dict[str, int] = {}
        self.quarantined: dict[str, str] = {}
        self.falls_back = False  # whether the CPU stands for GPUs whose driver fails
        self.may_page = may_page
        self.allow(max_loaded)

    def allow(self, max_loaded: int | None) -> None:
        """So many models at once."""
        self.room[MODELS] = max_loaded or 2**31

    def usable(self) -> list[Device]:
        return [each for each in self.devices if each.id not in self.quarantined]

    def taken(self, *, in_truth: bool = False) -> dict[str, int]:
        """What replicas hold of each device, those on their way in and out among them.

        `in_truth`: without those on their way in, which may have taken nothing yet.
        """
        taken = dict.fromkeys(self.room, 0)
        for model in self.models.values():
            taken[MODELS] += bool(model.replicas)
            for replica in model.replicas:
                if not in_truth or replica.state != "loading":
                    add(taken, replica.bytes)
        return taken

    def free(self) -> dict[str, int]:
        """What nobody has, now."""
        taken = self.taken()
        return {device: max(0, room - taken[device]) for device, room in self.room.items()}

    def coming(self, free: Mapping[str, int]) -> dict[str, int]:
        """What there will be when all have left that are on their way out."""
        coming = dict(free)
        for model in self.models.values():
            leaving = [each for each in model.replicas if each.is_leaving]
            for replica in leaving:
                add(coming, replica.bytes)
            if leaving and len(leaving) == len(model.replicas):
                coming[MODELS] += 1
        return coming

    def conceivable(self, model: Model) -> dict[str, int]:
        """What there would be if all had left that may ever be asked to."""
        left = dict(self.room)
        for other in self.models.values():
            if other is not model and not may_go(other, model):
                for replica in other.live:
                    take(left, replica.bytes, is_first=replica is other.live[0])
        return left

    def fitting(
        self,
        model: Model,
        free: Bytes,
        effort: Effort,
        *,
        avoid: Collection[str] = (),
        devices: Sequence[Device] | None = None,
    ) -> Placement | None:
        """Where it would go if there were so much."""
        if not model.replicas and free[MODELS] < 1:
            return None
        return place(
            self.spec_of(model),
            model.facts or FileFacts(),
            self.usable() if devices is None else devices,
            free,
            self.room,
            avoid=avoid,
            effort=effort,
            n_skipped=model.n_skipped,
            measured=model.measured,
            may_page=self.may_page,
        )

    def spec_of(self, model: Model) -> ModelSpec:
        """As it is placed: what names GPUs that are not there goes on the CPU, where that stands for them."""
        spec = model.spec
        if not self.falls_back or spec.devices == "auto":
            return spec
        is_there = any(device.is_called(name) for device in self.devices for name in spec.devices)
        return spec if is_there else replace(spec, devices="auto", tensor_split=(), main_device=0)

    def n_wanted(self, spec: ModelSpec) -> int:
        """Replicas of a model."""
        if spec.replicas != "per-gpu":
            return spec.replicas
        return max(1, len(gpus_of(self.usable())))


def may_go(other: Model, model: Model) -> bool:
    """Whether `other` may be asked to make room for `model`."""
    return not other.spec.pinned and other.spec.memory_priority <= model.spec.memory_priority


def add(total: dict[str, int], n_bytes: Bytes) -> None:
    for device, n in n_bytes.items():
        total[device] = total.get(device, 0) + n


def take(total: dict[str, int], n_bytes: Bytes, is_first: bool) -> None:
    for device, n in n_bytes.items():
        total[device] = total.get(device, 0) - n
    total[MODELS] -= is_first


def without(coming: Mapping[str, int], chosen: Sequence[tuple[Model, Replica]]) -> dict[str, int]:
    """What there would be without these."""
    total = dict(coming)
    gone = {replica.id for _, replica in chosen}
    for _, replica in chosen:
        add(total, replica.bytes)
    for model in {id(model): model for model, _ in chosen}.values():
        stays = [each for each in model.replicas if each.id not in gone and not each.is_leaving]
        leaving = [each for each in model.replicas if each.id in gone]
        total[MODELS] += bool(leaving) and not stays
    return total

"""Choose devices and a shape for one replica. Pure: sees free bytes; knows no lease, no clock, no other model."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from llamahost.core.sizes import bytes_told
from llamahost.fleet.machine.devices import Device, gpus_of
from llamahost.fleet.machine.fit import LEAST_N_CTX, Facts, Shape, shapes
from llamahost.fleet.machine.footprint import (
    FileFacts,
    Footprint,
    counted,
    divided,
    footprint,
    on_device,
    parts_there,
    pipelined_bytes,
    shape_of_inputs,
)
from llamahost.fleet.machine.scratch import of_matrix, of_scores
from llamahost.fleet.settings.manifest import ModelSpec

Bytes = Mapping[str, int]
"""By device id."""

Effort = Literal["asked", "smaller", "partly"]
EFFORTS: tuple[Effort, ...] = ("asked", "smaller", "partly")
"""What is given up for a place: cells alone; also context and slots; also, where that is left open, layers or experts
that then stay with the CPU."""

LEAST_AUTO_N_CTX = 4096
"""A context is not made shorter than that to have every layer on the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a replica goes and what it takes there. The first device's worker owns it; the host may hold a part too."""

    devices: tuple[str, ...]
    shares: tuple[float, ...] = ()  # of several devices, for C
    n_gpu_layers: int = -1
    n_cpu_moe: int = 0
    note: str = ""  # what of it stays with the CPU though it is for a GPU
    shape: Shape | None = None  # None: nothing is known of the file, the loader chooses
    footprint: Footprint = field(default_factory=Footprint)
    bytes: Bytes = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether one device has all that is for a device, so that what it takes there is what it takes."""
        return len(self.devices) == 1 and not self.note

    def spec(self, spec: ModelSpec) -> ModelSpec:
        """What the loader is told: the model as it was decided here."""
        decided = replace(
            spec,
            devices=self.devices,
            tensor_split=self.shares,
            n_gpu_layers=self.n_gpu_layers,
            n_cpu_moe=self.n_cpu_moe,
            main_device=spec.main_device if 1 < len(self.devices) > spec.main_device else 0,
        )
        if len(self.devices) == 1:  # rows and tensors of one device are slower, or not there at all
            decided = replace(decided, split_mode="layer")
        if self.shape is None:
            return decided
        shape = self.shape
        return replace(
            decided,
            n_ctx=shape.n_ctx,
            n_slots=shape.n_slots,
            kv_layout="unified" if shape.is_unified else "split",
            n_cells=shape.n_cells if shape.is_unified else None,
        )


@dataclass(frozen=True, slots=True)
class Site:
    """Devices that one replica could have together, and what there is of them."""

    devices: tuple[Device, ...]
    shares: tuple[float, ...] = ()


def place(
    spec: ModelSpec,
    facts: FileFacts,
    devices: Sequence[Device],
    free: Bytes,
    room: Bytes,
    *,
    avoid: Collection[str] = (),
    effort: Effort = "asked",
    n_skipped: int = 0,
    may_page: bool = False,
    measured: Mapping[Shape, Footprint] | None = None,
) -> Placement | None:
    """The best placement that fits into `free`, None where none does. `room` is what models may take when alone.

    `n_skipped` of the shapes were found not to fit in truth; those in `measured` are known, not estimated. Devices in
    `avoid` come last. With `may_page` the weights may be larger than the memory.
    """
    sites = list(_sites(spec, devices, free, avoid))
    if not facts.is_known:
        return next((_unknown(spec, site) for site in sites), None)
    for several in (False, True):  # one device that holds it whole is faster than two that share it
        group = [site for site in sites if (len(site.devices) > 1) == several]
        for k, shape in enumerate(_shapes_at(spec, facts, group, room, effort)):
            if k < n_skipped:
                continue
            for site in group:
                found = _placed(spec, facts, shape, site, measured)
                if _fits(found, free):
                    return found
    if effort == "partly" and _may_be_partly(spec, sites):
        for k, shape in enumerate(_shapes_at(spec, facts, sites, room, effort, from_n_ctx=LEAST_AUTO_N_CTX)):
            parts = [_partly(spec, facts, shape, site, free, measured) for site in sites] if k >= n_skipped else []
            if found_parts := [each for each in parts if each is not None]:
                return max(found_parts, key=lambda each: sum(each.bytes[device] for device in each.devices))
    return _from_the_file(spec, facts, sites, free, room) if effort == "partly" and may_page else None


def least(spec: ModelSpec, facts: FileFacts, devices: Sequence[Device], room: Bytes) -> Placement | None:
    """What it would take at least of the device with the most room, fitting or not: for the sum of a refusal."""
    sites = list(_sites(spec, devices, room, ()))
    if not sites or not facts.is_known:
        return None
    *_, shape = _shapes_at(spec, facts, sites[:1], room, "partly")
    if _may_be_partly(spec, sites):
        return _partly(spec, facts, shape, sites[0], room, is_forced=True)
    return _placed(spec, facts, shape, sites[0])


def advice(spec: ModelSpec, facts: FileFacts, devices: Sequence[Device], free: Bytes, room: Bytes) -> str:
    """What would fit: fewer layers on the GPU, a smaller context, fewer slots; empty where nothing of it does."""
    if any(device.kind == "gpu" for device in devices) and spec.n_gpu_layers != 0:
        found = place(replace(spec, n_gpu_layers="auto"), facts, devices, free, room, effort="partly")
        if found is not None:
            on_cpu = [f"n_cpu_moe = {found.n_cpu_moe}"] if found.n_cpu_moe != spec.n_cpu_moe else []
            layers = [f"n_gpu_layers = {found.n_gpu_layers}"] if found.n_gpu_layers != spec.n_gpu_layers else []
            if layers or on_cpu:
                return " with ".join([*layers, *on_cpu]) + " would fit"
        elif place(replace(spec, n_gpu_layers=0), facts, devices, free, room, effort="smaller"):
            return "n_gpu_layers = 0 would fit"
    for smaller in _smaller(spec):
        if place(smaller, facts, devices, free, room, effort="partly"):
            told = {key: getattr(smaller, key) for key in ("n_ctx", "n_cells", "n_slots")}
            changed = [f"{key} = {n}" for key, n in told.items() if n != getattr(spec, key)]
            return " with ".join(changed or [f"n_slots = {smaller.n_slots}"]) + " would fit"
    return ""


def _smaller(spec: ModelSpec) -> Iterator[ModelSpec]:
    """With fewer cells, where it counts them, then fewer slots, then a smaller context; each half of the one before."""
    n_ctx, n_slots, n_cells = spec.n_ctx or 0, spec.n_slots or 1, spec.n_cells or 0
    while True:
        if n_cells // 2 >= max(n_ctx, LEAST_N_CTX):
            n_cells //= 2
        elif n_slots > 1:
            n_slots //= 2
        elif n_ctx // 2 >= LEAST_N_CTX:
            n_ctx //= 2
            n_cells = min(n_cells, n_ctx)
        else:
            return
        yield replace(spec, n_ctx=n_ctx or None, n_slots=n_slots, n_cells=n_cells or None)


def wants_gpu(spec: ModelSpec, *, is_said: bool) -> bool:
    """Whether it is to be on a GPU: by what was said of it, or, unless `is_said`, because nothing says otherwise."""
    devices = () if spec.devices == "auto" else spec.devices
    if spec.n_gpu_layers == 0 or (devices and all(name.lower().startswith("cpu") for name in devices)):
        return False
    is_some = spec.n_gpu_layers != "auto" and spec.n_gpu_layers > 0
    return not is_said or is_some or bool(devices) or spec.replicas == "per-gpu"


def _sites(spec: ModelSpec, devices: Sequence[Device], free: Bytes, avoid: Collection[str]) -> Iterator[Site]:
    """Each single device, those with the most free memory first, then all GPUs together."""
    allowed = _allowed(spec, devices)
    if spec.split_mode == "none" and (spec.devices != "auto" or spec.main_device) and allowed:
        allowed = allowed[spec.main_device : spec.main_device + 1] or allowed[:1]
    ranked = sorted(allowed, key=lambda each: (each.id in avoid, -free.get(each.id, 0)))  # stable: as listed
    wants_all = bool(spec.tensor_split) and len(allowed) > 1
    if not wants_all:
        yield from (Site((each,)) for each in ranked)
    gpus = tuple(each for each in allowed if each.kind == "gpu")
    if spec.tensor_split:  # those without a share have none
        gpus = gpus[: len(spec.tensor_split)]
        if wants_all and len(gpus) == 1:
            yield Site(gpus)
    if len(gpus) > 1 and spec.split_mode != "none":
        shares = spec.tensor_split or tuple(float(max(0, free.get(each.id, 0))) for each in gpus)
        if len(shares) == len(gpus) and sum(shares) > 0:
            yield Site(gpus, tuple(share / sum(shares) for share in shares))


def _allowed(spec: ModelSpec, devices: Sequence[Device]) -> list[Device]:
    if spec.devices != "auto":
        found = (next((each for each in devices if each.is_called(name)), None) for name in spec.devices)
        return list({each.id: each for each in found if each is not None}.values())
    gpus = gpus_of(devices)
    return gpus if gpus and spec.n_gpu_layers != 0 else [each for each in devices if each.kind == "cpu"]


def _shapes_at(
    spec: ModelSpec, facts: FileFacts, sites: Sequence[Site], room: Bytes, effort: Effort, *, from_n_ctx: int = 0
) -> Iterator[Shape]:
    """What to try, best first, by the largest of the sites when nothing else is there.

    `from_n_ctx`: without those of longer contexts, and without more cells than such a one needs.
    """
    if not sites:
        return
    if not facts.generates:
        shape = shape_of_inputs(spec, facts)
        yield shape
        while effort != "asked" and spec.n_ctx is None and shape.n_ctx // 2 >= LEAST_N_CTX:
            shape = replace(shape, n_ctx=shape.n_ctx // 2, n_cells=shape.n_ctx // 2)
            yield shape
        return
    available = max(sum(room.get(each.id, 0) for each in site.devices) for site in sites)
    known = Facts(n_ctx_train=facts.n_ctx_train, cell_bytes=facts.cell_bytes, weight_bytes=facts.weights_bytes)
    least_n_ctx = LEAST_AUTO_N_CTX if effort == "smaller" and _may_be_partly(spec, sites) else 0
    found = list(shapes(spec, known, available))
    first = found[0]
    least_n_ctx = min(least_n_ctx, first.n_ctx)
    if from_n_ctx:
        comfortable = [each for each in found if each.n_ctx >= min(from_n_ctx, first.n_ctx)]
        found = found[len(comfortable) - 1 :]
    for shape in found:
        if effort == "asked" and (shape.n_ctx, shape.n_slots) != (first.n_ctx, first.n_slots):
            return
        if shape.n_ctx >= least_n_ctx:
            yield shape


def _placed(
    spec: ModelSpec,
    facts: FileFacts,
    shape: Shape,
    site: Site,
    measured: Mapping[Shape, Footprint] | None = None,
    *,
    n_gpu_layers: int | None = None,
    n_cpu_moe: int | None = None,
) -> Placement:
    whole = (measured or {}).get(shape) or footprint(spec, facts, shape)
    whole = replace(whole, weights_bytes=whole.weights_bytes + facts.adapter_bytes)
    n_gpu_layers = _layers(spec, site) if n_gpu_layers is None else n_gpu_layers
    n_cpu_moe = spec.n_cpu_moe if n_cpu_moe is None else n_cpu_moe
    shares = site.shares
    if site.devices[0].kind == "cpu":
        taken = {site.devices[0].id: whole.total_bytes}
    else:
        there, here = on_device(facts, whole, n_gpu_layers, n_cpu_moe)
        each_compute = there.compute_bytes
        if shares and spec.split_mode == "layer":
            parts = parts_there(facts, whole, n_gpu_layers, n_cpu_moe)
            counts = counted(len(parts), shares) if spec.tensor_split else divided(parts, shares)
            ends = [*itertools.accumulate(counts, initial=0)]
            held = [sum(part.total_bytes for part in parts[a:b]) for a, b in itertools.pairwise(ends)]
            if not spec.tensor_split and parts:
                shares = tuple(map(float, counts))  # by which C comes to the same counts
            if len(parts) > len(facts.layers) and not n_cpu_moe and not spec.override_tensor:
                each_compute += pipelined_bytes(spec, facts, shape)
        else:
            held = [int((there.weights_bytes + there.kv_bytes) * share) for share in shares or (1.0,)]
        taken = {each.id: n + each_compute for each, n in zip(site.devices, held, strict=True)}
        for each in site.devices if n_gpu_layers else ():
            taken[each.id] += _scratch(spec, facts, shape, each)
        if here.total_bytes > 0:
            taken["cpu"] = here.total_bytes
    return Placement(
        devices=_ids(site),
        shares=shares,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
        shape=shape,
        footprint=whole,
        bytes=taken,
    )


def _scratch(spec: ModelSpec, facts: FileFacts, shape: Shape, device: Device) -> int:
    """Of its pools, which take one after the other."""
    n_kv = shape.n_cells if shape.is_unified else shape.n_ctx
    scores = of_scores(n_kv, facts.n_head, min(spec.n_ubatch, spec.n_batch)) if spec.flash_attention == "off" else 0
    return max(scores, of_matrix(facts.n_vocab * facts.n_embd, facts.output_kind, device.compute))


def _partly(
    spec: ModelSpec,
    facts: FileFacts,
    shape: Shape,
    site: Site,
    free: Bytes,
    measured: Mapping[Shape, Footprint] | None = None,
    *,
    is_forced: bool = False,
) -> Placement | None:
    """As much of it on the GPUs as there is room for: a few experts leave before whole layers do, the first layers
    first. At least the output stays: what is to be on the CPU alone says so. `is_forced`: whatever the host has."""
    if site.devices[0].kind != "gpu":
        return None
    n_layer = len(facts.layers)
    n_moe = n_layer if any(facts.experts) else spec.n_cpu_moe
    lighter = [(-1, k) for k in range(spec.n_cpu_moe, n_moe + 1)] + [(n, n_moe) for n in range(n_layer, 0, -1)]

    def at(k: int) -> Placement:
        n_gpu_layers, n_cpu_moe = lighter[k]
        return _placed(spec, facts, shape, site, measured, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe)

    def is_there(k: int) -> bool:
        found = at(k)
        return all(found.bytes[device] <= free.get(device, 0) for device in found.devices)

    k = bisect.bisect_left(range(len(lighter)), True, key=is_there)
    found = at(min(k, len(lighter) - 1))
    if not is_forced and (k == len(lighter) or not _fits(found, free)):
        return None
    where = ", ".join(found.devices)
    if found.n_gpu_layers < 0:
        told = f"the experts of {found.n_cpu_moe} of {n_layer} layers are on the CPU"
    else:
        told = f"{found.n_gpu_layers - 1} of {n_layer} layers are on {where}, the others on the CPU"
    whole = sum(at(0).bytes[device] for device in found.devices)
    there = sum(free.get(device, 0) for device in found.devices)
    return replace(
        found, note=f"{told}: all of it takes {bytes_told(whole)} of {where}, where {bytes_told(there)} are free"
    )


def _may_be_partly(spec: ModelSpec, sites: Sequence[Site]) -> bool:
    return spec.n_gpu_layers == "auto" and any(site.devices[0].kind == "gpu" for site in sites)


def _fits(found: Placement, free: Bytes) -> bool:
    return all(n <= free.get(device, 0) for device, n in found.bytes.items())


def _unknown(spec: ModelSpec, site: Site) -> Placement:
    return Placement(devices=_ids(site), n_gpu_layers=_layers(spec, site), n_cpu_moe=spec.n_cpu_moe)


def _from_the_file(
    spec: ModelSpec, facts: FileFacts, sites: Sequence[Site], free: Bytes, room: Bytes
) -> Placement | None:
    """Weights larger than the memory, on a CPU that nothing else is on: the system reads them from the file anew, as
    often as it must. Slow, and asked for by whoever names such a file.
    """
    for site in sites if spec.mmap and not spec.mlock else ():
        (device, *others) = site.devices
        if others or device.kind != "cpu" or free.get(device.id, 0) < room.get(device.id, 0):
            continue
        *_, shape = _shapes_at(spec, facts, [site], room, "partly")
        found = _placed(spec, facts, shape, site)
        if found.footprint.total_bytes - found.footprint.weights_bytes <= room.get(device.id, 0) // 2:
            return replace(found, bytes={device.id: room.get(device.id, 0)})
    return None


def _layers(spec: ModelSpec, site: Site) -> int:
    if site.devices[0].kind == "cpu":
        return 0
    return -1 if spec.n_gpu_layers == "auto" else spec.n_gpu_layers


def _ids(site: Site) -> tuple[str, ...]:
    return tuple(each.id for each in site.devices)

"""Laws of where a replica goes and what it takes there: on GPUs that are only numbers here."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamahost.fleet.machine.devices import Device
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import (
    FileFacts,
    Footprint,
    counted,
    divided,
    footprint,
    on_device,
    pipelined_bytes,
)
from llamahost.fleet.machine.room import room_of
from llamahost.fleet.memory.placement import Placement, advice, place
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings

GB = 10**9
SHAPE = Shape(n_ctx=1024, n_slots=1, n_cells=1024, is_unified=False)
FACTS = FileFacts(
    layers=(GB,) * 4,
    experts=(GB // 2,) * 4,
    matrix_bytes=(GB // 4,) * 4,
    expert_bytes=(GB // 3,) * 4,
    input_bytes=GB,
    rest_bytes=GB,
    cell_bytes=1000.0,
)
GPUS = (Device(id="CUDA0", kind="gpu"), Device(id="CUDA1", kind="gpu"), Device(id="cpu"))


def spec(**options: Any) -> ModelSpec:
    return ModelSpec(name="a", path=Path("a"), **{"n_ctx": 1024, "n_slots": 1, "kv_layout": "split", **options})


@pytest.mark.parametrize(
    ("n_gpu_layers", "options", "is_tied", "there", "here"),
    [
        (-1, {}, False, 5.0, 0.0),  # all layers and the output; the table of tokens is the file's
        (-1, {}, True, 6.0, 0.0),  # of which a GPU has a copy where it is the output too
        (5, {}, False, 5.0, 0.0),
        (3, {}, False, 3.0, 2.0),  # the output counts as the last layer
        (3, {}, True, 4.0, 2.0),  # of which copy the host has no less
        (1, {}, False, 1.0, 4.0),
        (0, {}, False, 0.0, 5.0),
        (-1, {"n_cpu_moe": 2}, False, 4.0, 1.0),
    ],
)
def test_layers_go_to_the_gpu_from_the_last_on(
    n_gpu_layers: int, options: dict[str, Any], is_tied: bool, there: float, here: float
) -> None:
    facts = FileFacts(**{name: getattr(FACTS, name) for name in FACTS.__slots__} | {"is_tied": is_tied})
    one = spec(**options)
    gpu, host = on_device(facts, footprint(one, facts, SHAPE), n_gpu_layers, one.n_cpu_moe)
    assert (gpu.weights_bytes / GB, host.weights_bytes / GB) == (there, here)
    whole = footprint(one, facts, SHAPE)
    assert gpu.kv_bytes + host.kv_bytes == whole.kv_bytes


@pytest.mark.parametrize(
    ("n_gpu_layers", "n_cpu_moe", "lent"),
    [(-1, 0, 0), (-1, 2, GB // 3), (3, 0, GB // 3), (3, 4, GB // 3), (0, 0, 0)],
)
def test_the_largest_matrix_that_stays_with_the_host_is_lent_to_the_gpu(
    n_gpu_layers: int, n_cpu_moe: int, lent: int
) -> None:
    assert on_device(FACTS, Footprint(), n_gpu_layers, n_cpu_moe)[0].compute_bytes == lent
    dense = replace(FACTS, experts=(), expert_bytes=())
    assert on_device(dense, Footprint(), n_gpu_layers, 0)[0].compute_bytes == (GB // 4 if n_gpu_layers == 3 else 0)


def test_one_device_that_holds_it_whole_comes_before_two_that_share_it() -> None:
    room = {"CUDA0": 6 * GB, "CUDA1": 8 * GB, "cpu": 64 * GB}
    found = place(spec(), FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.shares) == (("CUDA1",), ())
    smaller = {"CUDA0": 3 * GB, "CUDA1": 4 * GB, "cpu": 64 * GB}
    found = place(spec(), FACTS, GPUS, smaller, smaller)
    assert found is not None
    assert found.devices == ("CUDA0", "CUDA1")
    assert found.shares == (2.0, 3.0), "two layers, and two with the output: three would not have had room"
    assert all(n <= smaller[device] for device, n in found.bytes.items())
    assert place(spec(split_mode="none"), FACTS, GPUS, smaller, smaller) is None


@pytest.mark.parametrize("n_parts", [1, 5, 33, 49, 81, 127])
def test_counts_of_layers_as_shares_are_what_llama_cpp_counts_again(n_parts: int) -> None:
    dice = random.Random(n_parts)
    for _ in range(50):
        sizes = [Footprint(weights_bytes=dice.randrange(1, 1000)) for _ in range(n_parts)]
        counts = divided(sizes, [dice.random() for _ in range(dice.randrange(1, 9))])
        assert sum(counts) == n_parts
        assert as_in_c(n_parts, counts) == counts
        assert counted(n_parts, counts) == counts


def as_in_c(n_parts: int, shares: Sequence[float]) -> tuple[int, ...]:
    """load_tensors: sums in float, and the first split that is above a layer's place."""
    sums = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
    places = np.arange(n_parts, dtype=np.float32) / np.float32(n_parts)
    found = np.searchsorted(sums / sums[-1], places, side="right")
    return tuple(np.bincount(found, minlength=len(shares)).tolist())


def test_what_pools_come_to_take_is_kept_free_on_the_card_alone() -> None:
    large = replace(FACTS, n_vocab=100_000, n_embd=1000, n_head=32, output_kind=12)
    room = {"CUDA0": 20 * GB, "cpu": 64 * GB}
    taken = {}
    for compute, attention in (((8, 6), "auto"), ((7, 0), "auto"), ((8, 6), "off"), ((7, 0), "off")):
        devices = (replace(GPUS[0], compute=compute), GPUS[2])
        found = place(spec(flash_attention=attention), large, devices, room, room)
        assert found is not None
        taken[compute, attention] = found.bytes["CUDA0"] - found.footprint.compute_bytes - found.footprint.kv_bytes
    plain, scores = taken[(8, 6), "auto"], 2 * 512 * 1024 * 32
    assert [n - plain for n in taken.values()] == [0, 2 * 10**8, scores, 2 * 10**8], "one after the other"


def test_each_of_several_devices_is_counted_by_the_layers_that_it_gets() -> None:
    large_output = replace(FACTS, rest_bytes=3 * GB, n_embd=1000)
    room = {"CUDA0": 20 * GB, "CUDA1": 20 * GB, "cpu": 64 * GB}
    found = place(spec(tensor_split=(1.0, 1.0)), large_output, GPUS, room, room)
    assert found is not None
    assert [round(found.bytes[each] / GB, 1) for each in found.devices] == [3.0, 4.0], "the output counts as one layer"
    row = place(spec(tensor_split=(1.0, 1.0), split_mode="row"), large_output, GPUS, room, room)
    assert row is not None
    assert [round(row.bytes[each] / GB, 1) for each in row.devices] == [3.5, 3.5]
    one = spec(tensor_split=(1.0, 1.0))
    assert found.bytes["CUDA0"] - 3 * GB >= pipelined_bytes(one, large_output, SHAPE) >= 3 * 512 * 2 * 4 * 1000


def test_a_tensor_split_is_kept_to_and_a_list_of_devices_too() -> None:
    room = {"CUDA0": 20 * GB, "CUDA1": 20 * GB, "cpu": 64 * GB}
    found = place(spec(devices=("CUDA1", "CUDA0"), tensor_split=(3.0, 1.0)), FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.shares) == (("CUDA1", "CUDA0"), (0.75, 0.25))
    found = place(spec(devices=("cuda1",)), FACTS, GPUS, room, room)
    assert found is not None
    assert found.devices == ("CUDA1",)
    found = place(spec(devices=("cpu",)), FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.n_gpu_layers) == (("cpu",), 0)


def test_the_main_device_is_kept_to_and_a_short_tensor_split_leaves_the_others_out() -> None:
    room = {"CUDA0": 20 * GB, "CUDA1": 20 * GB, "cpu": 64 * GB}
    alone = spec(split_mode="none", main_device=1)
    found = place(alone, FACTS, GPUS, {**room, "CUDA0": 30 * GB}, room)
    assert found is not None
    assert (found.devices, found.spec(alone).main_device) == (("CUDA1",), 0)
    rows = spec(split_mode="row", tensor_split=(1.0, 1.0), main_device=1)
    found = place(rows, FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.spec(rows).main_device) == (("CUDA0", "CUDA1"), 1)
    three = (*GPUS[:2], Device(id="CUDA2", kind="gpu"), GPUS[2])
    found = place(rows, FACTS, three, {**room, "CUDA2": 80 * GB}, {**room, "CUDA2": 80 * GB})
    assert found is not None
    assert found.devices == ("CUDA0", "CUDA1")
    assert place(spec(tensor_split=(1.0, 1.0, 1.0)), FACTS, GPUS, room, room) is None
    found = place(spec(tensor_split=(1.0,)), FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.spec(spec()).tensor_split) == (("CUDA0",), ())


def test_fewer_layers_are_advised_where_they_would_fit() -> None:
    room = {"CUDA0": 3 * GB + GB // 2, "cpu": 64 * GB}
    devices = (GPUS[0], GPUS[2])
    whole = spec(n_gpu_layers=-1)
    assert place(whole, FACTS, devices, room, room, effort="partly") is None
    assert advice(whole, replace(FACTS, experts=()), devices, room, room) == "n_gpu_layers = 3 would fit"
    assert advice(whole, FACTS, devices, room, room) == "n_cpu_moe = 4 would fit"
    less = {"CUDA0": 2 * GB, "cpu": 64 * GB}
    assert advice(whole, FACTS, devices, less, less) == "n_gpu_layers = 2 with n_cpu_moe = 4 would fit"
    least = {"CUDA0": GB // 2, "cpu": 64 * GB}
    assert advice(whole, FACTS, devices, least, least) == "n_gpu_layers = 0 would fit"


def gpu_bytes(found: Placement | None) -> int:
    assert found is not None
    return sum(found.bytes[device] for device in found.devices)


def test_what_does_not_fit_whole_leaves_its_first_layers_with_the_cpu_and_says_so() -> None:
    dense = FileFacts(layers=(GB,) * 4, rest_bytes=GB, cell_bytes=1000.0)
    devices = (GPUS[0], GPUS[2])
    room = {"CUDA0": 3 * GB + GB // 2, "cpu": 64 * GB}
    assert place(spec(), dense, devices, room, room, effort="smaller") is None
    found = place(spec(), dense, devices, room, room, effort="partly")
    assert found is not None
    assert (found.n_gpu_layers, found.devices) == (3, ("CUDA0",))
    assert found.note == (
        "2 of 4 layers are on CUDA0, the others on the CPU: all of it takes 4.7 GiB of CUDA0, where 3.3 GiB are free"
    )
    assert found.spec(spec()).n_gpu_layers == 3
    assert found.bytes["cpu"] > 2 * GB
    assert place(spec(n_gpu_layers=-1), dense, devices, room, room, effort="partly") is None, "a number is kept to"


def test_experts_leave_the_gpu_before_whole_layers_do() -> None:
    room = {"CUDA0": 4 * GB + GB // 2, "cpu": 64 * GB}  # a matrix of experts is lent to the GPU for a prompt
    devices = (GPUS[0], GPUS[2])
    found = place(spec(), FACTS, devices, room, room, effort="partly")
    assert found is not None
    assert (found.n_gpu_layers, found.n_cpu_moe) == (-1, 2)
    assert found.note.startswith("the experts of 2 of 4 layers are on the CPU")
    less = {"CUDA0": 2 * GB, "cpu": 64 * GB}
    found = place(spec(), FACTS, devices, less, less, effort="partly")
    assert found is not None
    assert (found.n_gpu_layers, found.n_cpu_moe) == (2, 4)


@pytest.mark.parametrize("seed", range(6))
def test_no_more_is_taken_than_is_free_and_more_room_is_made_use_of(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(40):
        n_layer = dice.randint(1, 40)
        layers = tuple(dice.randint(1, 2 * GB) for _ in range(n_layer))
        facts = FileFacts(
            layers=layers,
            experts=tuple(n * 3 // 4 for n in layers) if dice.random() < 0.5 else (),
            rest_bytes=dice.randint(0, 2 * GB),
            cell_bytes=dice.choice([0.0, 1000.0, 200_000.0]),
            n_ctx_train=32768,
        )
        one = spec(n_ctx=dice.choice([None, 2048]), kv_layout="auto", n_slots=dice.choice([None, 2]))
        room = {"CUDA0": dice.randint(0, 80 * GB), "CUDA1": dice.randint(0, 80 * GB), "cpu": 200 * GB}
        found = place(one, facts, GPUS, room, room, effort="partly")
        if found is None:
            assert advice(replace(one, n_gpu_layers=-1), facts, GPUS, room, room) in ("", "n_gpu_layers = 0 would fit")
            continue
        assert all(n <= room[device] for device, n in found.bytes.items())
        assert (place(one, facts, GPUS, room, room, effort="smaller") is None) == bool(found.note)
        more = place(one, facts, GPUS, {**room, "CUDA0": room["CUDA0"] + 4 * GB}, room, effort="partly")
        assert more is not None
        assert not more.note or gpu_bytes(more) >= gpu_bytes(found)


def test_what_is_told_to_fit_does() -> None:
    dice, n_told = random.Random(1), 0
    facts = replace(FACTS, cell_bytes=100_000.0, n_ctx_train=32768)
    for _ in range(100):
        n_ctx, devices = dice.choice([512, 2048, 16384, None]), dice.choice([GPUS, GPUS[2:]])
        said = {
            "n_ctx": n_ctx,
            "n_slots": dice.choice([1, 4, None]),
            "n_cells": dice.choice([None, (n_ctx or 512) * 4]),
        }
        one = spec(kv_layout="auto", n_gpu_layers=dice.choice([-1, 2, "auto"]), **said)
        room = {"CUDA0": dice.randrange(4 * GB), "CUDA1": dice.randrange(4 * GB), "cpu": dice.randrange(9 * GB)}
        found = place(one, facts, devices, room, room, effort="partly")
        told = advice(one, facts, devices, room, room) if found is None else ""
        if told:
            n_told += 1
            changed: dict[str, Any] = {key: int(n) for key, n in re.findall(r"(n_\w+) = (-?\d+)", told)}
            assert place(replace(one, **changed), facts, devices, room, room, effort="partly"), (one, room, told)
    assert n_told > 10


@pytest.mark.parametrize("name", ["CUDA1", "gpu-1b2c", "GPU-1B2C", "0000:41:00.0", "00000000:41:00.0"])
def test_a_device_is_named_by_its_id_its_uuid_or_its_pci_id(name: str) -> None:
    known = (GPUS[0], replace(GPUS[1], uuid="GPU-1b2c", pci_id="0000:41:00.0"), GPUS[2])
    room = {"CUDA0": 20 * GB, "CUDA1": 20 * GB, "cpu": 64 * GB}
    found = place(spec(devices=(name,)), FACTS, known, room, room)
    assert found is not None
    assert found.devices == ("CUDA1",)


@pytest.mark.parametrize(
    ("settings", "free", "taken", "room"),
    [
        ({}, 100, 0, 100),
        ({"memory_fraction": 0.45}, 100, 0, 45),
        ({"memory_fraction": 0.45}, 30, 0, 30),  # others have most of it
        ({"memory_fraction": 0.45}, 60, 40, 45),  # what models have is theirs still
        ({"reserved_bytes": 20}, 100, 0, 80),
        ({"reserved_bytes": 200}, 100, 0, 0),
        ({"reserved_bytes": {"cuda0": 30}}, 100, 0, 70),
        ({"reserved_bytes": {"CUDA1": 30}, "memory_fraction": {"CUDA0": 0.5}}, 100, 0, 50),
    ],
)
def test_models_may_have_a_share_of_a_device_and_what_others_leave(
    settings: dict[str, Any], free: int, taken: int, room: int
) -> None:
    devices = (Device(id="CUDA0", kind="gpu", total_bytes=100),)
    found = room_of(devices, {"CUDA0": free}, ServerSettings(**settings), taken={"CUDA0": taken})
    assert found == {"CUDA0": room}

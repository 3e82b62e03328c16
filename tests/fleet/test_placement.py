"""Laws of where a replica goes and what it takes there: on GPUs that are only numbers here."""

from pathlib import Path
from typing import Any

import pytest

from llamahost.fleet.devices import Device
from llamahost.fleet.fit import Shape
from llamahost.fleet.footprint import FileFacts, footprint, on_device
from llamahost.fleet.manifest import ModelSpec, ServerSettings
from llamahost.fleet.placement import advice, place
from llamahost.fleet.room import room_of

GB = 10**9
SHAPE = Shape(n_ctx=1024, n_slots=1, n_cells=1024, is_unified=False)
FACTS = FileFacts(layers=(GB,) * 4, experts=(GB // 2,) * 4, input_bytes=GB, rest_bytes=GB, cell_bytes=1000.0)
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
    gpu, host = on_device(one, facts, footprint(one, facts, SHAPE), n_gpu_layers)
    assert (gpu.weights_bytes / GB, host.weights_bytes / GB) == (there, here)
    whole = footprint(one, facts, SHAPE)
    assert gpu.kv_bytes + host.kv_bytes == whole.kv_bytes


def test_one_device_that_holds_it_whole_comes_before_two_that_share_it() -> None:
    room = {"CUDA0": 6 * GB, "CUDA1": 8 * GB, "cpu": 64 * GB}
    found = place(spec(), FACTS, GPUS, room, room)
    assert found is not None
    assert (found.devices, found.shares) == (("CUDA1",), ())
    smaller = {"CUDA0": 3 * GB, "CUDA1": 4 * GB, "cpu": 64 * GB}
    found = place(spec(), FACTS, GPUS, smaller, smaller)
    assert found is not None
    assert found.devices == ("CUDA0", "CUDA1")
    assert found.shares == pytest.approx((3 / 7, 4 / 7))
    assert all(n <= smaller[device] for device, n in found.bytes.items())
    assert place(spec(split_mode="none"), FACTS, GPUS, smaller, smaller) is None


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


def test_fewer_layers_are_advised_where_they_would_fit() -> None:
    room = {"CUDA0": 3 * GB + GB // 2, "cpu": 64 * GB}
    devices = (GPUS[0], GPUS[2])
    assert place(spec(), FACTS, devices, room, room, is_any=True) is None
    assert advice(spec(), FACTS, devices, room, room) == "n_gpu_layers = 3 would fit"


@pytest.mark.parametrize(
    ("settings", "free", "taken", "room"),
    [
        ({}, 100, 0, 100),
        ({"memory_fraction": 0.45}, 100, 0, 45),
        ({"memory_fraction": 0.45}, 30, 0, 30),  # others have most of it
        ({"memory_fraction": 0.45}, 60, 40, 45),  # what models have is theirs still
        ({"reserved_bytes": 20}, 100, 0, 80),
        ({"reserved_bytes": 200}, 100, 0, 0),
    ],
)
def test_models_may_have_a_share_of_a_device_and_what_others_leave(
    settings: dict[str, Any], free: int, taken: int, room: int
) -> None:
    devices = (Device(id="CUDA0", kind="gpu", total_bytes=100),)
    found = room_of(devices, {"CUDA0": free}, ServerSettings(**settings), taken={"CUDA0": taken})
    assert found == {"CUDA0": room}

"""How much of a card models may have: what is counted, beside what is not, and what ends a process that lacks it."""

from typing import Any

import pytest

from llamahost.fleet.machine.devices import MOST_UNSEEN, Device, MachineDevices
from llamahost.fleet.machine.room import room_of, strangers
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.native.devices import Device as Listed
from llamahost.ops.gpu import Gpus

GB = 2**30


def cards(total: int, free: int) -> MachineDevices:
    listed = Listed("CUDA0", "a card", "GPU", "CUDA", free, total, "0000:30:00.0")
    return MachineDevices(GB, lambda _: [listed], lambda: "", Gpus)


@pytest.mark.parametrize(
    ("total", "free", "settings", "room"),
    [
        (80 * GB, 80 * GB, {}, 79 * GB),  # as llama.cpp's own --fit leaves
        (8 * GB, 8 * GB, {}, 7.5 * GB),
        (80 * GB, 60 * GB, {}, 59 * GB),  # of what others leave
        (80 * GB, 80 * GB, {"memory_fraction": {"CUDA0": 0.5}}, 40 * GB),  # enough is left anyway
        (80 * GB, 80 * GB, {"reserved_bytes": {"CUDA0": 2 * GB}}, 77 * GB),  # a display's share is the display's
        (8 * GB, GB // 4, {}, 0),
    ],
)
def test_beside_all_that_is_counted_a_card_keeps_room_for_what_no_log_tells_of(
    total: int, free: int, settings: dict[str, Any], room: float
) -> None:
    machine = cards(total, free)
    found = room_of(machine.all(), machine.free_bytes(), ServerSettings(**settings))
    assert found["CUDA0"] == room
    assert found["cpu"] == GB, "a processor's memory fails in other ways"


def test_what_loaded_models_are_known_to_have_is_theirs_still() -> None:
    card = Device(id="CUDA0", kind="gpu", total_bytes=80 * GB, unseen_bytes=MOST_UNSEEN)
    # 30 GB of a model, and half a GB of its pools: what is free beside them keeps the whole of what is unseen
    assert room_of([card], {"CUDA0": int(49.5 * GB)}, ServerSettings(), taken={"CUDA0": 30 * GB}) == {
        "CUDA0": int(78.5 * GB)
    }


def test_a_name_in_the_settings_that_no_device_goes_by_is_told() -> None:
    devices = cards(8 * GB, 8 * GB).all()
    assert strangers(devices, ServerSettings(memory_fraction=0.5, reserved_bytes={"cuda0": 1, "0000:30:00.0": 2})) == ""
    told = strangers(
        devices, ServerSettings(memory_fraction={"CUDA0": 0.45, "CUDAO": 0.45}, reserved_bytes={"GPU1": 1})
    )
    assert told.startswith("memory_fraction names 'CUDAO', reserved_bytes names 'GPU1', and there are CUDA0, cpu")

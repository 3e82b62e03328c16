"""Two tools write a card's place differently, and mean the same one; what is put on a card is told by both alike."""

import contextlib
from collections.abc import Collection, Sequence

import pynvml
import pytest

from llamahost.core.errors import LoadFailed
from llamahost.fleet.machine.devices import MachineDevices, gpus_of, is_same_card
from llamahost.native.devices import Device as Listed
from llamahost.ops.gpu import Gpus, Nvml
from tests.ops.fake_nvml import Card, FakeNvml

GB = 2**30


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("00000000:c1:00.0", "0000:C1:00.0", True),
        ("0001:c1:00.0", "0000:c1:00.0", False),
        ("0000:c1:00.0", "0000:c2:00.0", False),
        ("", "", False),
        ("", "0000:c1:00.0", False),
        ("none", "none", False),
    ],
)
def test_a_card_is_known_by_its_numbers(one: str, other: str, is_same: bool) -> None:
    assert is_same_card(one, other) is is_same


def asked(fake: FakeNvml) -> Gpus:
    with contextlib.closing(Nvml(fake)) as nvml:
        nvml.open()
        return nvml.sample()


def cuda(k: int, pci_id: str, free: int = 70 * GB) -> Listed:
    return Listed(f"CUDA{k}", "NVIDIA H100", "GPU", "CUDA", free, 80 * GB, pci_id)


def cpu() -> Listed:
    return Listed("CPU", "a processor", "CPU", "CPU", 0, 0)


def test_llama_cpp_s_devices_have_the_uuid_of_their_card_in_whatever_order_cuda_shows_them() -> None:
    fake = FakeNvml(Card(), Card(), Card(used=30 * GB))  # at 0000:30 to :32, of which CUDA shows two, the last first
    shown: Sequence[Listed] = [cuda(0, "0000:32:00.0"), cuda(1, "0000:30:00.0", free=60 * GB), cpu()]
    machine = MachineDevices(GB, lambda _: shown, lambda: "", lambda: asked(fake))
    first, second, host = machine.all()
    assert [(each.id, each.uuid) for each in (first, second, host)] == [
        ("CUDA0", "GPU-2"),
        ("CUDA1", "GPU-0"),
        ("cpu", ""),
    ]
    assert machine.free_bytes() == {"CUDA0": 50 * GB, "CUDA1": 60 * GB, "cpu": GB}, "whatever is less"
    assert first.is_called("gpu-2")
    assert not second.is_called("GPU-1")


def test_a_card_that_is_left_is_never_asked_again() -> None:
    asked_without: list[set[str]] = []

    def listed(left: Collection[str]) -> Sequence[Listed]:
        asked_without.append(set(left))
        return [each for each in (cuda(0, "0000:30:00.0"), cuda(1, "0000:31:00.0")) if each.name not in left]

    machine = MachineDevices(GB, listed, lambda: "nothing is there", lambda: asked(FakeNvml(Card(), Card())))
    machine.forsake("CUDA0")
    again = machine.budgeted(2 * GB)
    again.forsake("CUDA1")
    assert [each.id for each in machine.all()] == ["CUDA1", "cpu"]
    assert (again.free_bytes(), [each.id for each in again.all()], again.trouble) == ({"cpu": 2 * GB}, ["cpu"], "")
    assert asked_without == [{"CUDA0"}, {"CUDA0", "CUDA1"}, {"CUDA0", "CUDA1"}]


def test_a_card_that_two_back_ends_know_is_one_and_an_integrated_one_is_for_a_machine_without() -> None:
    vulkan = Listed("Vulkan0", "NVIDIA H100", "GPU", "Vulkan", 70 * GB, 80 * GB, "0000:30:00.0")
    inside = Listed("Vulkan1", "a processor's", "integrated GPU", "Vulkan", 90 * GB, 96 * GB, "0000:00:02.0")

    def usable(*listed: Listed) -> tuple[list[str], list[str]]:
        machine = MachineDevices(GB, lambda _: listed, lambda: "", Gpus)
        found = machine.all()
        assert set(machine.free_bytes()) == {each.id for each in found}
        return [each.id for each in found], [each.id for each in gpus_of(found)]

    assert usable(cuda(0, "0000:30:00.0"), vulkan, inside, cpu()) == (["CUDA0", "Vulkan1", "cpu"], ["CUDA0"])
    assert usable(inside, cpu()) == (["Vulkan1", "cpu"], ["Vulkan1"])


def test_without_nvml_or_a_place_llama_cpp_s_word_counts() -> None:
    absent = FakeNvml(failing={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    machine = MachineDevices(GB, lambda _: [cuda(0, "")], lambda: "", lambda: asked(absent))
    assert (machine.all()[0].uuid, machine.free_bytes()["CUDA0"], machine.trouble) == ("", 70 * GB, "")


def test_a_driver_that_fails_is_told_in_llama_cpp_s_words_and_in_nvml_s() -> None:
    absent = FakeNvml(failing={"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
    machine = MachineDevices(GB, lambda _: [cpu()], lambda: "no GPU: driver too old", lambda: asked(absent))
    assert [each.id for each in machine.all()] == ["cpu"]
    assert machine.trouble == "no GPU: driver too old; NVML: no NVIDIA driver: Driver Not Loaded"
    assert machine.is_broken

    def fails(_: object) -> Sequence[Listed]:
        raise LoadFailed("llama.cpp cannot be opened: libcudart is missing")

    machine = MachineDevices(GB, fails, lambda: "", lambda: asked(FakeNvml(Card())))
    machine.all()
    assert machine.trouble == "llama.cpp cannot be opened: libcudart is missing; NVML knows NVIDIA H100 GPU-0"
    quiet = MachineDevices(
        GB, lambda _: [cpu()], lambda: "this finds none: no CUDA-capable device", lambda: asked(absent)
    )
    quiet.all()
    assert not quiet.is_broken

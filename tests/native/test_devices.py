"""What ggml's build and devices are, told where there is a card and where there is none."""

import pytest

from llamahost.fleet.machine.devices import MachineDevices
from llamahost.native import devices
from llamahost.native.adapters import free_bytes
from llamahost.ops.gpu import Gpus

SAYS_CUDA = "ggml_cuda_init: failed to initialize CUDA: "


def test_the_back_ends_of_this_build_are_told_and_its_devices_are_theirs() -> None:
    names = devices._back_ends()
    assert "CPU" in names
    assert {each.back_end for each in devices.devices()} <= set(names)


def test_memory_is_asked_of_the_devices_that_are_named_alone() -> None:
    (cpu,) = (each for each in devices.devices() if each.kind == "CPU")
    assert list(devices.free_of(("cpu", "CUDA7"))) == [cpu.name]
    assert devices.free_of(("CUDA7",)) == {}
    assert free_bytes(("CUDA7",)) > 0, "where none tells, the process's own"


@pytest.mark.parametrize(
    ("back_ends", "complaint", "told", "is_broken"),
    [
        (("CPU",), "", "", False),
        (("BLAS", "CPU"), "anything failed", "", False),
        (("CUDA", "CPU"), "", "finds none", False),
        (("CUDA", "CPU"), SAYS_CUDA + "no CUDA-capable device is detected", "no CUDA-capable device", False),
        (("ROCm", "CPU"), "failed to initialize ROCm: no ROCm-capable device is detected", "no ROCm-capable", False),
        (("CUDA", "CPU"), SAYS_CUDA + "CUDA driver version is insufficient", "driver version is insufficient", True),
    ],
)
def test_a_build_for_gpus_that_finds_none_says_why_though_it_has_no_device_to_offload_to(
    back_ends: tuple[str, ...], complaint: str, told: str, is_broken: bool
) -> None:
    def trouble() -> str:
        return devices.trouble_of(back_ends, [complaint] if complaint else [])

    machine = MachineDevices(2**30, lambda _: [], trouble, Gpus)
    assert [each.id for each in machine.all()] == ["cpu"]
    assert told in machine.trouble
    assert bool(machine.trouble) == bool(told)
    assert machine.is_broken is is_broken

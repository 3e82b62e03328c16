"""What a GPU does not tell costs that one figure; a machine without a driver is told as one; faults reach the loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterator

import pynvml
import pytest

from llamahost.ops.gpu import Fault, Gpus, Nvml
from llamahost.ops.gpu_metrics import GpuCollector
from llamahost.ops.gpu_monitor import GpuMonitor, News
from llamahost.ops.metrics import Metrics
from tests.on_loop import on_loop
from tests.ops.fake_nvml import Card, FakeNvml


def sampled(nvml: FakeNvml) -> Gpus:
    opened = Nvml(nvml)
    opened.open()
    try:
        return opened.sample()
    finally:
        opened.close()
        assert nvml._n_open == 0


def public(owner: object) -> Iterator[str]:
    return (name for name in dir(owner) if not name.startswith("_"))


def test_the_fake_has_nothing_that_pynvml_has_not() -> None:
    for name in public(FakeNvml):
        ours, theirs = getattr(FakeNvml, name), getattr(pynvml, name)
        if not inspect.isfunction(ours):
            assert ours == theirs
            continue
        asked = [(each.name, each.default) for each in inspect.signature(theirs).parameters.values()]
        told = [(each.name, each.default) for each in inspect.signature(ours).parameters.values()]
        assert told[1:] == asked, name


def test_the_fake_s_answers_are_of_pynvml_s_own_shape() -> None:
    fake = FakeNvml(Card())
    fake.nvmlInit()
    fake.nvmlDeviceRegisterEvents(handle := fake.nvmlDeviceGetHandleByIndex(0), 8, fake.nvmlEventSetCreate())
    fake._happens(0, 79)
    event = fake.nvmlEventSetWait_v2(None, 1)
    assert {name for name, _ in pynvml.c_nvmlEventData_t._fields_} >= set(vars(event))
    process = fake.nvmlDeviceGetComputeRunningProcesses(handle)[0]
    assert {name for name, _ in pynvml.c_nvmlProcessInfo_t._fields_} >= set(vars(process))


def test_a_gpu_tells_what_it_is_and_does() -> None:
    told = sampled(FakeNvml(Card(), Card(name="NVIDIA L4", pids=())))
    assert (told.driver, told.cuda, told.trouble) == ("570.86.10", "12.8", "")
    gpu, other = told.gpus
    assert (gpu.index, gpu.name, gpu.uuid, gpu.pci_id) == (0, "NVIDIA H100", "GPU-0", "00000000:30:00.0")
    assert gpu.compute == (9, 0)
    assert (gpu.total_bytes, gpu.used_bytes, gpu.free_bytes) == (80 * 2**30, 8 * 2**30, 72 * 2**30)
    assert (gpu.utilisation, gpu.memory_utilisation, gpu.temperature_c) == (0.87, 0.35, 64)
    assert (gpu.power_w, gpu.power_limit_w) == (312.5, 700.0)
    assert (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz, gpu.memory_clock_mhz) == (1755, 1980, 2619)
    assert gpu.throttled_by == ("power cap",)
    assert gpu.processes is not None
    assert [(each.pid, each.name, each.used_bytes) for each in gpu.processes] == [(4711, "worker-4711", None)]
    assert (other.index, other.name, other.processes) == (1, "NVIDIA L4", ())


QUESTIONS = [name for name in public(FakeNvml) if name.startswith("nvmlDeviceGet") and "Index" not in name]


@pytest.mark.parametrize("question", [*QUESTIONS, "nvmlSystemGetProcessName", "nvmlEventSetCreate"])
def test_a_question_that_fails_leaves_the_others_answered(question: str) -> None:
    if question == "nvmlDeviceGetCount":
        assert sampled(FakeNvml(Card(), failing={question: pynvml.NVML_ERROR_UNKNOWN})).trouble
        return
    whole = sampled(FakeNvml(Card(), Card()))
    told = sampled(FakeNvml(Card(), Card(), failing={question: pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert len(told.gpus) == 2
    changed = {
        name for name in type(told.gpus[0]).__slots__ if getattr(told.gpus[0], name) != getattr(whole.gpus[0], name)
    }
    assert len(changed) <= 3, changed  # of memory three figures come from one answer
    assert not told.gpus[0].is_lost
    assert not told.gpus[0].trouble


def test_what_holds_the_clocks_is_asked_by_its_old_name_or_by_its_new_one() -> None:
    old, new = (f"nvmlDeviceGetCurrentClocks{name}Reasons" for name in ("Throttle", "Event"))
    absent = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    for failing, told in (((old,), ("power cap",)), ((new,), ("power cap",)), ((old, new), None)):
        (gpu,) = sampled(FakeNvml(Card(), failing=dict.fromkeys(failing, absent))).gpus
        assert gpu.throttled_by == told


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver: NVML Shared Library Not Found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "no NVIDIA driver: Driver Not Loaded"),
    ],
)
def test_no_driver_is_a_value(code: int, told: str) -> None:
    assert sampled(FakeNvml(failing={"nvmlInit": code})) == Gpus(trouble=told)


def test_a_driver_without_a_gpu_says_so() -> None:
    assert sampled(FakeNvml()).trouble == "the NVIDIA driver knows no GPU"


def test_a_driver_that_fails_later_says_what_failed_and_may_come_back() -> None:
    failing: dict[str, int] = {}
    with contextlib.closing(Nvml(FakeNvml(Card(), failing=failing))) as nvml:
        nvml.open()
        failing["nvmlDeviceGetCount"] = pynvml.NVML_ERROR_UNKNOWN
        assert (nvml.sample().gpus, nvml.sample().trouble) == ((), "NVML: Unknown Error")
        failing.clear()
        assert (len(nvml.sample().gpus), nvml.sample().trouble) == (1, "")


def test_a_lost_gpu_is_told_by_its_identity_and_the_others_stay() -> None:
    cards = Card(), Card()
    fake = FakeNvml(*cards)
    nvml = Nvml(fake)
    nvml.open()
    cards[1].failing[""] = pynvml.NVML_ERROR_GPU_IS_LOST
    well, lost = nvml.sample().gpus
    assert (well.is_lost, well.total_bytes) == (False, 80 * 2**30)
    assert (lost.is_lost, lost.uuid, lost.trouble, lost.total_bytes) == (True, "GPU-1", "GPU is lost", None)
    assert nvml.lost(lost).uuid == "GPU-1"
    nvml.close()


def test_xids_of_the_others_are_heard_when_one_is_lost_from_the_bus() -> None:
    cards = Card(), Card()
    fake = FakeNvml(*cards)
    with contextlib.closing(Nvml(fake)) as nvml:
        nvml.open()
        cards[1].failing[""] = pynvml.NVML_ERROR_GPU_IS_LOST
        assert nvml.wait(0.001) is None
        assert nvml.has_events
        fake._happens(0, 48)
        fault = nvml.wait(0.001)
        assert fault is not None
        assert (fault.index, fault.xid) == (0, 48)
        cards[0].failing[""] = pynvml.NVML_ERROR_GPU_IS_LOST
        assert nvml.wait(0.001) is None
        assert not nvml.has_events, "and nobody asks again and again"


@on_loop
async def test_the_monitor_tells_samples_and_faults_on_the_loop() -> None:
    cards = Card(), Card()
    fake = FakeNvml(*cards)
    monitor = GpuMonitor(0.01, lambda: Nvml(fake))
    heard: asyncio.Queue[News] = asyncio.Queue()
    monitor.listen(heard.put_nowait)
    monitor.start()

    async def fault() -> Fault:
        while not isinstance(news := await heard.get(), Fault):
            assert len(news.gpus) == 2
        return news

    assert await heard.get() == monitor.latest
    fake._happens(0, 79)
    fell = await fault()
    assert (fell.uuid, fell.xid, fell.is_fatal, fell.told) == (
        "GPU-0",
        79,
        True,
        "Xid 79, the GPU has fallen off the bus",
    )
    fake._happens(1, 31)
    assert not (await fault()).is_fatal
    cards[1].failing[""] = pynvml.NVML_ERROR_GPU_IS_LOST
    lost = await fault()
    assert (lost.uuid, lost.xid, lost.is_fatal) == ("GPU-1", None, True)
    assert [gpu.broken_by for gpu in monitor.latest.gpus] == [fell.told, "GPU is lost"]
    while isinstance(sample := await heard.get(), Fault):
        pass
    assert sample.gpus[0].broken_by == fell.told, "though it answers as before"
    assert monitor.faults == {(0, "GPU-0", 79): 1, (1, "GPU-1", 31): 1, (1, "GPU-1", None): 1}
    monitor.close()


@on_loop
async def test_an_xid_is_told_where_each_sample_takes_longer_than_its_period() -> None:
    fake = FakeNvml(Card())
    monitor = GpuMonitor(1e-9, lambda: Nvml(fake))
    heard: asyncio.Queue[News] = asyncio.Queue()
    monitor.listen(heard.put_nowait)
    monitor.start()
    await heard.get()
    fake._happens(0, 79)
    while not isinstance(await heard.get(), Fault):
        pass
    monitor.close()


@on_loop
async def test_without_a_driver_it_says_so_once_and_its_thread_ends() -> None:
    fake = FakeNvml(failing={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    monitor = GpuMonitor(0.01, lambda: Nvml(fake))
    heard: asyncio.Queue[News] = asyncio.Queue()
    monitor.listen(heard.put_nowait)
    monitor.start()
    assert monitor.latest.trouble == "not asked yet"
    assert await heard.get() == Gpus(trouble="no NVIDIA driver: NVML Shared Library Not Found")


def test_prometheus_is_told_what_the_gpus_tell() -> None:
    monitor = GpuMonitor(0)
    lines = Metrics()
    lines.registry.register(GpuCollector(monitor))
    assert not any(line.startswith("llamahost_gpu_memory") for line in lines.scrape([])().decode().splitlines())
    monitor.latest = sampled(FakeNvml(Card(failing={"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NOT_SUPPORTED})))
    monitor.faults = {(0, "GPU-0", 79): 2}
    told = lines.scrape([])().decode().splitlines()
    who = 'gpu="0",name="NVIDIA H100",uuid="GPU-0"'
    assert f"llamahost_gpu_memory_used_bytes{{{who}}} 8.589934592e+09" in told
    assert f"llamahost_gpu_utilisation_ratio{{{who}}} 0.87" in told
    assert f"llamahost_gpu_sm_clock_hertz{{{who}}} 1.755e+09" in told
    assert 'llamahost_gpu_throttled{gpu="0",name="NVIDIA H100",reason="power cap",uuid="GPU-0"} 1.0' in told
    assert 'llamahost_gpu_faults_total{gpu="0",uuid="GPU-0",xid="79"} 2.0' in told
    assert not any(line.startswith("llamahost_gpu_power_watts{") for line in told)
    assert f"llamahost_gpu_power_limit_watts{{{who}}} 700.0" in told

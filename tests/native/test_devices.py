"""What ggml's build and devices are, told where there is a card and where there is none."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.fleet.machine.devices import MachineDevices
from llamahost.fleet.settings.manifest import BUILTIN_PATH, PACKAGED_ADAPTERS
from llamahost.native import devices
from llamahost.native.adapters import free_bytes
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.embed import EmbedOptions, LlamaEmbedder
from llamahost.native.library import buffers_in, library, splits_in
from llamahost.native.model import Model
from llamahost.native.offload import owners
from llamahost.ops.gpu import Gpus

SAYS_CUDA = "ggml_cuda_init: failed to initialize CUDA: "


def test_the_back_ends_of_this_build_are_told_and_its_devices_are_theirs() -> None:
    names = devices._back_ends()
    assert "CPU" in names
    assert {each.back_end for each in devices.devices()} <= set(names)


def test_llama_cpp_s_libraries_are_in_the_process_once_and_their_pointers_are_its_own() -> None:
    lib = library().c._lib
    own = ctypes.CDLL(lib._name, handle=lib._handle)["ggml_backend_cpu_buffer_type"]
    own.restype = ctypes.c_void_p
    assert devices.buffer_type("CPU") == own(), "by which C knows that it is the CPU's"
    folder = str(Path(lib._name).parent)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if folder in line}
    stems = [Path(each).name.partition(".so")[0] for each in mapped]
    assert len(stems) == len(set(stems)) > 1


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


@pytest.mark.parametrize(
    ("buffer", "devices", "whose"),
    [
        ("CUDA0", ("CUDA0",), ("CUDA0",)),
        ("CUDA_Host", ("CUDA0",), ()),  # pinned, of the host
        ("CPU_Mapped", ("cpu",), ()),
        ("CPU_REPACK", ("CUDA0",), ()),
        ("MTL0_Mapped", ("MTL0",), ("MTL0",)),
        ("CUDA1", ("CUDA0",), ()),
        ("Meta()", ("CUDA1", "CUDA0"), ("CUDA1", "CUDA0")),  # each takes what is told
        ("RPC0[127.0.0.1:50052]", ("RPC0", "RPC1"), ("RPC0",)),
        ("ROCm10", ("ROCm1",), ()),
    ],
)
def test_a_buffer_is_the_device_s_by_its_name_or_the_host_s(
    buffer: str, devices: tuple[str, ...], whose: tuple[str, ...]
) -> None:
    assert owners(buffer, devices) == whose


LOG = """\
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
llama_context:  CUDA_Host  output buffer size =    31.31 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     2.00 MiB
dsv4_state:      CUDA0 DSV4 compressor state buffer size =     3.00 MiB
sched_reserve:      CUDA0 compute buffer size =   304.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB
sched_reserve: graph (pp bs=512, tg bs=8): nodes = 1126, splits = 2, input objects = 5, input tensors = 6
~llama_context:      CUDA0 compute buffer size is 304.0000 MiB, matches expectation of 304.0000 MiB
"""
"""As the format strings of this llama.cpp write it for CUDA."""


def test_a_split_kv_and_embeddings_over_a_tensor_split_are_refused_since_c_ends_the_process(
    tiny_llama: Path, model_of: Callable[[Path], Model]
) -> None:
    model = model_of(tiny_llama)
    model.is_split_by_tensor = True
    try:
        with pytest.raises(LoadFailed, match="unified"):
            LlamaBackend(model, ContextOptions(n_ctx=256, n_slots=2, n_threads=1))
        LlamaBackend(model, ContextOptions(n_ctx=256, n_slots=2, n_threads=1, is_unified=True)).close()
        with pytest.raises(LoadFailed, match="embeds nothing"):
            LlamaEmbedder(model, EmbedOptions(n_ctx=64, n_threads=1))
    finally:
        model.is_split_by_tensor = False


def test_adapters_are_refused_in_words_where_c_ends_the_process_over_them() -> None:
    with Model.open(BUILTIN_PATH) as model:
        model.adapters.refusal = "there are none here"
        with pytest.raises(LoadFailed, match="there are none here"):
            model.adapters.open(PACKAGED_ADAPTERS["builtin-pirate"])


def test_what_cuda_takes_is_read_from_the_log_and_nothing_twice() -> None:
    lines = LOG.splitlines()
    found = {key: n / 2**20 for key, n in buffers_in(lines).items()}
    assert found == {
        ("CUDA0", "model"): pytest.approx(4403.49),
        ("CPU_Mapped", "model"): pytest.approx(281.81),
        ("CUDA_Host", "output"): pytest.approx(31.31),
        ("CUDA0", "kv"): 1024,
        ("CUDA0", "rs"): 5,
        ("CUDA0", "compute"): 304,
        ("CUDA_Host", "compute"): pytest.approx(24.01),
    }
    assert splits_in(lines) == 2
    assert splits_in([lines[-2].replace("splits = 2", "splits = 66 / 131")]) == 131, "the worse of two"
    assert splits_in(["nothing of it"]) == 0

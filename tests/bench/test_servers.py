"""Servers that the bench starts: equal settings in, one process out, and it is gone afterwards."""

import asyncio
import importlib.util
import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from llamahost.bench.servers import (
    BenchFailed,
    Server,
    Settings,
    cpu_seconds_of,
    free_port,
    llama_server_command,
    llamahost_manifest,
    memory_of,
    other_command,
    parse_memory,
    shared_libraries,
    to_its_end,
)
from tests.on_loop import LIMIT_S

SETTINGS = Settings(model=Path('/models/a "b".gguf'), n_ctx=512, n_slots=4, n_threads=2)


def test_both_servers_get_the_same_settings() -> None:
    (model,) = tomllib.loads(llamahost_manifest(SETTINGS, kv_layout="auto"))["models"]
    command = llama_server_command(Path("llama-server"), SETTINGS, 1, kv_layout="split", extra="--cache-ram 0")
    flags = dict(zip(command[1::2], command[2::2], strict=False))
    assert model["path"] == flags["--model"] == str(SETTINGS.model)
    assert model["name"] == flags["--alias"]
    assert model["n_slots"] == int(flags["--parallel"]) == 4
    assert model["n_ctx"] * 4 == int(flags["--ctx-size"])
    assert model["n_threads"] == int(flags["--threads"]) == int(flags["--threads-batch"])
    assert (model["n_batch"], model["n_ubatch"]) == (int(flags["--batch-size"]), int(flags["--ubatch-size"]))
    assert model["flash_attention"] == flags["--flash-attn"]
    assert command[-3:] == ["--no-kv-unified", "--cache-ram", "0"]


def test_libraries_are_shared_only_where_their_versions_are_the_same(tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.touch()
    assert shared_libraries(binary) is None  # static: it has none
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    ours = Path(package.origin).parent / "lib"
    for library in ours.glob("*.so.*.*.*"):
        (tmp_path / library.name).touch()
    assert shared_libraries(binary) == ours
    newer = next(tmp_path.glob("libggml-cpu.so.*.*.*"))
    newer.rename(newer.with_name("libggml-cpu.so.999.0.0"))
    assert shared_libraries(binary) is None


def test_a_pattern_is_filled_in_and_a_wrong_one_refused() -> None:
    assert other_command("srv --port {port} '{model}'", SETTINGS, 7) == ["srv", "--port", "7", str(SETTINGS.model)]
    for pattern in ("srv {nothing}", "srv {0}", "srv {", " "):
        with pytest.raises(BenchFailed):
            other_command(pattern, SETTINGS, 7)


def test_a_started_server_is_gone_after_an_error(tmp_path: Path) -> None:
    server = Server("s", [sys.executable, "-c", "import time; time.sleep(600)"], free_port(), tmp_path / "log")
    pids = []

    def measure_and_fail() -> None:
        with server:
            assert server.pid is not None
            pids.append(server.pid)
            assert memory_of(server.pid) is not None
            assert cpu_seconds_of(server.pid) is not None
            assert cpu_seconds_of(server.pid, is_main_thread_alone=True) is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_and_fail()
    assert [memory_of(pid) for pid in pids] == [None]


def test_a_measurement_that_is_told_to_end_stops_its_servers(tmp_path: Path) -> None:
    server = Server("s", [sys.executable, "-c", "import time; time.sleep(600)"], free_port(), tmp_path / "log")
    pids = []

    async def measure() -> None:
        with server:
            assert server.pid is not None
            pids.append(server.pid)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(to_its_end(measure()))
    assert [memory_of(pid) for pid in pids] == [None]


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = Server("s", [sys.executable, "-c", "print('no such model'); exit(3)"], free_port(), tmp_path / "log")
    with server, pytest.raises(BenchFailed, match=r"(?s)code 3.*no such model"):
        asyncio.run(server.wait_until_ready("/v1/completions", b"{}", timeout_s=LIMIT_S))


def test_a_server_that_cannot_be_started_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="could not be started"), Server("s", ["/nowhere/x"], 1, tmp_path / "log"):
        pass


def test_memory_is_read_in_bytes() -> None:
    memory = parse_memory("Name:\tx\nVmHWM:\t    30 kB\nVmRSS:\t      20 kB\nRssAnon:\t  10 kB\n")
    assert memory is not None
    assert (memory.resident_bytes, memory.peak_bytes, memory.anonymous_bytes) == (20480, 30720, 10240)
    assert parse_memory("Name:\tzombie\n") is None

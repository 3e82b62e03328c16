"""Start servers on loopback, watch their memory and CPU, and stop them. Knows processes; knows no workload."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeVar

import orjson

from llamahost.bench.client import Target, fetch
from llamahost.bench.wire import WireError

T = TypeVar("T")

KvLayout = Literal["auto", "split", "unified"]

ALIAS = "bench"
"""The name under which every started server serves the model, so that bodies can be equal."""

STOP_S = 10.0
POLL_S = 0.005


class BenchFailed(Exception):
    """The measurement cannot go on; the message says why, for the one who reads the terminal."""


class NoAnswer(BenchFailed):
    """A server that was said to run does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all started servers have in common."""

    model: Path
    n_ctx: int  # tokens a slot
    n_slots: int
    n_threads: int
    n_gpu_layers: int = -1
    n_batch: int = 2048
    n_ubatch: int = 512
    flash_attention: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in bytes: resident now, at most so far, and what of it is not a mapped file."""

    resident_bytes: int
    peak_bytes: int
    anonymous_bytes: int


def llamahost_manifest(settings: Settings, *, kv_layout: KvLayout) -> str:
    """A manifest that says all settings, those that `serve` has no flag for too."""
    values: dict[str, object] = {
        "name": ALIAS,
        "path": str(settings.model),
        "n_ctx": settings.n_ctx,
        "n_slots": settings.n_slots,
        "n_threads": settings.n_threads,
        "n_gpu_layers": settings.n_gpu_layers,
        "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch,
        "flash_attention": settings.flash_attention,
        "kv_layout": kv_layout,
    }
    # a JSON string or number is a TOML one too
    return "\n".join(["[[models]]", *(f"{key} = {orjson.dumps(value).decode()}" for key, value in values.items()), ""])


def llamahost_command(manifest: Path, port: int, extra: str = "") -> list[str]:
    start = [sys.executable, "-c", "from llamahost.cli import main; main()", "serve"]
    return [*start, "--manifest", str(manifest), "--host", "127.0.0.1", "--port", str(port), *shlex.split(extra)]


def llama_server_command(
    binary: Path, settings: Settings, port: int, *, kv_layout: Literal["split", "unified"], extra: str = ""
) -> list[str]:
    """llama-server with the same settings. Its `--ctx-size` is of all slots together in both layouts."""
    flags: dict[str, object] = {
        "--model": settings.model,
        "--alias": ALIAS,
        "--host": "127.0.0.1",
        "--port": port,
        "--parallel": settings.n_slots,
        "--ctx-size": settings.n_ctx * settings.n_slots,
        "--threads": settings.n_threads,
        "--threads-batch": settings.n_threads,
        "--batch-size": settings.n_batch,
        "--ubatch-size": settings.n_ubatch,
        "--flash-attn": settings.flash_attention,
        "--gpu-layers": "all" if settings.n_gpu_layers < 0 else settings.n_gpu_layers,
    }
    layout = "--kv-unified" if kv_layout == "unified" else "--no-kv-unified"
    words = [str(word) for flag in flags.items() for word in flag]
    return [str(binary), *words, layout, *shlex.split(extra)]


def shared_libraries(binary: Path) -> Path | None:
    """The folder of llama.cpp's libraries that llamahost itself uses, where llama-server can run on them.

    Two builds of one source can differ in what instructions they use, and then a comparison compares compilers. A
    llama-server whose libraries have the very versions of the installed llama-cpp-python is run on the latter's;
    None where they differ or where it was linked statically.
    """
    package = importlib.util.find_spec("llama_cpp")  # finds it without loading it
    if package is None or package.origin is None:
        return None
    ours = Path(package.origin).parent / "lib"
    names = [_library_versions(folder) for folder in (ours, binary.resolve().parent)]
    return ours if names[0] and names[0] == names[1] else None


def _library_versions(folder: Path) -> frozenset[str]:
    """File names with full versions, of those libraries that both sides have."""
    kinds = ("libllama", "libggml", "libggml-base", "libggml-cpu")
    return frozenset(path.name for kind in kinds for path in folder.glob(f"{kind}.so.*.*.*"))


def other_command(pattern: str, settings: Settings, port: int) -> list[str]:
    """Any command, with {port}, {model}, {slots}, {n_ctx} (a slot), {threads} and {alias} in it. No shell."""
    places = {
        "port": port,
        "model": settings.model,
        "slots": settings.n_slots,
        "n_ctx": settings.n_ctx,
        "threads": settings.n_threads,
        "alias": ALIAS,
    }
    try:
        words = [word.format(**places) for word in shlex.split(pattern)]
    except (KeyError, IndexError, ValueError) as error:
        raise BenchFailed(f"the command knows {{{'}, {'.join(places)}}} alone: {error}") from error
    if not words:
        raise BenchFailed("the command of the other server is empty")
    return words


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A process of ours. Stop it always: use it as a context manager. Owned by the bench's only thread."""

    def __init__(self, name: str, command: list[str], port: int, log: Path, *, libraries: Path | None = None) -> None:
        self.name = name
        self.libraries = libraries  # a folder that the loader looks in first
        self.command = command
        self.target = Target("127.0.0.1", port)
        self.log = log
        self.health_s = 0.0  # from the process's start to the first 200 of /health
        self.ready_s = 0.0  # … to the first answered request
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Server:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}
        if self.libraries is not None:
            known = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = f"{self.libraries}:{known}" if known else str(self.libraries)
        self._output = self.log.open("wb")
        self._begun = time.perf_counter()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
            )
        except OSError as error:
            self._output.close()
            raise BenchFailed(f"{self.name} could not be started: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        process, output = self._process, self._output
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if output is not None:
            output.close()

    async def wait_until_ready(self, path: str, body: bytes, *, timeout_s: float) -> None:
        """Until /health is 200 and one request was answered. Raises BenchFailed with the end of its log."""
        health = "/health"
        while not self.health_s:
            status = await self._ask("GET", health, b"", timeout_s)
            if status == 200:
                self.health_s = self._elapsed_s
            elif status == 404:
                health = "/v1/models"  # a server without /health
        while not self.ready_s:
            status = await self._ask("POST", path, body, timeout_s)
            if status == 200:
                self.ready_s = self._elapsed_s
            elif status not in (0, 429, 503):
                raise BenchFailed(f"{self.name} answers its first request with {status}{self._last_words()}")

    async def _ask(self, method: str, path: str, body: bytes, timeout_s: float) -> int:
        """The status, or 0 where nothing answered; waits a moment after anything but 200."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process is not None else None
            raise BenchFailed(f"{self.name} ended with code {code}{self._last_words()}")
        if self._elapsed_s > timeout_s:
            raise BenchFailed(f"{self.name} was not ready within {timeout_s:g} s{self._last_words()}")
        status = 0
        with contextlib.suppress(OSError, WireError, TimeoutError):  # not listening yet
            status = (await fetch(self.target, method, path, body, timeout_s=timeout_s)).status
        if status != 200:
            await asyncio.sleep(POLL_S)
        return status

    @property
    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._begun

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "; its last lines:\n" + "\n".join(lines) if lines else "; it said nothing"


async def to_its_end(work: Awaitable[T]) -> T:
    """Of a process of its own: SIGTERM and SIGHUP end it as Ctrl-C does, so that started servers are stopped."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await work
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def memory_of(pid: int) -> Memory | None:
    """Of the process alone, not of its children; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return parse_memory(text)


def parse_memory(status: str) -> Memory | None:
    """What /proc/<pid>/status says."""
    values = {}
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            values[name] = int(words[0]) * 1024
    if "VmRSS" not in values:
        return None
    resident = values["VmRSS"]
    return Memory(resident, values.get("VmHWM", resident), values.get("RssAnon", 0))


def machine_cpu_seconds() -> float | None:
    """Busy time of all CPUs so far, or None where the system does not tell."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, soft_irq = map(int, words[1:8])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_of(pid: int, *, is_main_thread_alone: bool = False) -> float | None:
    """User and system time of the process so far; None where the system does not tell."""
    task = f"task/{pid}/" if is_main_thread_alone else ""
    try:
        text = Path(f"/proc/{pid}/{task}stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

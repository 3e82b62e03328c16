"""A file never loaded before is first opened in a process of its own: what ends a process then ends only that one.

What was seen to open is remembered by path, inode, size and times, and by the library's version. What the library
refuses in words is left to the load itself, which says it better. Blocking; runs in a load thread.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llamahost.core.errors import LoadFailed, PullFailed
from llamahost.files.repo import shard_names
from llamahost.fleet.machine.cache import cache_folder, read_json, write_json
from llamahost.fleet.settings.manifest import BUILTIN_PATH, PACKAGED

logger = logging.getLogger("llamahost.fleet")

LIMIT_S = 120.0  # a slow disk and a busy machine among it; half a second is usual
LOOK_S = 0.02
MAX_REMEMBERED = 1024
_TAIL_BYTES = 8192
_UNSEEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}  # no GPU is needed
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LLAMAHOST_API_KEY")
"""What a process that opens a strange file has no business to know."""
_remembering = threading.Lock()

Mark = list[list[int]]
"""What tells one file from another of the same name."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The files that were seen to open. One small file, which may be lost or nonsense: then they are opened again."""

    file: Path
    library: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Memory:
        return cls(cache_folder(environ) / "opened.json", importlib.metadata.version("llama-cpp-python"))

    def holds(self, path: Path) -> bool:
        """Whether this very file was seen to open, all its shards."""
        mark = mark_of(path)
        return mark is not None and self._read().get(str(path.resolve())) == mark

    def add(self, path: Path, mark: Mark | None) -> None:
        """Remember it as it was before it was opened; where that cannot be written, the next load looks again."""
        if mark is None:
            return
        with _remembering, contextlib.suppress(OSError):
            known = self._read()
            known.pop(str(path.resolve()), None)
            known[str(path.resolve())] = mark  # the last to be forgotten
            kept = dict(list(known.items())[-MAX_REMEMBERED:])
            write_json(self.file, {"library": self.library, "files": kept})

    def _read(self) -> dict[str, Mark]:
        found = read_json(self.file)
        if not isinstance(found, dict) or found.get("library") != self.library:
            return {}
        files = found.get("files")
        return files if isinstance(files, dict) else {}


def ensure(
    path: Path,
    on_wait: Callable[[], None] = lambda: None,
    *,
    memory: Memory | None = None,
    command: Sequence[str] | None = None,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return when the file may be opened here. Raises LoadFailed if the process that tried it died, or never ended.

    `on_wait` is called all the while, and what it raises ends the try.
    """
    if path in PACKAGED.values():
        return  # its sum is known
    memory = memory or Memory.of(os.environ)
    if memory.holds(path):
        return
    mark = mark_of(path)  # as it is now: it may be replaced while it is tried
    began = clock()
    command = command or (sys.executable, "-P", "-m", "llamahost.native.inspection")
    try:
        refusal = _tried(path, on_wait, command, limit_s, clock)
    except LoadFailed:
        if _opens(BUILTIN_PATH, on_wait, command, limit_s, clock):
            raise
        # Not the file's fault, then. Better no try than no model at all.
        logger.warning("a process of its own cannot even open the built-in model here; %s is opened untried", path)
        return
    logger.debug("%s was tried in a process of its own for %.2f s", path, clock() - began)
    if not refusal:
        memory.add(path, mark)


def _opens(
    path: Path, on_wait: Callable[[], None], command: Sequence[str], limit_s: float, clock: Callable[[], float]
) -> bool:
    try:
        return not _tried(path, on_wait, command, limit_s, clock)
    except LoadFailed:
        return False


def _tried(
    path: Path, on_wait: Callable[[], None], command: Sequence[str], limit_s: float, clock: Callable[[], float]
) -> str:
    """What the library refuses; empty where it opens the file. Raises LoadFailed."""
    environment = {**os.environ, **_UNSEEN, "PYTHONPATH": os.pathsep.join(sys.path), "GGML_NO_BACKTRACE": "1"}
    for name in _SECRETS:
        environment.pop(name, None)
    with _in_memory("told") as told, _in_memory("complaints") as complaints:
        try:
            child = subprocess.Popen(  # noqa: S603 — this interpreter, and a path as one argument
                [*command, str(path)], stdin=subprocess.DEVNULL, stdout=told, stderr=complaints, env=environment
            )
        except OSError as error:
            logger.warning("%s is opened without being tried first: %s", path, error)
            return "it was not tried"
        try:
            ends_at = clock() + limit_s
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = child.wait(LOOK_S)
                    break
                on_wait()
                if clock() > ends_at:
                    raise LoadFailed(f"{path} did not open within {limit_s:g} s in a process of its own, so not here")
        finally:
            if child.returncode is None:
                child.kill()
                child.wait()
        told.seek(0)
        answer = told.read(_TAIL_BYTES)
        if status == 0:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return str(json.loads(answer)["refusal"])
        raise LoadFailed(
            f"{path} ended the process that tried to open it ({_ending(status)}), so it is not loaded here; "
            f"the file is broken, or made to do harm{_last_words(complaints)}"
        )


def _in_memory(name: str) -> IO[bytes]:
    """A file on no disk, which may be full, or read-only in a container. The child bounds what it writes."""
    return os.fdopen(os.memfd_create(name), "w+b")


def _ending(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def _last_words(complaints: IO[bytes]) -> str:
    """The line in which C says what it asserted, or its last one."""
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = [line.strip() for line in complaints.read().decode("utf-8", "replace").splitlines() if line.strip()]
    asserted = (line for line in reversed(lines) if "GGML_ASSERT" in line or "what():" in line)
    said = next(asserted, lines[-1] if lines else "")
    return f": {said[-300:]}" if said else ""


def mark_of(path: Path) -> Mark | None:
    """Inode, size and times of each of its files; None where one is not there.

    Two times: that of its content can be set by whoever writes it, and an inode is given again; that of its last
    change cannot be set.
    """
    try:
        found = [path.with_name(name).stat() for name in shard_names(path.name)]
    except (OSError, PullFailed):
        return None
    return [[stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in found]

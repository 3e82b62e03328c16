"""A process that opens GGUF files, each in a child of its own, so that a file that ends a process ends only that.

As a program: paths and fields of a spec on standard input, one JSON list a line; one line of JSON for each on
standard output.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.on_loop import LIMIT_S

MAX_BYTES = 4 * 2**30
"""Of the child's address space: the library, numpy and a tiny model take less than one."""

SPEC: dict[str, Any] = {"n_slots": 2, "n_ubatch": 32}
HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """`how`: manifest, reader or loader (which refused it), served, raised, or died. `why` says more."""

    how: str
    why: str
    took_s: float


class Opener:
    """The process, asked from the test's."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, path: Path, spec: dict[str, Any] | None = None) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), spec or SPEC]) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


@contextmanager
def opener() -> Iterator[Opener]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "GGML_NO_BACKTRACE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.opening"],
        cwd=HERE,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield Opener(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


def main() -> None:
    import llamahost.fleet.replica.loader
    from llamahost.native.library import library
    from llamahost.text.template import CHATML, Template

    library()  # once, for all children; it starts no thread before something is computed
    Template(CHATML)
    assert llamahost.fleet.replica.loader
    for line in sys.stdin:
        path, spec = json.loads(line)
        sys.stdout.write(json.dumps(_in_child(Path(path), spec).__dict__) + "\n")
        sys.stdout.flush()


def _in_child(path: Path, spec: dict[str, Any]) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryFile() as complaints:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _attempt(path, spec, writing, complaints)
        os.close(writing)
        is_told = bool(select.select([reading], [], [], LIMIT_S)[0])
        told = os.read(reading, 4096).decode("utf-8", "replace") if is_told else ""
        os.close(reading)
        if not is_told:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        took_s = time.monotonic() - began
        if told and os.waitstatus_to_exitcode(status) == 0:
            how, _, why = told.partition(" ")
            return Outcome(how, why, took_s)
        complaints.seek(0)
        said = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return Outcome("died", f"{os.waitstatus_to_exitcode(status)} {' | '.join(said[-4:])}", took_s)


def _attempt(path: Path, spec: dict[str, Any], writing: int, complaints: IO[bytes]) -> None:
    """In the child; never returns."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        os.dup2(complaints.fileno(), 1)
        os.dup2(complaints.fileno(), 2)
        os.write(writing, serve(path, spec).encode()[:4000])
        status = 0
    finally:
        os._exit(status)


def serve(path: Path, spec: dict[str, Any]) -> str:
    """Read, load, encode and generate, as a request would."""
    from llamahost.core.errors import InvalidRequest, LlamahostError, LoadFailed, ManifestError
    from llamahost.core.machine import Machine
    from llamahost.core.messages import ChatRequest, Message, Text
    from llamahost.core.work import Plan, Span
    from llamahost.fleet.replica.loader import load
    from llamahost.fleet.settings.manifest import ModelSpec
    from llamahost.native.gguf import read_metadata

    try:
        read_metadata(path)
    except LoadFailed as error:
        return f"reader {error}"
    except Exception as error:
        return f"raised in the reader: {error!r}"
    try:
        machine = Machine(n_cpus=1, memory_bytes=2**32, available_bytes=2**31)
        loaded = load(ModelSpec(name="m", path=path, **spec), machine)
    except ManifestError as error:
        return f"manifest {error}"
    except LoadFailed as error:
        return f"loader {error}"
    except Exception as error:
        return f"raised in the loader: {error!r}"
    if loaded.backend is None:
        loaded.close()
        return "served for embeddings"
    try:
        request = ChatRequest(messages=(Message(role="user", parts=(Text("Hello, \u4e16\u754c 123\n<|im_end|>"),)),))
        job = loaded.preparer.chat(request).jobs[0]
        tokens, start = array("i", job.tokens[-24:]), 0
        for k in range(3):
            span = Span(job.id, 0, start, tokens, 1)
            loaded.backend.launch(Plan(begins=(job,) if k == 0 else (), spans=(span,)))
            start += len(tokens)
            tokens = array("i", loaded.backend.collect()[0].tokens)
            loaded.model.vocab.decode(tokens)
        loaded.close()
    except InvalidRequest as error:
        return f"served but no chat: {error}"
    except LlamahostError as error:
        return f"served but {error!r}"
    except Exception as error:
        return f"raised in generation: {error!r}"
    return "served"


if __name__ == "__main__":
    main()

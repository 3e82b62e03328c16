#!/usr/bin/env python3
"""Measure what one request costs the host: processor time and Python calls, stage by stage, beside what C computes.

    python tools/measure_request.py bench.gguf                     # a tiny chat, streamed and whole; one text embedded
    python tools/measure_request.py bench.gguf --cases stream --functions 40

The server is the real one, in this process; its client is another process and sends one request after the other over
one connection, so that nothing is merged and nobody waits. A stage begins where its function is first called in a
request, and ends where the next one does. Told are the processor time of the loop's thread in it, least and median, and
how many Python functions it entered: a coroutine that goes on counts as one more. Calls are counted in requests of
their own, as counting takes longer than most calls do. The least time says what the code costs; the median says too
how busy the machine is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any

N_WARM = 20
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "stream": ("/v1/chat/completions", {"max_tokens": 4, "temperature": 0, "stream": True}),
    "whole": ("/v1/chat/completions", {"max_tokens": 4, "temperature": 0}),
    "embed": ("/v1/embeddings", {"input": "What does one short text cost?"}),
}

BEGIN = "bytes to headers"
WORKER = "(the worker: from the job to its first news)"
BACKEND = "(of that in the backend)"
FIRST = "after the first text"


def stages() -> list[tuple[str, list[tuple[Any, str]], int]]:
    """What each is called, the functions that begin it, and at which of their calls. A function may be one of many."""
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from llamahost.api import openai, whole
    from llamahost.api.app import App
    from llamahost.api.http1 import Http1
    from llamahost.engine.outbox import Outbox
    from llamahost.engine.worker import Worker
    from llamahost.fleet.replica.replica import Replica
    from llamahost.fleet.replica.vectors import Vectors
    from llamahost.fleet.routing.router import Router

    return [
        (BEGIN, [(Http1, "data_received")], 1),
        ("layers and routes", [(App, "__call__")], 1),
        ("body", [(openai, "read_body"), (whole, "read_body")], 1),
        ("words", [(openai, "decode_body"), (whole, "decode_body")], 1),
        ("who answers", [(Router, "tries")], 1),
        ("tokens", [(Replica, "prepare"), (Replica, "embed")], 1),
        ("to the worker", [(Worker, "submit")], 1),
        ("from the worker", [(Outbox, "_wake"), (Vectors, "_settle")], 1),
        ("the answer's head", [(RequestResponseCycle, "send")], 1),
        (FIRST, [(Outbox, "_wake")], 2),
    ]


class Record:
    """Of one request: by stage, nanoseconds of processor time and calls."""

    def __init__(self, case: str, *, is_counted: bool) -> None:
        self.case = case
        self.is_counted = is_counted
        self.ns: defaultdict[str, int] = defaultdict(int)  # and no Counter, which enters Python for what is new
        self.calls: defaultdict[str, int] = defaultdict(int)
        self.functions: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.n_seen: defaultdict[str, int] = defaultdict(int)
        self.stage = ""


class Meter:
    """Told of every border; one request at a time. What is of the worker's thread, that thread alone writes."""

    def __init__(self, order: list[tuple[str, bool]]) -> None:
        self.records: list[Record] = []
        self._order = order[::-1]  # the cases as they will come, and whether calls are counted
        self._record: Record | None = None
        self._since = 0
        self._is_first = False  # the worker has the job, and has told nothing of it
        self._worker_since = self._backend_ns = 0

    def watch(self) -> None:
        """From here on. Raises AttributeError where a function of `stages` is no more: then they are to be mended."""
        from llamahost.api.app import App
        from llamahost.engine.embedder import Embedder
        from llamahost.engine.engine import Engine
        from llamahost.engine.outbox import Outbox
        from llamahost.fleet.replica.vectors import Vectors
        from llamahost.native.backend import LlamaBackend
        from llamahost.native.embed import LlamaEmbedder

        for stage, functions, at in stages():
            for owner, name in functions:
                self._before(owner, name, partial(self._enter, stage, at))
        for owner in (Engine, Embedder):
            self._before(owner, "submit", self._worker_begins)
        for owner, name in ((Outbox, "publish"), (Vectors, "_publish")):
            self._before(owner, name, self._worker_ends)
        for owner, name in ((LlamaBackend, "launch"), (LlamaBackend, "collect"), (LlamaEmbedder, "embed")):
            self._around(owner, name)
        serve: Any = App.__call__

        async def served(app: App, scope: Any, receive: Any, send: Any) -> None:
            record = self._record
            try:
                await serve(app, scope, receive, send)
            finally:
                if record is self._record:  # else the next one has come before this was over
                    self._end()

        App.__call__ = served  # type: ignore[method-assign,assignment] # to see where a request begins and ends

    def _before(self, owner: Any, name: str, note: Callable[[], None]) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            note()
            return function(*args, **kwargs)

        setattr(owner, name, noted)

    def _around(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any) -> Any:
            began = time.thread_time_ns()
            profile = sys.getprofile()
            sys.setprofile(None)
            try:
                return function(*args)
            finally:
                sys.setprofile(profile)
                self._backend_ns += time.thread_time_ns() - began

        setattr(owner, name, timed)

    def _enter(self, stage: str, at: int) -> None:
        if stage == BEGIN and self._order:  # one that has not ended by now, on a busy machine, counts for nothing
            case, is_counted = self._order.pop()
            self._record = Record(case, is_counted=is_counted)
            sys.setprofile(self._count if is_counted else None)
        if (record := self._record) is None:
            return
        record.n_seen[stage] += 1
        if record.n_seen[stage] == at:
            self._leave(record)
            record.stage = stage
            self._since = time.thread_time_ns()

    def _leave(self, record: Record) -> None:
        if record.stage:
            record.ns[record.stage] += time.thread_time_ns() - self._since

    def _end(self) -> None:
        sys.setprofile(None)
        if (record := self._record) is not None:
            self._leave(record)
            self.records.append(record)
            self._record = None

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename != __file__ and (record := self._record) is not None:
            stage = WORKER if threading.current_thread() is not threading.main_thread() else record.stage
            where = "/".join(code.co_filename.rsplit("/", 2)[-2:])
            record.calls[stage] += 1
            record.functions[stage, f"{where} {code.co_qualname}"] += 1

    def _worker_begins(self) -> None:
        if (record := self._record) is not None:
            self._is_first, self._backend_ns = True, 0
            if record.is_counted:
                sys.setprofile(self._count)
            self._worker_since = time.thread_time_ns()

    def _worker_ends(self) -> None:
        if self._is_first:
            taken = time.thread_time_ns() - self._worker_since
            sys.setprofile(None)
            self._is_first = False
            if (record := self._record) is not None:
                record.ns[WORKER] = taken - self._backend_ns
                record.ns[BACKEND] = self._backend_ns


def ask(port: int, order: list[tuple[str, bool]], gap_s: float) -> dict[str, list[float]]:
    """Send them all, one after the other: milliseconds to the first text, or to the whole answer, of each case."""
    took: dict[str, list[float]] = {name: [] for name in CASES}
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, (name, is_counted) in enumerate(order):
            path, body = CASES[name]
            if "chat" in path:
                body = {"messages": [{"role": "user", "content": f"Say {number % 7}"}], **body}
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            told, first = b"", 0.0
            began = time.perf_counter()
            line.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            while not is_whole(told):
                piece = line.recv(65536)
                if not piece:
                    sys.exit(f"the server closed the connection: {told[:500]!r}")
                told += piece
                if not first and (name != "stream" or b"\ndata: " in told):
                    first = time.perf_counter() - began
            if not told.startswith(b"HTTP/1.1 200"):
                sys.exit(f"{name}: {told[:500]!r}")
            if not is_counted:
                took[name].append(1000 * first)
            time.sleep(gap_s)  # what the server does after the last byte belongs to this request
    return took


def is_whole(told: bytes) -> bool:
    head, end, body = told.partition(b"\r\n\r\n")
    if (length := re.search(rb"content-length: (\d+)", head)) is not None:
        return len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def serve(args: argparse.Namespace, order: list[tuple[str, bool]]) -> tuple[list[Record], dict[str, list[float]]]:
    """In this process, as `llamahost serve` does it, until the client has asked all."""
    from llamahost.api.app import create_app
    from llamahost.api.server import Runner, bind
    from llamahost.fleet.settings.manifest import EMBED_PATH, Manifest, ModelSpec, ServerSettings
    from llamahost.host import AsyncHost
    from llamahost.ops.log import set_up
    from llamahost.ops.tally import Tally

    set_up(stream=Path(os.devnull).open("w"))  # noqa: SIM115  until the process ends
    meter = Meter(order)
    meter.watch()
    settings = ServerSettings(host="127.0.0.1", drain_s=0)
    if order[0][0] == "embed":
        spec = ModelSpec(name="m", path=EMBED_PATH, n_threads=args.threads)
    else:
        spec = ModelSpec(name="m", path=args.model, n_ctx=2048, n_slots=1, n_threads=args.threads)
    tally = Tally()
    host = AsyncHost(Manifest(models=(spec,), server=settings), observer=tally)
    place = bind("127.0.0.1", 0)
    told: list[dict[str, list[float]]] = []

    async def asked() -> None:
        told.append(await asyncio.to_thread(client, place.getsockname()[1], args, order))
        runner.stop()

    async def ready() -> None:
        await host.wait_ready()
        tasks.append(asyncio.create_task(asked()))

    tasks: list[asyncio.Task[None]] = []
    runner = Runner(host, place, settings=settings, on_start=ready)
    runner.run(lambda on_start: create_app(host, settings, tally=tally, on_start=on_start))
    return meter.records, told[0]


def client(port: int, args: argparse.Namespace, order: list[tuple[str, bool]]) -> dict[str, list[float]]:
    """A process of its own, so that it takes no GIL."""
    asked = json.dumps([port, order, args.gap])
    own = [sys.executable, str(Path(__file__).resolve()), "--ask", asked]
    return dict(json.loads(subprocess.run(own, stdout=subprocess.PIPE, check=True).stdout))


def report(case: str, records: list[Record], took: list[float], n_functions: int) -> None:
    timed = [each for each in records if not each.is_counted][N_WARM:]
    counted = [each for each in records if each.is_counted][1:]
    took = sorted(took[N_WARM:])
    print(
        f"\n{case}: {len(timed)} requests; to the {'first text' if case == 'stream' else 'answer'} "
        f"{took[0]:.2f} ms at least, {statistics.median(took):.2f} median"
    )
    print(f"{'':46}{'least us':>10}{'median':>10}{'calls':>8}")
    names = [stage for stage, _, _ in stages()]
    rows = [
        (name, [each.ns[name] for each in timed], [each.calls[name] for each in counted])
        for name in (*names, WORKER, BACKEND)
    ]
    before = names[: names.index(FIRST)]
    for told, of in (("all of the loop's before", before), ("all of the loop's", names)):
        sums = [sum(each.ns[name] for name in of) for each in timed]
        rows.append((told, sums, [sum(each.calls[name] for name in of) for each in counted]))
    for name, ns, calls in rows:
        if any(ns):
            n = statistics.median(calls or [0])
            print(f"  {name:44}{min(ns) / 1000:10.0f}{statistics.median(ns) / 1000:10.0f}{n:8.0f}")
    if n_functions:
        functions: Counter[tuple[str, str]] = Counter()
        for each in counted:
            functions.update(each.functions)
        for (stage, where), n in functions.most_common(n_functions):
            print(f"{n / len(counted):8.1f}  {stage[:20]:22}{where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=Path, nargs="?", help="a GGUF file that generates; embedded is with the package's own"
    )
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas between")
    parser.add_argument("--requests", type=int, default=300, help="of each case")
    parser.add_argument("--counted", type=int, default=6, help="requests more, whose calls are counted")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--gap", type=float, default=0.005, help="seconds between two requests")
    parser.add_argument("--functions", type=int, default=0, help="the most called, so many")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(ask(*json.loads(args.ask))))
        return
    if args.model is None:
        parser.error("which model?")
    for case in args.cases.split(","):
        order = [(case, False)] * (N_WARM + args.requests) + [(case, True)] * args.counted
        if (child := os.fork()) == 0:  # each case has a server of its own
            records, took = serve(args, order)
            report(case, records, took[case], args.functions)
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure what the process itself can deliver: many workers whose steps take a fixed time, and do nothing else.

    python tools/measure_fleet.py                                # 8 workers x 64 streams, events within the library
    python tools/measure_fleet.py --http --streams 25            # 20,000 tokens/s over HTTP, to a client process
    python tools/measure_fleet.py --workers 2 --streams 16 --profile

Everything is the real thing but the device: a step launches, sleeps what is left of its time when it is collected, and
gives each row a token drawn from the model's own vocabulary, a word of four letters. So what is missing to the ideal
(workers x streams / step) is what planning, telling, reading and encoding cost. The processor time of the serving
process is told beside it: on a machine that does other things it says more than the rate does. Leave the machine alone,
and give it two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import gc
import os
import pstats
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import orjson
import uvloop

from llamahost.api.app import create_app
from llamahost.api.server import Runner
from llamahost.core.events import Delta
from llamahost.core.gil import switch_soon
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.work import OneEach, Plan, Streams
from llamahost.fleet.replica import loader
from llamahost.fleet.replica.loader import Loaded
from llamahost.fleet.settings.manifest import BUILTIN_PATH, Manifest, ModelSpec, ServerSettings
from llamahost.host import AsyncHost

ROOT = Path(__file__).resolve().parent.parent
N_CTX = 16384
WARM_S = 1.5
N_CHARS = 4
"""Of each token that a stepped device gives, so that a client can count the tokens of a text."""

TEXT = re.compile(rb'"text":"([^"]*)"')


class Stepped:
    """A core.backend.Backend that takes `step_s` for each step, and computes nothing."""

    def __init__(self, n_slots: int, step_s: float, words: list[int]) -> None:
        self.n_ctx, self.n_slots, self.n_batch, self.n_rows = N_CTX, n_slots, 2048, max(64, n_slots)
        self.n_cells = N_CTX * n_slots
        self.is_unified = False
        self.can_truncate = True
        self.overlaps = True
        self.buffers: dict[tuple[str, str], int] = {}
        self._step_s, self._words = step_s, words * (2 + n_slots // len(words))
        self._plan = Plan()
        self._until = 0.0
        self._collected = time.perf_counter()
        self.late_s = self.between_s = 0.0  # beyond the time of the steps, and from one to the launch of the next
        self.n_steps = 0
        self._k = random.randrange(len(words))

    def launch(self, plan: Plan) -> None:
        now = time.perf_counter()
        self._plan = plan
        self._until = now + (self._step_s if plan.spans else 0.0)
        self.between_s += now - self._collected

    def collect(self) -> OneEach:
        spans = self._plan.spans
        job_ids = spans.job_ids if type(spans) is Streams else [span.job_id for span in spans if span.n_rows]
        n = len(job_ids)
        self._k = (self._k + 7919) % (len(self._words) - n)
        sampled = OneEach(job_ids, self._words[self._k : self._k + n])
        rest = self._until - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        self._collected = time.perf_counter()
        self.late_s += self._collected - self._until
        self.n_steps += 1
        return sampled

    def close(self) -> None:
        pass


STEPPED: list[Stepped] = []
"""All of this process."""


def opener(n_streams: int, step_s: float) -> Callable[..., Loaded]:
    def open_stepped(spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> Loaded:
        """The small model's vocabulary, template and preparer, with a stepped device in place of its context."""
        loaded = loader.load(replace(spec, n_slots=1, n_ctx=64), machine, on_progress)
        assert loaded.backend is not None
        loaded.backend.close()
        vocab = loaded.model.vocab
        pieces, is_control = vocab.pieces, vocab.is_control
        words = [
            token
            for token in range(vocab.n_tokens)
            if len(pieces[token]) == N_CHARS and pieces[token].isalnum() and not is_control[token]
        ]
        loaded.preparer.n_ctx = N_CTX
        stepped = Stepped(n_streams, step_s, words)
        STEPPED.append(stepped)
        card = replace(loaded.card, n_ctx=N_CTX, n_slots=n_streams, n_cells=stepped.n_cells)
        return replace(loaded, spec=spec, backend=stepped, card=card)  # type: ignore[arg-type] # it keeps the protocol

    return open_stepped


def host_of(args: argparse.Namespace) -> AsyncHost:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the devices are the tests' own
    from tests.fleet.budgeted import BudgetedDevices

    spec = ModelSpec(name="stepped", path=BUILTIN_PATH, replicas=args.workers, max_queue=10**6)
    devices = BudgetedDevices({f"device-{k}": 2**40 for k in range(args.workers)})
    manifest = Manifest(models=(spec,), server=ServerSettings(port=0))
    return AsyncHost(manifest, load=opener(args.streams, args.step), hardware=devices)


async def all_ready(host: AsyncHost) -> None:
    """Every replica: the first one is enough for a host to be ready."""
    await host.wait_ready()
    ready = asyncio.Event()

    def look() -> None:
        if all(replica.state == "ready" for model in host.models() for replica in model.replicas):
            ready.set()
        else:
            asyncio.get_running_loop().call_later(0.01, look)

    look()
    await ready.wait()


class Count:
    """Tokens and events between two moments, and the processor time of the serving process."""

    def __init__(self, pid: int) -> None:
        self.n = 0
        self.n_events = 0
        self._pid = pid

    def begin(self) -> None:
        self._before = self.n, self.n_events
        self._ran, self._stolen_s = _ran_and_waited_s(self._pid), _stolen_s()
        self._steps = _steps()
        self._at, self._own_s = time.perf_counter(), time.process_time()

    def report(self, args: argparse.Namespace, more: str) -> None:
        took_s, own_s = time.perf_counter() - self._at, time.process_time() - self._own_s
        ran = [now - before for now, before in zip(_ran_and_waited_s(self._pid), self._ran, strict=True)]
        loop_s, loop_waited_s, others_s, others_waited_s = ran
        stolen_s = _stolen_s() - self._stolen_s
        n, n_events = self.n - self._before[0], self.n_events - self._before[1]
        rate, ideal = n / took_s, args.workers * args.streams / args.step
        if self._pid != os.getpid():
            more += f"; the client took {own_s / took_s:.2f} cores"
        print(f"{args.workers} workers x {args.streams} streams, a step of {args.step * 1000:g} ms; {more}")
        print(f"{rate:,.0f} of {ideal:,.0f} tokens/s, {rate / ideal:.1%}; {n / max(1, n_events):.2f} tokens an event")
        loop, others = 1e6 * loop_s / max(1, n), 1e6 * others_s / max(1, n)
        print(
            f"{loop + others:.1f} us of processor time a token: {loop:.1f} of the loop, {others:.1f} of the workers; "
            f"the serving process took {(loop_s + others_s) / took_s:.2f} cores",
        )
        print(
            f"waited for a core that others used: the loop {loop_waited_s / took_s:.1%} of the time, each worker "
            f"{others_waited_s / took_s / args.workers:.1%}; {stolen_s / took_s:.2f} cores were another machine's",
            flush=True,
        )
        if STEPPED:
            n_steps, late_s, between_s = (now - before for now, before in zip(_steps(), self._steps, strict=True))
            print(
                f"a step of {1000 * args.step:g} ms was {1000 * late_s / n_steps:.2f} ms late (its thread wakes, and "
                f"waits for the GIL), the next was launched {1000 * between_s / n_steps:.2f} ms later",
                flush=True,
            )


def _ran_and_waited_s(pid: int) -> tuple[float, float, float, float]:
    """What a process's first thread, which runs the loop, ran and waited for a core, and all its others. Linux only."""
    loop, others = (0.0, 0.0), (0.0, 0.0)
    for task in Path(f"/proc/{pid}/task").iterdir():
        ran, waited, _ = (int(field) / 1e9 for field in (task / "schedstat").read_text().split())
        if int(task.name) == pid:
            loop = ran, waited
        else:
            others = others[0] + ran, others[1] + waited
    return *loop, *others


def _stolen_s() -> float:
    """Of all cores, so far: what a virtual machine wanted to run and its host did not let it."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def _steps() -> tuple[float, float, float]:
    """How many, how late all together, and what was between them."""
    return (
        sum(each.n_steps for each in STEPPED),
        sum(each.late_s for each in STEPPED),
        sum(each.between_s for each in STEPPED),
    )


async def within_the_library(args: argparse.Namespace) -> None:
    switch_soon()  # as the server does
    count = Count(os.getpid())

    async def read(host: AsyncHost, k: int) -> None:
        request = CompletionRequest(prompts=(f"Stream number {k}: ",), generation=Generation(ignore_eos=True))
        async with aclosing(host.complete(request)) as events:
            async for event in events:
                if type(event) is Delta:
                    count.n += event.n_tokens
                    count.n_events += 1

    async with host_of(args) as host:
        await all_ready(host)
        gc.collect()
        gc.freeze()
        readers = [asyncio.create_task(read(host, k)) for k in range(args.workers * args.streams)]
        await asyncio.sleep(WARM_S)
        count.begin()
        n_of = [replica.n_in_flight for replica in host.models()[0].replicas]
        profile = cProfile.Profile() if args.profile else None
        if profile:
            profile.enable()
        await asyncio.sleep(args.seconds)
        if profile:
            profile.disable()
        count.report(args, f"requests by replica {min(n_of)} to {max(n_of)}")
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def serve(args: argparse.Namespace) -> None:
    """In a process of its own, as `llamahost serve` does it; tells its port."""
    place = socket.create_server(("127.0.0.1", 0))
    host = host_of(args)

    async def announce() -> None:
        await all_ready(host)
        print(place.getsockname()[1], flush=True)

    runner = Runner(host, place, settings=ServerSettings(drain_s=0), on_start=announce)
    runner.run(lambda on_start: create_app(host, ServerSettings(drain_s=0), on_start=on_start))


def started(args: argparse.Namespace) -> subprocess.Popen[str]:
    flags = [f"--{name}={getattr(args, name)}" for name in ("workers", "streams", "step")]
    return subprocess.Popen([sys.executable, __file__, "--serve", *flags], stdout=subprocess.PIPE, text=True, cwd=ROOT)


async def over_http(args: argparse.Namespace, child: subprocess.Popen[str], port: int) -> None:
    count = Count(child.pid)

    async def read(k: int) -> None:
        body = orjson.dumps(
            {"prompt": f"Stream number {k}: ", "stream": True, "ignore_eos": True, "max_tokens": N_CTX - 100}
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        rest = b""
        try:
            while data := await reader.read(2**18):
                told, end, rest = (rest + data).rpartition(b"\n\n")
                texts = TEXT.findall(told + end)
                count.n += sum(map(len, texts)) // N_CHARS
                count.n_events += len(texts)
        finally:
            writer.close()

    readers = [asyncio.create_task(read(k)) for k in range(args.workers * args.streams)]
    await asyncio.sleep(2 * WARM_S)
    count.begin()
    await asyncio.sleep(args.seconds)
    count.report(args, "over HTTP")
    for one in readers:
        one.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--streams", type=int, default=64, help="of each worker")
    parser.add_argument("--step", type=float, default=0.01, help="seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--http", action="store_true", help="a server in a process of its own, and this one its client")
    parser.add_argument("--profile", action="store_true", help="where the loop's time goes, within the library")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
    elif args.http:
        child = started(args)
        try:
            assert child.stdout is not None
            uvloop.run(over_http(args, child, int(child.stdout.readline())))
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()
    else:
        uvloop.run(within_the_library(args))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure what the process itself can deliver: many workers whose steps take a fixed time, and do nothing else.

    python tools/measure_fleet.py                                # 8 workers x 64 streams, events within the library
    python tools/measure_fleet.py --http --streams 25            # 20,000 tokens/s over HTTP, to a client process
    python tools/measure_fleet.py --workers 2 --streams 16 --profile

Everything is the real thing but the device: a step launches, sleeps what is left of its time when it is collected, and
gives each row a token drawn from the model's own vocabulary. So what is missing to the ideal (workers x streams / step)
is what planning, telling, reading and encoding cost. The processor time of the serving process is told beside it: on a
machine that does other things it says more than the rate does. Leave the machine alone, and give it two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import random
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
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.work import Plan, Sampled
from llamahost.fleet import loader
from llamahost.fleet.devices import BudgetedDevices
from llamahost.fleet.loader import Loaded
from llamahost.fleet.manifest import BUILTIN_PATH, Manifest, ModelSpec, ServerSettings
from llamahost.host import AsyncHost

ROOT = Path(__file__).resolve().parent.parent
N_CTX = 16384
WARM_S = 1.5


class Stepped:
    """A core.work.Backend that takes `step_s` for each step, and computes nothing."""

    def __init__(self, n_slots: int, step_s: float, words: list[int]) -> None:
        self.n_ctx, self.n_slots, self.n_batch, self.n_rows = N_CTX, n_slots, 2048, max(64, n_slots)
        self.n_cells = N_CTX * n_slots
        self.is_unified = False
        self.can_truncate = True
        self.overlaps = True
        self.bytes_per_token = 0.0
        self.buffers: dict[tuple[str, str], int] = {}
        self._step_s, self._words = step_s, words
        self._plan = Plan()
        self._until = 0.0
        self._k = random.randrange(len(words))

    def launch(self, plan: Plan) -> None:
        self._plan = plan
        self._until = time.perf_counter() + (self._step_s if plan.spans else 0.0)

    def collect(self) -> list[Sampled]:
        words, k, n = self._words, self._k, len(self._words)
        sampled = []
        for span in self._plan.spans:
            if span.n_rows:
                k = (k + 7919) % n
                sampled.append(Sampled(span.job_id, (words[k],)))
        self._k = k
        rest = self._until - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        return sampled

    def close(self) -> None:
        pass


def opener(n_streams: int, step_s: float) -> Callable[..., Loaded]:
    def open_stepped(spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> Loaded:
        """The small model's vocabulary, template and preparer, with a stepped device in place of its context."""
        loaded = loader.load(replace(spec, n_slots=1, n_ctx=64), machine, on_progress)
        assert loaded.backend is not None
        loaded.backend.close()
        vocab = loaded.model.vocab
        words = [
            token for token in range(vocab.n_tokens) if not vocab.is_control[token] and vocab.pieces[token].isalnum()
        ]
        loaded.preparer.n_ctx = N_CTX
        stepped = Stepped(n_streams, step_s, words)
        card = replace(loaded.card, n_ctx=N_CTX, n_slots=n_streams, n_cells=stepped.n_cells)
        return replace(loaded, spec=spec, backend=stepped, card=card)  # type: ignore[arg-type] # it keeps the protocol

    return open_stepped


def host_of(args: argparse.Namespace) -> AsyncHost:
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
    """Tokens and processor time between two moments."""

    def __init__(self) -> None:
        self.n = 0

    def begin(self) -> None:
        self.n_before, self.at, self.cpu_s = self.n, time.perf_counter(), time.process_time()

    def rate(self) -> tuple[float, float]:
        """Tokens a second, and the cores that this process took."""
        took = time.perf_counter() - self.at
        return (self.n - self.n_before) / took, (time.process_time() - self.cpu_s) / took


async def within_the_library(args: argparse.Namespace) -> None:
    sys.setswitchinterval(0.0005)  # as the server does
    count = Count()

    async def read(host: AsyncHost, k: int) -> None:
        request = CompletionRequest(prompts=(f"Stream number {k}: ",), generation=Generation(ignore_eos=True))
        async with aclosing(host.complete(request)) as events:
            async for event in events:
                if type(event) is Delta:
                    count.n += event.n_tokens

    async with host_of(args) as host:
        await all_ready(host)
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
        rate, cores = count.rate()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        report(args, rate, cores, f"requests by replica {min(n_of)} to {max(n_of)}")
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def report(args: argparse.Namespace, rate: float, cores: float, more: str = "") -> None:
    ideal = args.workers * args.streams / args.step
    print(f"{args.workers} workers x {args.streams} streams, a step of {args.step * 1000:g} ms; {more}")
    print(f"{rate:,.0f} of {ideal:,.0f} tokens/s, {rate / ideal:.1%}; the serving process took {cores:.2f} cores")
    if rate:
        print(f"{1e6 * cores / rate:.1f} us of processor time a token", flush=True)


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
    count = Count()

    async def read(k: int) -> None:
        body = orjson.dumps(
            {"prompt": f"Stream number {k}: ", "stream": True, "ignore_eos": True, "max_tokens": N_CTX - 100}
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            while data := await reader.read(2**18):
                count.n += data.count(b"\ndata: ") + data.startswith(b"data: ")
        finally:
            writer.close()

    readers = [asyncio.create_task(read(k)) for k in range(args.workers * args.streams)]
    await asyncio.sleep(2 * WARM_S)
    count.begin()
    cpu_before, began = _cpu_s(child.pid), time.perf_counter()
    await asyncio.sleep(args.seconds)
    rate, own = count.rate()
    cores = (_cpu_s(child.pid) - cpu_before) / (time.perf_counter() - began)
    for one in readers:
        one.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    report(args, rate, cores, f"over HTTP; the client took {own:.2f} cores")


def _cpu_s(pid: int) -> float:
    """Of a process and its threads, so far. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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

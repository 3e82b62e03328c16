#!/usr/bin/env python3
"""Measure how long the server's event loop does not get to run while clients send it requests of half a megabyte.

    python tools/measure_stalls.py                          # a tiny random model, every case, 6 seconds each
    python tools/measure_stalls.py model.gguf --n-ctx 65536 --cases chat-turns,tokens --seconds 10

A real server runs in a process of its own, as `llamahost serve` runs it. A second process writes the time into a pipe
every millisecond; the server's loop reads it and notes how late it is: what anybody who wants the loop at that moment
would wait. So a stall of 10 ms counts ten times, with 10, 9, 8 … ms, and percentiles are of moments, not of stalls.
A third process is the clients: some stream small answers all the time, others send what the case says and leave after
`--patience` seconds if there is no answer yet: what is measured is the preparing, not the computing. They give way to
the server (`nice`), since they stand for other machines: writing half a megabyte of JSON takes a core from it here.

Each delay has a part in which the loop's thread was ready to run and no core was free, as the kernel counts it: it is
the machine's, and on a busy one the larger. `own` is what is left: the loop's own work, and waiting for the GIL.
`no core` is the first part's share of all the time. `stolen` are the cores that a virtual machine's host gave to others
meanwhile: whoever holds the GIL then holds it for longer, so that a case with more than a few hundredths tells nothing.
Linux only.

`answered` counts the big requests that got an answer or an error, `left` those whose client left first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamahost.bench.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
STAMP = 8  # bytes of a time in the pipe
INTERVAL_S = 0.001

Body = dict[str, Any]


# What is sent


class Words:
    """Text that never comes twice, in ASCII or CJK."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgk"
        self._ascii = ["".join(self._random.choices(letters, k=self._random.randint(2, 9))) for _ in range(4000)]
        self._cjk = [chr(self._random.randint(0x4E00, 0x9FA5)) for _ in range(3000)]

    def ascii(self, n_bytes: int) -> str:
        return " ".join(self._random.choices(self._ascii, k=n_bytes // 6 + 2))[:n_bytes]

    def cjk(self, n_bytes: int) -> str:
        return "".join(self._random.choices(self._cjk, k=n_bytes // 3))


def conversation(write: Callable[[int], str], n_bytes: int, n_messages: int) -> list[Body]:
    """So many messages of user and assistant, `n_bytes` in all; the user's is the last."""
    n_messages += 1 - n_messages % 2
    each = n_bytes // n_messages
    return [{"role": "assistant" if k % 2 else "user", "content": write(each)} for k in range(n_messages)]


def chat(messages: list[Body], **more: object) -> Body:
    return {"messages": messages, "max_tokens": 1, **more}


def completion(prompt: object) -> Body:
    return {"prompt": prompt, "max_tokens": 1}


def calls(words: Words, n_bytes: int) -> Body:
    """A conversation of tool calls, whose arguments are JSON in JSON."""
    messages: list[Body] = [{"role": "user", "content": "go on"}]
    for k in range(100):
        arguments = json.dumps({"path": f"file{k}", "lines": [words.ascii(50) for _ in range(n_bytes // 10_000)]})
        function = {"name": "write", "arguments": arguments}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": f"call{k}", "type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "tool_call_id": f"call{k}", "content": words.ascii(n_bytes // 200)})
    return chat(messages)


@dataclass(frozen=True)
class Case:
    """One kind of big request; `make` is called for each, so that no text comes twice."""

    about: str
    path: str
    make: Callable[[Words, int], Body]
    escapes: bool = False  # CJK as \\uXXXX, which is how many clients' JSON encoders write it


CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
CASES: dict[str, Case] = {
    "small": Case("20 small messages", CHAT, lambda w, n: chat(conversation(w.ascii, 1000, 20))),
    "chat-many": Case("a new chat of 1,000 messages", CHAT, lambda w, n: chat(conversation(w.ascii, n, 1000))),
    "chat-many-cjk": Case("the same in CJK", CHAT, lambda w, n: chat(conversation(w.cjk, n, 1000))),
    "chat-escaped": Case("in CJK, escaped", CHAT, lambda w, n: chat(conversation(w.cjk, n, 1000)), escapes=True),
    "chat-turns": Case("one chat that grows by a turn a request", CHAT, lambda w, n: {}),
    "chat-one": Case("one huge message", CHAT, lambda w, n: chat(conversation(w.ascii, n, 1))),
    "chat-one-cjk": Case("one huge message in CJK", CHAT, lambda w, n: chat(conversation(w.cjk, n, 1))),
    "calls": Case("100 tool calls with their results", CHAT, calls),
    "prompt": Case("a completion's prompt", COMPLETION, lambda w, n: completion(w.ascii(n))),
    "prompt-cjk": Case("a completion's prompt in CJK", COMPLETION, lambda w, n: completion(w.cjk(n))),
    "prompts": Case("500 prompts", COMPLETION, lambda w, n: completion([w.ascii(n // 500) for _ in range(500)])),
    "tokens": Case("a list of tokens", COMPLETION, lambda w, n: completion([100 + k % 900 for k in range(n // 5)])),
    "refused": Case(
        "1,000 messages, the last of a bad role",
        CHAT,
        lambda w, n: chat([*conversation(w.ascii, n, 1000), {"role": "nobody", "content": ""}]),
    ),
}


def post(path: str, body: Body, *, escapes: bool = False) -> bytes:
    data = json.dumps(body, ensure_ascii=escapes, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\nconnection: close\r\n\r\n" + data


class Turns:
    """Requests of one conversation, each with one turn more than the last."""

    def __init__(self, words: Words, n_bytes: int) -> None:
        self._words = words
        self._messages = conversation(words.ascii, n_bytes, 1000)

    def __call__(self) -> bytes:
        self._messages.append({"role": "assistant", "content": self._words.ascii(500)})
        self._messages.append({"role": "user", "content": self._words.ascii(500)})
        return post(CHAT, chat(self._messages))


# The clients


async def ask(port: int, request: bytes, patience_s: float) -> str:
    """The status of the answer, or `left`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(patience_s):
            writer.write(request)
            await writer.drain()
            line = await reader.readline()
            await reader.read()
        return line.split()[1].decode() if line else "closed"
    except TimeoutError:
        return "left"
    except OSError:
        return "closed"
    finally:
        writer.close()


async def send_big(port: int, name: str, seed: int, args: argparse.Namespace, until: float) -> Counter[str]:
    case, words, counts = CASES[name], Words(seed), Counter[str]()
    turns = Turns(words, args.bytes)
    while time.monotonic() < until:
        made = turns() if name == "chat-turns" else post(case.path, case.make(words, args.bytes), escapes=case.escapes)
        counts[await ask(port, made, args.patience)] += 1
    return counts


async def stream_small(port: int, seed: int, until: float) -> Counter[str]:
    words = Words(seed)
    while time.monotonic() < until:
        body = {"prompt": words.ascii(60), "max_tokens": 64, "stream": True, "ignore_eos": True, "temperature": 0}
        await ask(port, post(COMPLETION, body), 5.0)
    return Counter()


async def load(port: int, name: str, args: argparse.Namespace) -> Counter[str]:
    until = time.monotonic() + args.seconds
    tasks = [stream_small(port, 1000 + k, until) for k in range(args.streams)]
    if name != "rest":
        tasks += [send_big(port, name, k, args, until) for k in range(args.clients)]
    return sum(await asyncio.gather(*tasks), Counter[str]())


# The server, and who asks its loop


def serve(args: argparse.Namespace) -> None:
    """In the server's process: as `llamahost serve`, with one more reader in its loop."""
    from llamahost.api.app import App, create_app
    from llamahost.api.server import Runner, bind
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
    from llamahost.host import AsyncHost
    from llamahost.ops.tally import Tally

    n_slots = args.streams + args.clients
    spec = ModelSpec(
        name="m",
        path=args.model,
        n_ctx=args.n_ctx,
        n_slots=n_slots,
        kv_layout="unified",
        n_cells=args.n_ctx + 8192,
        n_threads=args.threads,
        sampling={"temperature": 0.0},
    )
    settings = ServerSettings(host="127.0.0.1", port=args.port)
    tally = Tally()
    host = AsyncHost(Manifest(models=(spec,), server=settings), observer=tally)
    delays = array("q")  # three numbers a stamp: when, how late it was read, how long there had been no core by then
    schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def read() -> None:
        data = os.read(args.pipe, 65536)
        now = time.monotonic_ns()
        waited = int(os.pread(schedstat, 64, 0).split()[1])
        for sent in array("q", data):
            delays.extend((sent, now - sent, waited))

    def make_app(on_start: Callable[[], None]) -> App:
        return create_app(host, settings, tally=tally, on_start=on_start)

    async def announce() -> None:
        asyncio.get_running_loop().add_reader(args.pipe, read)
        await host.wait_ready()
        print("ready", flush=True)

    status = Runner(host, bind("127.0.0.1", args.port), settings=settings, on_start=announce).run(make_app)
    args.delays.write_bytes(delays.tobytes())
    sys.exit(status)


def probe(pipe: int) -> None:
    """In a process of its own: the time, every millisecond, until the pipe is closed."""
    due = time.monotonic()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        while True:
            os.write(pipe, time.monotonic_ns().to_bytes(STAMP, sys.byteorder))
            due = max(due + INTERVAL_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


# The figures


def quantile(values: list[int], q: float) -> float:
    """In milliseconds."""
    return values[min(len(values) - 1, int(q * len(values)))] / 1e6


@dataclass(frozen=True)
class Window:
    """When a case ran, and what became of its requests."""

    name: str
    began_ns: int
    ended_ns: int
    stolen_s: float
    counts: Counter[str]


def report(windows: list[Window], noted: array[int]) -> list[Body]:
    rows = []
    for window in windows:
        delays, own, first, last = [], [], 0, 0
        at_read = before = 0  # the waits for a core at this reading of the pipe, and at the one before
        for sent, delay, waited in zip(noted[::3], noted[1::3], noted[2::3], strict=True):
            if waited != at_read:
                at_read, before = waited, at_read
            if window.began_ns <= sent < window.ended_ns:
                delays.append(delay)
                own.append(max(0, delay - (at_read - before)))
                first, last = first or waited, waited
        delays.sort()
        own.sort()
        row = {
            "case": window.name,
            "p50_ms": quantile(delays, 0.5),
            "p99_ms": quantile(delays, 0.99),
            "max_ms": delays[-1] / 1e6,
            "own_p50_ms": quantile(own, 0.5),
            "own_p99_ms": quantile(own, 0.99),
            "own_max_ms": own[-1] / 1e6,
            "no_core": (last - first) / (window.ended_ns - window.began_ns),
            "stolen": window.stolen_s / (window.ended_ns - window.began_ns) * 1e9,
            "counts": dict(window.counts),
        }
        rows.append(row)
    return rows


def show(rows: list[Body]) -> None:
    times = ("p50_ms", "p99_ms", "max_ms", "own_p50_ms", "own_p99_ms", "own_max_ms")
    print(
        " " * 14 + "".join(f"{name[:-3].replace('_', ' '):>9}" for name in times) + "  no core   stolen  big requests"
    )
    for row in rows:
        counts = ", ".join(f"{n} x {status}" for status, n in sorted(row["counts"].items()))
        print(
            f"{row['case']:<14}"
            + "".join(f"{row[key]:9.2f}" for key in times)
            + f"{row['no_core']:9.1%}{row['stolen']:9.2f}  {counts}"
        )


def stolen_s() -> float:
    """Seconds of cores that the machine's host gave to other machines, since it started."""
    cores = Path("/proc/stat").read_text().split(maxsplit=10)
    return int(cores[8]) / os.sysconf("SC_CLK_TCK")


def measure(args: argparse.Namespace, folder: Path) -> list[Body]:
    args.port, args.delays = free_port(), folder / "delays"
    reads, writes = os.pipe()
    own = [sys.executable, str(Path(__file__).resolve())]
    shared = [
        f"--streams={args.streams}",
        f"--clients={args.clients}",
        f"--n-ctx={args.n_ctx}",
        f"--threads={args.threads}",
        f"--port={args.port}",
        f"--delays={args.delays}",
    ]
    server = subprocess.Popen(
        [*own, str(args.model), *shared, f"--pipe={reads}", "--role=serve"], pass_fds=(reads,), stdout=subprocess.PIPE
    )
    prober = None
    try:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            sys.exit("the server did not start; what it says is above")
        prober = subprocess.Popen([*own, f"--pipe={writes}", "--role=probe"], pass_fds=(writes,))
        os.nice(19)
        windows = []
        for name in ("rest", *args.cases):
            began, stolen = time.monotonic_ns(), stolen_s()
            counts = asyncio.run(load(args.port, name, args))
            windows.append(Window(name, began, time.monotonic_ns(), stolen_s() - stolen, counts))
            time.sleep(0.3)
    finally:
        if prober is not None:
            prober.terminate()
            prober.wait()
        server.send_signal(signal.SIGTERM)
        server.wait()
    return report(windows, array("q", args.delays.read_bytes()))


def main() -> None:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    about = "\n".join(f"  {name:<15}{case.about}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"cases:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file; without one, a tiny random model is made")
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas between")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each case")
    parser.add_argument("--bytes", type=int, default=500_000, help="of each big request, about")
    parser.add_argument("--clients", type=int, default=3, help="that send big requests")
    parser.add_argument("--streams", type=int, default=3, help="clients that stream small answers")
    parser.add_argument("--patience", type=float, default=1.5, help="seconds until a client of a big request leaves")
    parser.add_argument("--n-ctx", type=int, default=524288)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    for name, kind in (("port", int), ("pipe", int), ("delays", Path), ("role", str)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "probe":
        probe(args.pipe)
        return
    if args.role == "serve":
        serve(args)
    args.cases = args.cases.split(",")
    if unknown := [name for name in args.cases if name not in CASES]:
        parser.error(f"there is no case {unknown[0]}; --help lists them")
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            from tests.gguf_models import write_model

            args.model = write_model(
                Path(folder) / "tiny.gguf", n_vocab=32768, n_embd=32, n_layer=1, n_head=1, n_ctx=args.n_ctx, dtype="f16"
            )
        rows = measure(args, Path(folder))
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

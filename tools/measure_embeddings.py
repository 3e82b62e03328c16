#!/usr/bin/env python3
"""Measure embeddings beside llama-server, in alternating rounds on one machine: ratios of requests a second.

python tools/measure_embeddings.py all-MiniLM-L6-v2-q8_0.gguf --llama-server build/bin/llama-server

Two loads: clients that each send one short text after the other, and one request that holds hundreds. Both servers get
the same bytes in a round, and run on the same llama.cpp libraries where their versions agree. Above 1 favours
llamahost. `by processor time` counts what the server's process computed in place of the time that passed: that is
comparable also where other programs take the processor away.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import orjson

from llamahost.bench.client import Target, fetch
from llamahost.bench.servers import (
    ALIAS,
    Server,
    Settings,
    cpu_seconds_of,
    free_port,
    llama_server_command,
    llamahost_command,
    shared_libraries,
    to_its_end,
)
from llamahost.bench.stats import paired_ratios, spread
from llamahost.core.machine import Machine

WORDS = ("river", "stone", "market", "engine", "winter", "harvest", "window", "copper", "garden", "signal", "planet")
TIMEOUT_S = 120.0


def text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))


def body_of(inputs: str | list[str]) -> bytes:
    return orjson.dumps({"model": ALIAS, "input": inputs, "encoding_format": "float"})


async def embed(target: Target, body: bytes) -> None:
    answer = await fetch(target, "POST", "/v1/embeddings", body, timeout_s=TIMEOUT_S)
    if answer.status != 200:
        raise SystemExit(f"{target.url} answers {answer.status}: {answer.body[:200]!r}")


async def many_clients(target: Target, bodies: list[bytes], n_clients: int) -> float:
    """Requests a second with so many clients at once."""
    waiting = iter(bodies)

    async def client() -> None:
        for body in waiting:
            await embed(target, body)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(n_clients)))
    return len(bodies) / (time.perf_counter() - began)


async def one_request(target: Target, body: bytes) -> float:
    """Requests a second, of the one."""
    began = time.perf_counter()
    await embed(target, body)
    return 1.0 / (time.perf_counter() - began)


def processor_s(server: Server) -> float:
    """Seconds that the process has computed."""
    assert server.pid is not None
    found = cpu_seconds_of(server.pid)
    assert found is not None, "the system does not tell"
    return found


async def measure(ours: Server, theirs: Server | None, given: argparse.Namespace) -> None:
    servers = [ours] if theirs is None else [ours, theirs]
    for server in servers:
        await server.wait_until_ready("/v1/embeddings", body_of("warm"), timeout_s=TIMEOUT_S)
    rates: dict[str, dict[str, list[float | None]]] = {}
    began, round_s = time.monotonic(), 0.0
    for number in range(-1, given.rounds):  # the first is not counted
        if number > 0 and time.monotonic() - began + round_s > given.seconds:
            break
        round_s = -time.monotonic()
        rng = random.Random(number)  # the same texts for both, new ones in each round
        bodies = [body_of(text(rng, given.words)) for _ in range(given.requests)]
        large = body_of([text(rng, given.words) for _ in range(given.inputs)])
        for server in servers if number % 2 else servers[::-1]:
            at = [processor_s(server)]
            many = await many_clients(server.target, bodies, given.clients)
            at.append(processor_s(server))
            one = await one_request(server.target, large)
            at.append(processor_s(server))
            loads = (f"{given.clients} clients, one text each", f"one request of {given.inputs} texts")
            by_processor = (len(bodies) / (at[1] - at[0]), 1 / (at[2] - at[1]))
            found = dict(zip(loads, (many, one), strict=True))
            found |= {f"{load}, by processor time": rate for load, rate in zip(loads, by_processor, strict=True)}
            for load, rate in found.items() if number >= 0 else ():
                rates.setdefault(load, {}).setdefault(server.name, []).append(rate)
        round_s += time.monotonic()
    for load, by_server in rates.items():
        for name, values in by_server.items():
            told = spread([value for value in values if value])
            assert told is not None
            print(f"{load:52} {name:14} {told.median:9.2f} requests/s  ({told.low:.2f} to {told.high:.2f})")
        if theirs is not None:
            ratio = spread(paired_ratios(by_server[ours.name], by_server[theirs.name], more_is_better=True))
            assert ratio is not None
            print(f"{load:52} {'ratio':14} {ratio.median:9.2f}             ({ratio.low:.2f} to {ratio.high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an embedding model")
    parser.add_argument("--llama-server", type=Path, help="its binary; without, llamahost alone is measured")
    parser.add_argument("--llama-server-args", default="", help="more flags for it")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=320, help="of all clients together, a round")
    parser.add_argument("--inputs", type=int, default=512, help="of the one large request")
    parser.add_argument("--words", type=int, default=24, help="of a text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=90.0, help="no round begins that would end later; one does")
    parser.add_argument("--threads", type=int, default=Machine.read().n_threads)
    given = parser.parse_args()
    settings = Settings(model=given.model, n_ctx=512, n_slots=given.clients, n_threads=given.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = Path(folder)
        manifest = logs / "model_manifest.toml"
        entries = {"name": ALIAS, "path": str(given.model.resolve()), "n_threads": given.threads}
        lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in entries.items()]
        manifest.write_text("\n".join(["[[models]]", *lines, ""]), encoding="utf-8")
        port = free_port()
        ours = stack.enter_context(Server("llamahost", llamahost_command(manifest, port), port, logs / "ours.log"))
        theirs: Server | None = None
        if given.llama_server is not None:
            port = free_port()
            extra = f"--embeddings {given.llama_server_args}"
            command = llama_server_command(given.llama_server, settings, port, kv_layout="unified", extra=extra)
            libraries = shared_libraries(given.llama_server)
            theirs = stack.enter_context(
                Server("llama-server", command, port, logs / "theirs.log", libraries=libraries)
            )
        asyncio.run(to_its_end(measure(ours, theirs, given)))


if __name__ == "__main__":
    main()

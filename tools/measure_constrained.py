#!/usr/bin/env python3
"""Measure answers held to a JSON schema beside free ones, here and in llama-server: ratios of tokens a second.

python tools/make_model.py v152k.gguf --vocab 151936
python tools/measure_constrained.py v152k.gguf --llama-server build/bin/llama-server

The schema is a nested object of six fields. In a round every server does each load once, in turn:

    free, held          so many clients at once, each with one answer after the other
    beside free, held   half of the clients ask for free answers; the others for free ones, or for held ones. The rate
                        is that of the first half. llamahost alone: no figure of ours is compared with it
    first free, known, new   one client: milliseconds to the first text, with no schema, one that was seen before, and
                        one that was never seen

Rates are tokens a second by the servers' own counts. A ratio is of two figures of one round. By default it takes
less than two minutes on two cores, most of them llama-server's; `measure_held.py` tells what a schema costs in time of
the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from llamahost.bench.client import Outcome, Target, stream
from llamahost.bench.servers import (
    ALIAS,
    Server,
    Settings,
    free_port,
    llama_server_command,
    llamahost_command,
    llamahost_manifest,
    shared_libraries,
    to_its_end,
)
from llamahost.bench.stats import paired_ratios, spread
from llamahost.core.machine import Machine

WORDS = ("river", "stone", "market", "engine", "winter", "harvest", "window", "copper", "garden", "signal", "planet")
PATH = "/v1/completions"
TIMEOUT_S = 300.0
N_FIRST = 5
"""Requests of which the time to the first text is the median, in a round."""

N_SHORT = 4
"""Tokens of their answers."""

N_HELD = 128
"""Of an answer that is held, at most: most end by themselves, unless they are written over many lines."""


def schema(name: str = "person") -> dict[str, Any]:
    """An order: strings, numbers, choices and a list, two deep."""
    address = {
        "type": "object",
        "properties": {"street": {"type": "string", "maxLength": 20}, "town": {"type": "string", "maxLength": 12}},
        "required": ["street", "town"],
        "additionalProperties": False,
    }
    properties = {
        name: {"type": "string", "maxLength": 16},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "status": {"enum": ["new", "active", "closed"]},
        "address": address,
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3},
        "is_member": {"type": "boolean"},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


class Bodies:
    """New prompts, drawn with a seed: equal for all servers in a round."""

    def __init__(self, seed: int, temperature: float, n_tokens: int) -> None:
        self._rng = random.Random(seed)
        self._common = {
            "model": ALIAS,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._n_tokens = n_tokens

    def free(self) -> bytes:
        return self._body({"ignore_eos": True, "max_tokens": self._n_tokens})

    def held(self, name: str = "person", n_tokens: int = N_HELD) -> bytes:
        return self._body({"max_tokens": n_tokens, "json_schema": schema(name)})

    def short(self) -> bytes:
        return self._body({"ignore_eos": True, "max_tokens": N_SHORT})

    def _body(self, more: dict[str, Any]) -> bytes:
        prompt = " ".join(self._rng.choices(WORDS, k=24))
        seed = self._rng.randrange(2**31)
        return orjson.dumps({**self._common, "prompt": prompt, "seed": seed, **more})


async def ask(target: Target, body: bytes) -> Outcome:
    outcome = await stream(target, PATH, body, timeout_s=TIMEOUT_S)
    if outcome.error:
        raise SystemExit(f"{target.url}: {outcome.error} {outcome.detail}")
    return outcome


async def rate(target: Target, bodies: list[bytes], n_clients: int) -> tuple[float, float]:
    """Tokens a second of these requests, and tokens an answer."""
    waiting = iter(bodies)
    counts: list[int] = []

    async def client(mine: Iterator[bytes]) -> None:
        for body in mine:
            outcome = await ask(target, body)
            counts.append(outcome.n_generated)

    began = time.perf_counter()
    await asyncio.gather(*(client(waiting) for _ in range(n_clients)))
    return sum(counts) / (time.perf_counter() - began), sum(counts) / len(counts)


async def rate_beside(target: Target, bodies: list[bytes], others: Iterator[bytes], n_clients: int) -> float:
    """The same, while as many clients send others without end."""

    is_over = asyncio.Event()

    async def disturb() -> None:
        while not is_over.is_set():
            await ask(target, next(others))

    async with asyncio.TaskGroup() as group:
        for _ in range(n_clients):
            group.create_task(disturb())
        found, _ = await rate(target, bodies, n_clients)
        is_over.set()
    return found


async def first_ms(target: Target, bodies: list[bytes]) -> float:
    found = sorted([(await ask(target, body)).first_s or 0.0 for body in bodies])
    return 1e3 * found[len(found) // 2]


async def one_round(target: Target, number: int, given: argparse.Namespace, *, is_ours: bool) -> dict[str, float]:
    bodies = Bodies(number, given.temperature, given.tokens)
    n, half = given.requests, given.clients // 2
    free, _ = await rate(target, [bodies.free() for _ in range(n)], given.clients)
    held, n_tokens = await rate(target, [bodies.held() for _ in range(n)], given.clients)
    found = {"free": free, "held": held, "tokens a held answer": n_tokens}
    if half and is_ours and not given.quick:
        for name, other in (("free", bodies.free), ("held", bodies.held)):
            others = (other() for _ in itertools.count())
            found[f"beside {name}"] = await rate_beside(target, [bodies.free() for _ in range(n // 2)], others, half)
    names = [f"field_{number}_{k}" for k in range(N_FIRST)]
    found["first free, ms"] = await first_ms(target, [bodies.short() for _ in names])
    found["first known, ms"] = await first_ms(target, [bodies.held(n_tokens=N_SHORT) for _ in names])
    found["first new, ms"] = await first_ms(target, [bodies.held(name, N_SHORT) for name in names])
    return found


def tell(name: str, figures: list[float]) -> None:
    told = spread(figures)
    assert told is not None
    print(f"{name:52} {told.median:9.2f}  ({told.q1:.2f} - {told.q3:.2f})")


def tell_ratio(name: str, rounds: list[dict[str, float]], above: str, below: str) -> None:
    if above in rounds[0] and below in rounds[0]:
        tell(name, paired_ratios([r[above] for r in rounds], [r[below] for r in rounds], more_is_better=True))


async def measure(servers: list[Server], given: argparse.Namespace) -> None:
    warm = Bodies(-1, given.temperature, 8)
    for server in servers:
        await server.wait_until_ready(PATH, warm.free(), timeout_s=TIMEOUT_S)
        await ask(server.target, warm.held(n_tokens=N_SHORT))
    rounds: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for number in range(given.rounds):
        for server in servers[::-1] if number % 2 else servers:
            found = await one_round(server.target, number, given, is_ours=server is servers[0])
            rounds[server.name].append(found)
    for server in servers:
        mine = rounds[server.name]
        for load in mine[0]:
            tell(f"{server.name}: {load}", [found[load] for found in mine])
        tell_ratio(f"{server.name}: held / free", mine, "held", "free")
        tell_ratio(f"{server.name}: free beside held / beside free", mine, "beside held", "beside free")
        for kind in ("known", "new"):
            added = [found[f"first {kind}, ms"] - found["first free, ms"] for found in mine]
            tell(f"{server.name}: a {kind} schema adds to the first text, ms", added)
    if len(servers) == 2:
        ours, theirs = (rounds[server.name] for server in servers)
        for load in ("free", "held"):
            ratios = paired_ratios([r[load] for r in ours], [r[load] for r in theirs], more_is_better=True)
            tell(f"{servers[0].name} / {servers[1].name}: {load}", ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", type=Path, help="its binary; without, llamahost alone is measured")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=8, help="of all clients together, a load")
    parser.add_argument("--tokens", type=int, default=64, help="of a free answer")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=Machine.read().n_threads)
    parser.add_argument("--quick", action="store_true", help="leave out what is beside other answers")
    given = parser.parse_args()
    settings = Settings(model=given.model.resolve(), n_ctx=1024, n_slots=given.clients, n_threads=given.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = Path(folder)
        manifest = logs / "model_manifest.toml"
        manifest.write_text(llamahost_manifest(settings, kv_layout="unified"), encoding="utf-8")
        port = free_port()
        servers = [stack.enter_context(Server("llamahost", llamahost_command(manifest, port), port, logs / "ours.log"))]
        if given.llama_server is not None:
            port = free_port()
            command = llama_server_command(given.llama_server, settings, port, kv_layout="unified")
            libraries = shared_libraries(given.llama_server)
            servers.append(
                stack.enter_context(Server("llama-server", command, port, logs / "theirs.log", libraries=libraries))
            )
        asyncio.run(to_its_end(measure(servers, given)))


if __name__ == "__main__":
    main()

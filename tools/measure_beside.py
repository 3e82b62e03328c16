#!/usr/bin/env python3
"""Measure what chat loses beside embeddings on one server and device, and embeddings beside chat.

python tools/measure_beside.py chat.gguf all-MiniLM-L6-v2-q8_0.gguf

Rounds alternate: streams of the chat model alone, clients of the embedding model alone, both at once. A share is the
rate of both at once by that of alone: what the clients see. It is the product of two others, which are told apart:

  of the thread's time that both models' steps had, what this one's had, by what it had of the time when alone: it is
  the worker that decides this, by turns of equal time, so half is the fair share, and more is what the other leaves
  what is computed in a second of its steps, by that when alone: less than 1 where others have the cores meanwhile, such
  as the server's own loop and these clients, or where less is batched, which no order of the steps can give back
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from llamahost.bench.client import Target, fetch
from llamahost.bench.servers import Server, cpu_seconds_of, free_port, llamahost_command, to_its_end
from llamahost.bench.stats import Spread, paired_ratios, spread
from llamahost.core.machine import Machine

TIMEOUT_S = 300.0
FAIR_SHARE = 0.5
WORDS = ("river", "stone", "market", "engine", "winter", "harvest", "window", "copper", "garden", "signal", "planet")
MODELS = {"chat": "tokens", "embeddings": "texts"}
"""Names under which they are served, and what their rates count."""

_STEPS = re.compile(r'^llamahost_step_seconds_total\{model="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Seen:
    """One model in one phase: what its clients got, and what its steps had of the thread, both a second."""

    rate: float
    had: float


@dataclass(frozen=True, slots=True)
class Phase:
    """Of one or both models, and what these clients and the server's loop took of a core."""

    of: dict[str, Seen]
    clients: float
    loop: float


def text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))


async def ask(target: Target, path: str, body: dict[str, object]) -> None:
    answer = await fetch(target, "POST", path, orjson.dumps(body), timeout_s=TIMEOUT_S)
    if answer.status != 200:
        raise SystemExit(f"{path} answers {answer.status}: {answer.body[:200]!r}")


async def steps_of(target: Target) -> dict[str, float]:
    """Seconds that each model's steps have had."""
    answer = await fetch(target, "GET", "/metrics", timeout_s=TIMEOUT_S)
    return {name: float(value) for name, value in _STEPS.findall(answer.body.decode())}


def loop_of(server: Server) -> float:
    """Seconds that the thread of its loop has had."""
    assert server.pid is not None
    return cpu_seconds_of(server.pid, is_main_thread_alone=True) or 0.0


async def chat(target: Target, rng: random.Random, given: argparse.Namespace) -> None:
    """All streams, from their prompts to their ends."""
    bodies: list[dict[str, object]] = [
        {
            "model": "chat",
            "prompt": text(rng, 16),
            "max_tokens": given.tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        for _ in range(given.streams)
    ]
    await asyncio.gather(*(ask(target, "/v1/completions", body) for body in bodies))


class Embedding:
    """Clients that go on until they are told: one text after the other."""

    def __init__(self, target: Target, rng: random.Random, given: argparse.Namespace) -> None:
        self.n_texts = 0
        self.is_under_way = asyncio.Event()
        self._is_over = False
        self._target = target
        self._rng = rng
        self._n_words = given.words
        self._clients = [asyncio.create_task(self._client()) for _ in range(given.clients)]

    async def stop(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._clients)

    async def _client(self) -> None:
        while not self._is_over:
            await ask(self._target, "/v1/embeddings", {"model": "embeddings", "input": text(self._rng, self._n_words)})
            self.n_texts += 1
            self.is_under_way.set()


async def phase(server: Server, seed: int, given: argparse.Namespace, *, has_chat: bool, has_embeddings: bool) -> Phase:
    """From when embeddings are under way to the end of the streams; without any, for so many seconds."""
    rng, target = random.Random(seed), server.target
    embedding = Embedding(target, rng, given) if has_embeddings else None
    if embedding is not None:
        await embedding.is_under_way.wait()
    n_texts = embedding.n_texts if embedding else 0
    before, client_s, loop_s, began = await steps_of(target), time.process_time(), loop_of(server), time.perf_counter()
    await (chat(target, rng, given) if has_chat else asyncio.sleep(given.alone_s))
    wall_s = time.perf_counter() - began
    client_s, loop_s = time.process_time() - client_s, loop_of(server) - loop_s
    n_texts = embedding.n_texts - n_texts if embedding else 0
    after = await steps_of(target)
    if embedding is not None:
        await embedding.stop()
    counts = {"chat": given.streams * given.tokens if has_chat else 0, "embeddings": n_texts}
    of = {name: Seen(n / wall_s, (after[name] - before[name]) / wall_s) for name, n in counts.items() if n}
    return Phase(of, client_s / wall_s, loop_s / wall_s)


def ratio(values: Sequence[float], others: Sequence[float]) -> Spread:
    found = spread(paired_ratios(values, others, more_is_better=True))
    assert found is not None
    return found


def median(values: Sequence[float]) -> float:
    found = spread(values)
    assert found is not None
    return found.median


def told(found: Spread) -> str:
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def report(alone: dict[str, list[Phase]], both: list[Phase]) -> None:
    for name, unit in MODELS.items():
        by_itself = [each.of[name] for each in alone[name]]
        at_once = [each.of[name] for each in both]
        rates = [[each.rate for each in phases] for phases in (at_once, by_itself)]
        speeds = [[each.rate / each.had for each in phases] for phases in (at_once, by_itself)]
        of_all = ratio([each.had for each in at_once], [sum(seen.had for seen in each.of.values()) for each in both])
        print(
            f"{name:11} alone {median(rates[1]):8.1f} {unit}/s, both at once {median(rates[0]):8.1f}; "
            f"share {told(ratio(rates[0], rates[1]))}, fair is {FAIR_SHARE:.2f}\n"
            f"{'':11} of the steps' time {told(of_all)}; of all time {median([each.had for each in at_once]):.2f}, "
            f"alone {median([each.had for each in by_itself]):.2f}; "
            f"{unit} in a second of its steps, by alone: {told(ratio(speeds[0], speeds[1]))}"
        )
    for name, phases in (("chat alone", alone["chat"]), ("embeddings alone", alone["embeddings"]), ("both", both)):
        clients, loop = median([each.clients for each in phases]), median([each.loop for each in phases])
        print(f"{name}: these clients took {clients:.2f} of a core, the server's loop {loop:.2f}")


async def measure(server: Server, given: argparse.Namespace) -> None:
    warm = orjson.dumps({"model": "chat", "prompt": "a", "max_tokens": 1})
    await server.wait_until_ready("/v1/completions", warm, timeout_s=TIMEOUT_S)
    await server.wait_until_ready("/v1/embeddings", orjson.dumps({"model": "embeddings", "input": "a"}), timeout_s=60.0)
    alone: dict[str, list[Phase]] = {name: [] for name in MODELS}
    both: list[Phase] = []
    began, round_s = time.monotonic(), 0.0
    for number in range(-1, given.rounds):  # the first is not counted
        if number > 0 and time.monotonic() - began + round_s > given.seconds:
            break
        round_s = -time.monotonic()
        streams = await phase(server, number, given, has_chat=True, has_embeddings=False)
        texts = await phase(server, number, given, has_chat=False, has_embeddings=True)
        at_once = await phase(server, number, given, has_chat=True, has_embeddings=True)
        if number >= 0:
            alone["chat"].append(streams)
            alone["embeddings"].append(texts)
            both.append(at_once)
        round_s += time.monotonic()
    report(alone, both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chat", type=Path, help="a model that generates")
    parser.add_argument("embedder", type=Path, help="an embedding model")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160, help="of each stream")
    parser.add_argument("--clients", type=int, default=4, help="of embeddings, one text after the other")
    parser.add_argument("--words", type=int, default=24, help="of a text")
    parser.add_argument("--alone-s", type=float, default=3.0, help="for which embeddings run alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=90.0, help="no round begins that would end later; one does")
    parser.add_argument("--threads", type=int, default=Machine.read().n_threads)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "model_manifest.toml"
        lines: list[str] = []
        for name, path in (("chat", given.chat), ("embeddings", given.embedder)):
            values: dict[str, object] = {"name": name, "path": str(path.resolve()), "n_threads": given.threads}
            values |= {"n_ctx": 256, "n_slots": given.streams} if name == "chat" else {}
            lines += ["[[models]]", *(f"{key} = {orjson.dumps(value).decode()}" for key, value in values.items())]
        manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")
        port = free_port()
        with Server("llamahost", llamahost_command(manifest, port), port, Path(folder) / "log") as server:
            asyncio.run(to_its_end(measure(server, given)))


if __name__ == "__main__":
    main()

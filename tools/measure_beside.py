#!/usr/bin/env python3
"""Measure what chat loses beside embeddings on one server and device, and embeddings beside chat.

python tools/measure_beside.py chat.gguf all-MiniLM-L6-v2-q8_0.gguf

Rounds alternate: streams of the chat model alone, clients of the embedding model alone, both at once. A share is the
rate of both at once by that of alone. Both models are stepped by one thread, by turns of equal time, so half is the
fair share, and more is what the other leaves. Less can be what the clients take, where they have no core to themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from llamahost.bench.client import Target, fetch
from llamahost.bench.servers import Server, free_port, llamahost_command
from llamahost.bench.stats import paired_ratios, spread
from llamahost.core.machine import Machine

TIMEOUT_S = 300.0
FAIR_SHARE = 0.5
WORDS = ("river", "stone", "market", "engine", "winter", "harvest", "window", "copper", "garden", "signal", "planet")


def text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))


async def ask(target: Target, path: str, body: dict[str, object]) -> None:
    answer = await fetch(target, "POST", path, orjson.dumps(body), timeout_s=TIMEOUT_S)
    if answer.status != 200:
        raise SystemExit(f"{path} answers {answer.status}: {answer.body[:200]!r}")


async def chat(target: Target, rng: random.Random, given: argparse.Namespace) -> float:
    """Tokens a second of all streams together."""
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
    began = time.perf_counter()
    await asyncio.gather(*(ask(target, "/v1/completions", body) for body in bodies))
    return float(given.streams * given.tokens) / (time.perf_counter() - began)


async def embed(target: Target, rng: random.Random, given: argparse.Namespace, until: Callable[[], bool]) -> float:
    """Texts a second, of clients that go on until they are told."""
    n_texts = 0

    async def client() -> None:
        nonlocal n_texts
        while not until():
            await ask(target, "/v1/embeddings", {"model": "embedder", "input": text(rng, given.words)})
            n_texts += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(given.clients)))
    return n_texts / (time.perf_counter() - began)


async def both(target: Target, rng: random.Random, given: argparse.Namespace) -> tuple[float, float]:
    """Tokens a second while embeddings run, and texts a second meanwhile."""
    is_over = False
    embedding: Awaitable[float] = asyncio.create_task(embed(target, rng, given, lambda: is_over))
    tokens = await chat(target, rng, given)
    is_over = True
    return tokens, await embedding


async def measure(server: Server, given: argparse.Namespace) -> None:
    warm = orjson.dumps({"model": "chat", "prompt": "a", "max_tokens": 1})
    await server.wait_until_ready("/v1/completions", warm, timeout_s=TIMEOUT_S)
    await server.wait_until_ready("/v1/embeddings", orjson.dumps({"model": "embedder", "input": "a"}), timeout_s=60.0)
    rates: dict[str, list[float | None]] = {"chat alone": [], "chat": [], "embeddings alone": [], "embeddings": []}
    began, round_s = time.monotonic(), 0.0
    for number in range(-1, given.rounds):  # the first is not counted
        if number > 0 and time.monotonic() - began + round_s > given.seconds:
            break
        round_s = -time.monotonic()
        rng = random.Random(number)
        alone = await chat(server.target, rng, given)
        ends = time.perf_counter() + given.alone_s
        texts = await embed(server.target, rng, given, lambda ends=ends: time.perf_counter() > ends)  # type: ignore[misc]  # mypy infers no lambda with a default
        beside, meanwhile = await both(server.target, rng, given)
        for name, rate in zip(rates, (alone, beside, texts, meanwhile), strict=True) if number >= 0 else ():
            rates[name].append(rate)
        round_s += time.monotonic()
    for kind, unit in (("chat", "tokens/s"), ("embeddings", "texts/s")):
        at_once, by_itself = rates[kind], rates[f"{kind} alone"]
        share = spread(paired_ratios(at_once, by_itself, more_is_better=True))
        told = [spread([rate for rate in each if rate]) for each in (by_itself, at_once)]
        assert share is not None
        assert told[0] is not None
        assert told[1] is not None
        print(
            f"{kind:11} alone {told[0].median:8.1f} {unit}, both at once {told[1].median:8.1f}; "
            f"share {share.median:.2f} ({share.low:.2f} to {share.high:.2f}), fair is {FAIR_SHARE:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chat", type=Path, help="a model that generates")
    parser.add_argument("embedder", type=Path, help="an embedding model")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
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
        for name, path in (("chat", given.chat), ("embedder", given.embedder)):
            values: dict[str, object] = {"name": name, "path": str(path.resolve()), "n_threads": given.threads}
            values |= {"n_ctx": 256, "n_slots": given.streams} if name == "chat" else {}
            lines += ["[[models]]", *(f"{key} = {orjson.dumps(value).decode()}" for key, value in values.items())]
        manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")
        port = free_port()
        with Server("llamahost", llamahost_command(manifest, port), port, Path(folder) / "log") as server:
            asyncio.run(measure(server, given))


if __name__ == "__main__":
    main()

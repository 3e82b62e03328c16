"""Everything at once, at random, on a real server: requests of all kinds, clients that leave and dawdle, models that
evict each other, manifests that change under it. Then, in the quiet: is all as it was?

    python -m tools.soak                          # one round of a minute, from seed 0
    python -m tools.soak --seed 7 --rounds 4 --seconds 30 --devices 2 --keep

Laws. Every response is a valid answer of its dialect, in time, with a status that is documented; answers that are known
alone are the same beside others; memory is never over-committed. After each round nothing is in flight, the counters
say what the clients saw, no task, thread or file is left behind, and what is asked again is answered as before. At
the end SIGTERM ends it well, and its log holds no traceback. Prints what was driven, and leaves with 1 if a law broke.

Seeds give the same requests, not the same interleaving.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tools.soak.answers import said_of
from tools.soak.asks import CHAT, CLOSE, Probe, probes
from tools.soak.clients import Crowd, Toll
from tools.soak.house import DRAIN_S, HOST_BYTES, House
from tools.soak.process import Server, Standing
from tools.soak.wire import Response

QUIET_S = 60.0
POOLS = re.compile(r"(prepare|prepare-large|read|uvloop|sampling)_\d$")  # threads that come when first needed, and stay
MODELS = ("chat", "embed", "llama", "swa", "hybrid", "recurrent", "rank")


async def learn(crowd: Crowd, known: list[Probe]) -> None:
    """Ask each alone: of a text as much is known as is sure, whatever it is computed beside."""
    for probe in known:
        body = {**probe.body, "model": probe.model}
        if probe.path == CHAT:
            body |= {"logprobs": True, "top_logprobs": 2}
        status, told = await crowd.ask("POST", probe.path, body)
        assert status == 200, (probe, status, told)
        if probe.path == "/v1/embeddings":
            probe.numbers = told["data"][0]["embedding"]
        elif probe.path == "/v1/rerank":
            scores = {each["index"]: each["relevance_score"] for each in told["results"]}
            probe.numbers = [scores[k] for k in range(len(scores))]
        else:
            probe.begins = _sure(told)


def _sure(told: object) -> str:
    import orjson

    (said,), _ = said_of(Response(200, {}, orjson.dumps(told)), is_chat=True, is_stream=False, n=1)
    text = ""
    for token, margin in zip(said.tokens, said.margins, strict=True):
        if margin < CLOSE:
            break
        text += token
    is_whole = all(margin >= CLOSE for margin in said.margins)
    # A token may be a part of a character, or not shown at all.
    return said.text if is_whole else text if said.text.startswith(text) and "�" not in text else ""


async def until_idle(crowd: Crowd) -> None:
    """Nobody is in flight, nothing waits, and nothing loads or leaves."""
    began = time.monotonic()
    while True:
        _, told = await crowd.ask("GET", "/api/models")
        _, stats = await crowd.ask("GET", "/api/stats")
        busy = {
            model["id"]: {
                key: model[key] for key in ("n_in_flight", "n_pending", "n_running", "n_waiting") if model[key]
            }
            for model in told["models"]
        }
        busy = {name: each for name, each in busy.items() if each}
        if stats["activeConnections"]:
            busy["connections"] = stats["activeConnections"]
        if not busy and all(model["state"] in ("unloaded", "ready", "failed") for model in told["models"]):
            return
        if time.monotonic() - began > QUIET_S:
            crowd.toll.breaks(f"not idle after {QUIET_S:g} s: {busy} {[(m['id'], m['state']) for m in told['models']]}")
            return
        await asyncio.sleep(0.2)


async def quiet(crowd: Crowd, house: House, server: Server, known: list[Probe]) -> Standing:
    """All at rest, and asked for once more; then unloaded, and measured."""
    await until_idle(crowd)
    house.write()
    status, told = await crowd.ask("POST", "/api/reload")
    if status != 200:
        crowd.toll.breaks(f"reload of the plain manifest -> {status} {told}")
    await asyncio.sleep(3.2)  # breakers, and what failed by chance, are asked again
    for model in MODELS:
        status, told = await crowd.ask("POST", f"/api/models/{model}/load", {})
        if status != 200:
            crowd.toll.breaks(f"load {model} in the quiet -> {status} {told}")
        for probe in [each for each in known if each.model.partition(":")[0] == model]:
            status, told = await crowd.ask("POST", probe.path, {**probe.body, "model": probe.model})
            if status != 200:
                crowd.toll.breaks(f"in the quiet: {probe.model} {probe.body} -> {status} {told!r:.300}")
            elif probe.begins and not told["choices"][0]["message"]["content"].startswith(probe.begins):
                said = told["choices"][0]["message"]["content"]
                crowd.toll.breaks(f"in the quiet: {probe.model} {probe.body} says {said!r}, not {probe.begins!r}")
    for model in MODELS:
        await crowd.ask("POST", f"/api/models/{model}/unload", {})
    await until_idle(crowd)
    _, told = await crowd.ask("GET", "/api/models")
    for model in told["models"]:
        if model["replicas"] or model["memory_bytes"] or model["n_cells_used"]:
            crowd.toll.breaks(f"{model['id']} was unloaded, and has {model}")
    status, _ = await crowd.ask("GET", "/health")
    if status != 200:
        crowd.toll.breaks(f"/health -> {status}")
    await counted(crowd)
    await asyncio.sleep(1.0)  # for connections that were aborted
    return await server.standing()


async def counted(crowd: Crowd) -> None:
    """What the server says that it answered is what was read."""
    _, text = await crowd.ask("GET", "/metrics")
    toll = crowd.toll
    found = {
        int(status): int(float(n))
        for status, n in re.findall(r'^llamahost_http_responses_total\{status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    }
    seen = {**toll.statuses, 200: toll.statuses[200] - 1}  # this one is counted when it is over
    for status, n in seen.items():
        if not n <= found.get(status, 0) <= n + toll.n_left:
            toll.breaks(f"responses of {status}: {n} were read, {toll.n_left} were left, and it counts {found}")
    if sum(found.values()) > toll.n_sent:
        toll.breaks(f"{toll.n_sent} requests were sent, and it counts {sum(found.values())} responses")
    if found.get(500):
        toll.breaks(f"it counts {found[500]} responses of 500")
    for line in text.splitlines():
        if re.match(r"llamahost_requests_(running|waiting)", line) and not line.endswith(" 0.0"):
            toll.breaks(f"in the quiet: {line}")


def compare(toll: Toll, first: Standing, last: Standing) -> None:
    if last.n_files > first.n_files:
        toll.breaks(f"files: {first.n_files} after the first round, {last.n_files} after the last")
    before, after = ([name for name in each.threads if not POOLS.match(name)] for each in (first, last))
    if len(after) > len(before):
        toll.breaks(f"threads: {before} after the first round, {after} after the last")
    if len(last.tasks) > len(first.tasks):
        toll.breaks(f"tasks: {first.tasks} after the first round, {last.tasks} after the last")


async def soak(args: argparse.Namespace, folder: Path) -> Toll:
    toll = Toll()
    house = House(folder, args.bytes)
    server = Server(house, n_devices=args.devices, device_bytes=args.bytes)
    try:
        server.port = int(server.wait("listens on").rpartition(":")[2])
        server.wait("ready: chat")
        known = probes()
        crowd = Crowd(server.port, house, known, toll, hang_up=server.hang_up, stuck=server.stacks)
        await learn(crowd, known)
        standings = [await quiet(crowd, house, server, known)]
        for k in range(args.rounds):
            await crowd.run(args.seed * 1000 + k, n_clients=args.clients, seconds=args.seconds)
            standings.append(await quiet(crowd, house, server, known))
            now = standings[-1]
            print(
                f"round {k}: {toll.n_sent} requests, {len(toll.broken)} broken; {now.rss_bytes / 1e6:.1f} MB, "
                f"{now.n_files} files, {now.n_threads} threads, {len(now.tasks)} tasks",
                flush=True,
            )
        if len(standings) > 2:
            compare(toll, standings[1], standings[-1])
            grown = {
                name: (n, standings[-1].objects[name])
                for name, n in standings[1].objects.items()
                if standings[-1].objects.get(name, 0) > n * 1.1 + 100
            }
            print(f"objects that grew: {grown}")
        if args.end_busy:
            ending = asyncio.create_task(crowd.run(args.seed, n_clients=args.clients, seconds=DRAIN_S + 30))
            await asyncio.sleep(3.0)
            toll.is_closed = True
            status, took_s = await asyncio.to_thread(server.end, DRAIN_S + 30)
            crowd.stop()
            await asyncio.wait((ending,))
            toll.is_closed = False
        else:
            status, took_s = await asyncio.to_thread(server.end, DRAIN_S + 30)
        print(f"ended with {status} after {took_s:.1f} s")
        if status:
            toll.breaks(f"SIGTERM ended it with {status} after {took_s:.1f} s")
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
    for line in server.loud_lines():
        toll.breaks(f"its log says: {line}")
    return toll


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round, without its quiet")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--devices", type=int, default=0, help="CPUs that pass for cards; 0: the machine's own")
    parser.add_argument("--bytes", type=int, default=HOST_BYTES, help="of memory for models, on each device")
    parser.add_argument("--end-busy", action="store_true", help="SIGTERM comes while clients ask")
    parser.add_argument("--keep", action="store_true", help="the folder, with the log")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    toll = asyncio.run(soak(args, folder))
    for what in ("kinds", "manners", "statuses", "ends", "whys"):
        print(f"{what}: " + ", ".join(f"{name} {n}" for name, n in getattr(toll, what).most_common(40)))
    print(f"{toll.n_sent} requests, {len(toll.broken)} laws broken")
    if args.keep or toll.broken:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if toll.broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Clients at random: they ask, and leave, dawdle and mumble. Checks each answer; knows no process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tools.soak.answers import InStream, error_of, events_of
from tools.soak.asks import Ask, Asks, Probe
from tools.soak.house import KEYS, STALL_S, House
from tools.soak.wire import Connection, Cut, Response, request_bytes

MARGIN_S = 40.0  # beyond a request's own time: others compute on the same core
MANNERS = {"whole": 10, "kept": 5, "cut": 4, "left": 2, "half": 2, "in two": 2, "slow": 3, "pipelined": 2}
ADMIN = {"Authorization": f"Bearer {KEYS[0]}"}


class Toll:
    """What was driven, what came of it, and what broke a law."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.manners: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()  # of whole responses
        self.ends: Counter[str] = Counter()
        self.whys: Counter[str] = Counter()
        self.n_sent = 0  # requests whose head was sent whole
        self.n_left = 0  # of which no whole response was read
        self.broken: list[str] = []
        self.is_closed = False  # the server ends, and whoever asks is refused

    def breaks(self, law: str) -> None:
        if self.is_closed:
            return
        self.broken.append(law)
        print(f"BROKEN: {law}", flush=True)


class Crowd:
    """Owned by the soak: clients of one round, on one server."""

    def __init__(
        self,
        port: int,
        house: House,
        known: list[Probe],
        toll: Toll,
        *,
        hang_up: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        self._port, self._house, self._known, self.toll = port, house, known, toll
        self._hang_up, self._stuck = hang_up, stuck
        self._is_over = asyncio.Event()

    def stop(self) -> None:
        self._is_over.set()

    async def run(self, seed: int, *, n_clients: int, seconds: float, n_admins: int = 1) -> None:
        self._is_over.clear()
        tasks = [asyncio.create_task(self._client(random.Random(f"{seed}/{k}"))) for k in range(n_clients)]
        tasks += [asyncio.create_task(self._admin(random.Random(f"{seed}/admin{k}"))) for k in range(n_admins)]
        tasks.append(asyncio.create_task(self._listener(random.Random(f"{seed}/listener"))))
        over = asyncio.create_task(self._is_over.wait())
        await asyncio.wait((*tasks, over), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self._is_over.set()
        await asyncio.gather(*tasks, over, return_exceptions=self.toll.is_closed)

    async def _client(self, chance: random.Random) -> None:
        asks = Asks(chance, self._known)
        kept: Connection | None = None
        while not self._is_over.is_set():
            ask = asks.draw()
            (manner,) = chance.choices(list(MANNERS), list(MANNERS.values()))
            self.toll.kinds[ask.kind] += 1
            self.toll.manners[manner] += 1
            label = f"{ask.kind} {manner} {ask.path} {(ask.body or b'')[:300]!r}"
            try:
                async with asyncio.timeout(ask.timeout_s * (4 if manner == "pipelined" else 1) + MARGIN_S):
                    kept = await self._do(ask, manner, chance, asks, kept)
            except TimeoutError:
                self._stuck()
                self.toll.breaks(f"no end in time: {label}")
                kept = None
            except Cut as error:
                self.toll.n_left += 1
                self.toll.breaks(f"cut {error}: {label}")
                kept = None
            except ConnectionError as error:
                self.toll.n_left += 1
                self.toll.breaks(f"{type(error).__name__}: {label}")
                kept = None
                await asyncio.sleep(0.5)
        if kept is not None:
            kept.abort()

    async def _do(
        self, ask: Ask, manner: str, chance: random.Random, asks: Asks, kept: Connection | None
    ) -> Connection | None:
        """One request; returns the connection that the next one may use."""
        data = request_bytes(ask.method, ask.path, ask.body, ask.headers)
        if manner == "kept" and kept is not None:
            return await self._kept(ask, data, kept)
        connection = await Connection.open(self._port, is_narrow=manner == "slow")
        keep = False
        try:
            match manner:
                case "cut" | "left":
                    self._sent()
                    await connection.send(data)
                    if manner == "cut":
                        await self._read_some(connection, chance)
                    else:
                        await asyncio.sleep(chance.random() * 0.2)
                    self.toll.n_left += 1
                case "half":
                    n = chance.randrange(len(data))
                    if b"\r\n\r\n" in data[:n]:
                        self._sent()
                        self.toll.n_left += 1
                    await connection.send(data[:n])
                    await asyncio.sleep(chance.choice([0, 0.05, 1.0]))
                case "in two":
                    n = chance.randrange(len(data))
                    await connection.send(data[:n])
                    await asyncio.sleep(chance.choice([0, 0.05, 1.0]))
                    self._sent()
                    await connection.send(data[n:])
                    self._judge(ask, await connection.response())
                case "slow":
                    self._sent()
                    await connection.send(data)
                    pauses = tuple(chance.choice([0.05, 0.5, 2.0, STALL_S + 3]) for _ in range(3))
                    self._judge(ask, await connection.response(pauses=pauses), is_slow=True)
                case "pipelined":
                    await self._pipeline(ask, connection, chance, asks)
                case _:
                    self._sent()
                    await connection.send(data)
                    response = await connection.response()
                    self._judge(ask, response)
                    keep = response.headers.get("connection") != "close"
        finally:
            if not keep or kept is not None:
                connection.abort()
        return connection if keep and kept is None else kept

    async def _kept(self, ask: Ask, data: bytes, kept: Connection) -> Connection | None:
        try:
            await kept.send(data)
            response = await kept.response()
        except BaseException:
            kept.abort()
            raise
        self._sent()
        self._judge(ask, response)
        if response.headers.get("connection") == "close":
            kept.abort()
            return None
        return kept

    async def _pipeline(self, ask: Ask, connection: Connection, chance: random.Random, asks: Asks) -> None:
        each = [ask, *(asks.draw() for _ in range(chance.randrange(1, 3)))]
        self.toll.kinds.update(other.kind for other in each[1:])
        await connection.send(b"".join(request_bytes(a.method, a.path, a.body, a.headers) for a in each))
        n_read = chance.choice([1, len(each), len(each)])
        for k, one in enumerate(each):
            self._sent()
            if k >= n_read:
                self.toll.n_left += 1
                continue
            try:
                response = await connection.response()
            except Cut:
                if k == 0:
                    raise
                self.toll.n_left += 1
                n_read = 0
                continue
            self._judge(one, response)
            if response.headers.get("connection") == "close" or response.was_cut:
                n_read = 0

    def _sent(self) -> None:
        self.toll.n_sent += 1

    async def _read_some(self, connection: Connection, chance: random.Random) -> None:
        left = chance.choice([1, 200, 1000, 5000, 50_000])
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(10 * chance.random()):
                while left > 0 and (data := await connection.reader.read(left)):
                    left -= len(data)

    def _judge(self, ask: Ask, response: Response, *, is_slow: bool = False) -> None:
        """Hold a response to what is documented."""
        toll = self.toll
        if response.was_cut:
            toll.n_left += 1
            toll.ends["cut by the server"] += 1
            if not is_slow:
                toll.breaks(f"a response was cut: {ask.kind} {ask.body!r:.300} {response.body[-200:]!r}")
            return
        toll.statuses[response.status] += 1
        try:
            if response.status not in ask.statuses:
                raise AssertionError(f"status {response.status}")
            if response.status == 200:
                if ask.check is not None:
                    ask.check(response)
                toll.ends["answered"] += 1
            elif ask.path not in ("/health", "/ready"):
                error = error_of(response)
                toll.whys[f"{response.status} {error['message'][:60]}"] += 1
                toll.ends["refused"] += 1
        except InStream as error:
            toll.ends[f"error event: {str(error)[:60]}"] += 1
        except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:
            toll.breaks(
                f"{type(error).__name__}: {error}: {ask.kind} {ask.path} {ask.body!r:.400} -> {response.status} "
                f"{response.headers.get('x-request-id')} {response.body!r:.500}"
            )

    # --- who looks after the server ---

    async def ask(self, method: str, path: str, body: object = None, limit_s: float = 90.0) -> tuple[int, Any]:
        """One plain request of an administrator."""
        data = None if body is None else json.dumps(body).encode()
        connection = await Connection.open(self._port)
        try:
            self._sent()
            async with asyncio.timeout(limit_s):
                await connection.send(request_bytes(method, path, data, ADMIN))
                response = await connection.response()
        except TimeoutError:
            self.toll.n_left += 1
            self._stuck()
            self.toll.breaks(f"no end in time: {method} {path} {body}")
            return 0, None
        except Cut:
            self.toll.n_left += 1
            raise
        finally:
            connection.abort()
        self.toll.statuses[response.status] += 1
        if response.status >= 500 and response.status not in (502, 503, 504):
            self.toll.breaks(f"{method} {path} {body} -> {response.status} {response.body!r:.300}")
        return response.status, response.json() if response.body[:1] in b"{[" else response.body.decode()

    async def _admin(self, chance: random.Random) -> None:
        acts: dict[Callable[[random.Random], Awaitable[None]], int] = {
            self._loads: 4,
            self._unloads: 4,
            self._reloads: 3,
            self._reloads_broken: 2,
            self._adapts: 4,
            self._looks: 3,
        }
        while not self._is_over.is_set():
            (act,) = chance.choices(list(acts), list(acts.values()))
            self.toll.kinds[f"admin{act.__name__}"] += 1
            try:
                await act(chance)
            except (Cut, ConnectionError) as error:
                self.toll.breaks(f"cut {error}: {act.__name__}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), chance.random() * 2)

    def _expect(self, what: str, status: int, told: object, *statuses: int) -> None:
        if status not in statuses and status:
            self.toll.breaks(f"{what} -> {status} {told!r:.400}")

    async def _loads(self, chance: random.Random) -> None:
        model = chance.choice(["chat", "llama", "swa", "hybrid", "recurrent", "embed", "rank", "broken"])
        body: dict[str, Any] = {"wait": chance.random() < 0.5}
        if chance.random() < 0.5:
            body |= chance.choice(
                [{"n_slots": 2}, {"n_slots": 5}, {"n_slots": 0}, {"devices": ["CUDA7"]}, {"n_ctx": 512}]
            )
        if model in ("llama", "swa", "hybrid", "recurrent", "embed", "rank"):
            body.pop("n_ctx", None)
        if chance.random() < 0.2:  # and goes away
            await self._abandons("POST", f"/api/models/{model}/load", body, chance)
            return
        told = await self.ask("POST", f"/api/models/{model}/load", body)
        self._expect(f"load {model} {body}", *told, 200, 202, 400, 404, 503)

    async def _unloads(self, chance: random.Random) -> None:
        model = chance.choice(["chat", "llama", "swa", "hybrid", "recurrent", "embed", "rank", "broken"])
        body = {"wait": chance.random() < 0.5}
        if chance.random() < 0.2:
            await self._abandons("POST", f"/api/models/{model}/unload", body, chance)
            return
        told = await self.ask("POST", f"/api/models/{model}/unload", body)
        self._expect(f"unload {model} {body}", *told, 200, 202, 404)

    async def _abandons(self, method: str, path: str, body: object, chance: random.Random) -> None:
        connection = await Connection.open(self._port)
        self._sent()
        self.toll.n_left += 1
        await connection.send(request_bytes(method, path, json.dumps(body).encode(), ADMIN))
        await asyncio.sleep(chance.random() * 0.1)
        connection.abort()

    async def _reloads(self, chance: random.Random) -> None:
        self._house.write(chance if chance.random() < 0.8 else None)
        if chance.random() < 0.3:
            self._house.touch(chance)
        if chance.random() < 0.4:
            self._hang_up()
            return
        if chance.random() < 0.2:
            await self._abandons("POST", "/api/reload", {}, chance)
            return
        self._expect("reload", *await self.ask("POST", "/api/reload"), 200)

    async def _reloads_broken(self, chance: random.Random) -> None:
        self._house.spoil(chance)
        if chance.random() < 0.4:
            self._hang_up()
            return
        self._expect("reload of what is broken", *await self.ask("POST", "/api/reload"), 400)

    async def _adapts(self, chance: random.Random) -> None:
        name = chance.choice(["late", "later", "no"])
        match chance.randrange(4):
            case 0 | 1:
                body = {"lora_name": name, "lora_path": f"{name}.gguf", "model": "llama"}
                self._expect(f"load {name}", *await self.ask("POST", "/v1/load_lora_adapter", body), 200, 400, 503)
            case 2:
                body = {"lora_name": name, "model": "llama"}
                self._expect(f"unload {name}", *await self.ask("POST", "/v1/unload_lora_adapter", body), 200, 404)
            case _:
                told = await self.ask("GET", "/lora-adapters?model=llama")
                self._expect("adapters", *told, 200)

    async def _looks(self, chance: random.Random) -> None:
        """At memory: what models take is never more than there is."""
        status, told = await self.ask("GET", "/api/models")
        if status == 200:
            self.holds_memory(told["models"])

    def holds_memory(self, models: list[dict[str, Any]]) -> None:
        taken: Counter[str] = Counter()
        for model in models:
            for replica in model["replicas"]:
                memory = replica["measured"] or replica["estimated"]
                if len(replica["devices"]) == 1:
                    taken[replica["devices"][0]] += memory["total_bytes"]
        for device, n in taken.items():
            if (
                n > self._house.host_bytes * 1.1
            ):  # what is loaded for the first time takes a little more than was thought
                each = [
                    (replica["id"], replica["state"], replica["estimated"]["total_bytes"], replica["measured"])
                    for model in models
                    for replica in model["replicas"]
                    if replica["devices"] == [device]
                ]
                self.toll.breaks(f"memory: {device} holds {n} of {self._house.host_bytes}: {each}")

    async def _listener(self, chance: random.Random) -> None:
        """Of events: opens, hears, and drops; one that does not read is ended by the server."""
        while not self._is_over.is_set():
            self.toll.kinds["events"] += 1
            is_deaf = chance.random() < 0.2
            connection = await Connection.open(self._port, is_narrow=is_deaf)
            self._sent()
            self.toll.n_left += 1
            path = "/api/events" + chance.choice(["", "?kinds=model,load", "?kinds=request"])
            try:
                await connection.send(request_bytes("GET", path, None, ADMIN))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_over.wait(), chance.random() * 6)
                if not is_deaf:
                    data = b""
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        async with asyncio.timeout(0.2):
                            while piece := await connection.reader.read(2**16):
                                data += piece
                    head = data.partition(b"\r\n")[0]
                    if data and b" 200 " not in head:
                        self.toll.breaks(f"events -> {head!r}")
            finally:
                connection.abort()


__all__ = ["Crowd", "Toll", "events_of"]

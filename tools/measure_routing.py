#!/usr/bin/env python3
"""Measure where requests go: what a cache keeps of many-turn conversations over replicas, and how even their load is.

    python tools/measure_routing.py --replicas 4 --sessions 24

The schedulers, the choice and its book are the real ones; the devices are simulated, by a clock that each step moves
on by a fixed time and more for each token. So the figures are the same on every machine, but for the last one: what
a choice costs here. Beside the choice by caches: by requests in flight alone, and one replica that has all the slots
and is as fast as all of them together.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import orjson

from llamahost.core.messages import ChatRequest, Message, Text
from llamahost.core.sampling import Sampling
from llamahost.core.work import Emission, Job, Sampled, Tokens
from llamahost.engine.limits import Limits
from llamahost.engine.scheduler import Scheduler
from llamahost.fleet.routing.ledger import NO_ASK, Ask, Ledger
from llamahost.fleet.routing.policy import ReplicaView, choose
from llamahost.fleet.routing.prefixes import chain_of

LETTERS = "etaoinshrdlucmfwypvbgk     "


@dataclass
class Turn:
    tokens: Tokens
    message: Message


@dataclass
class Session:
    """A conversation: what was said, and how long its turns and pauses are."""

    name: str
    words: random.Random
    system: Turn
    n_turns: int
    n_user: int
    n_answer: int
    think_s: float
    turns: list[Turn] = field(default_factory=list)

    def turn(self, role: str, n_tokens: int) -> Turn:
        tokens = array("i", (self.words.randrange(1, 30000) for _ in range(n_tokens)))
        text = "".join(self.words.choices(LETTERS, k=4 * n_tokens))
        return Turn(tokens, Message(role=role, parts=(Text(text),)))  # type: ignore[arg-type] # one of two

    def prompt(self) -> Tokens:
        tokens = self.system.tokens[:]
        for turn in self.turns:
            tokens += turn.tokens
        return tokens

    def request(self) -> ChatRequest:
        return ChatRequest(messages=(self.system.message, *(turn.message for turn in self.turns)))


@dataclass
class Device:
    """One replica: the real scheduler on a device that takes its time."""

    id: str
    n_slots: int
    base_s: float
    token_s: float
    n_ctx: int
    is_stepping: bool = False
    busy_s: float = 0.0
    n_in_flight: int = 0
    answers: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_cells = self.n_ctx * self.n_slots
        self.scheduler = Scheduler(
            Limits(n_ctx=self.n_ctx, n_slots=self.n_slots, n_batch=2048, n_rows=2048, n_cells=n_cells)
        )

    def view(self) -> ReplicaView:
        return ReplicaView(self.n_in_flight, 10**6, id=self.id, n_slots=self.n_slots, n_cells=self.scheduler.n_cells)


@dataclass
class Figures:
    hit_rate: float
    imbalance: float
    mean_s: float
    until_s: float


def simulate(
    sessions: list[Session], devices: list[Device], *, until_s: float, is_aware: bool, tells_session: bool
) -> Figures:
    """All sessions to their end, or to the time given; the first fifth of it does not count."""
    ledger = Ledger()
    order, ids = count(), count(1)
    events: list[tuple[float, int, Callable[[float], None]]] = []
    n_prompt = n_cached = n_lives = 0
    lives_s = 0.0
    busy_at_start = [0.0] * len(devices)
    is_warm = False

    def at(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def step(device: Device, now: float) -> None:
        plan = device.scheduler.plan(now)
        if plan is None:
            device.is_stepping = False
            return
        device.is_stepping = True
        step_s = device.base_s + device.token_s * plan.n_tokens
        device.busy_s += step_s

        def done(then: float) -> None:
            nonlocal n_prompt, n_cached
            sampled = [Sampled(span.job_id, (device.answers[span.job_id].pop(),)) for span in plan.spans if span.n_rows]
            for emission in device.scheduler.commit(plan, sampled, then, step_s):
                if type(emission) is Emission and emission.finish is not None:
                    ends.pop(emission.job_id)(then, emission.n_cached)
            step(device, then)

        at(now + step_s, done)

    ends: dict[int, Callable[[float, int], None]] = {}

    def ask(session: Session, now: float) -> None:
        session.turns.append(session.turn("user", session.n_user))
        prompt, n_answer = session.prompt(), session.n_answer
        views = [device.view() for device in devices]
        if is_aware:
            asked = Ask(
                chain=chain_of(session.request()),
                session=session.name if tells_session else "",
                is_single=len(session.turns) == 1,
            )
            index = ledger.pick(views, asked, now)
        else:
            asked, index = NO_ASK, choose(views)
        assert index is not None
        device, view = devices[index], views[index]
        ticket = ledger.began(view, asked)
        job = Job(id=next(ids), tokens=prompt, n_max=n_answer, sampling=Sampling(temperature=0.0))
        answer = session.turn("assistant", n_answer)
        device.answers[job.id] = answer.tokens.tolist()[::-1]
        device.n_in_flight += 1

        def end(then: float, cached: int) -> None:
            nonlocal n_prompt, n_cached, lives_s, n_lives
            device.n_in_flight -= 1
            ledger.ended(view, ticket, work=then - now, now=then, is_failure=False)
            if is_warm:
                n_prompt += len(prompt)
                n_cached += cached
                lives_s += then - now
                n_lives += 1
            session.turns.append(answer)
            if len(session.turns) >= 2 * session.n_turns:
                session.turns.clear()
                session.name += "'"
            at(then + session.words.expovariate(1 / session.think_s), lambda later: ask(session, later))

        ends[job.id] = end
        device.scheduler.add(job, now)
        if not device.is_stepping:
            step(device, now)

    for session in sessions:
        at(session.words.uniform(0, session.think_s), partial(ask, session))
    now = 0.0
    while events and now < until_s:
        now, _, what = heapq.heappop(events)
        if not is_warm and now > until_s / 5:
            is_warm = True
            busy_at_start = [device.busy_s for device in devices]
        what(now)
    busy = [device.busy_s - start for device, start in zip(devices, busy_at_start, strict=True)]
    mean = sum(busy) / len(busy)
    return Figures(n_cached / max(1, n_prompt), max(busy) / mean, lives_s / max(1, n_lives), now)


def made(args: argparse.Namespace) -> list[Session]:
    """Conversations with one system prompt; a quarter of them say and want four times as much."""
    seed = random.Random(args.seed)
    system = Session("", random.Random(0), None, 0, 0, 0, 0).turn("user", args.system)  # type: ignore[arg-type] # none yet
    sessions = []
    for k in range(args.sessions):
        factor = 4 if args.uneven and k % 4 == 0 else 1
        sessions.append(
            Session(
                name=f"chat-{k}",
                words=random.Random(seed.random()),
                system=system,
                n_turns=seed.randint(3, args.turns),
                n_user=factor * seed.randint(20, 120),
                n_answer=factor * seed.randint(20, 120),
                think_s=args.think,
            )
        )
    return sessions


def cost_of_a_choice(n_replicas: int, n_turns: int, *, goes_on: bool) -> tuple[float, float]:
    """Microseconds of the chain and of the choice for conversations never seen, or of which all but the last turn
    was seen. Each request is read from its body first, as in a server: so Python knows the hash of no string.
    """
    session = Session("s", random.Random(1), None, 0, 0, 0, 0)  # type: ignore[arg-type] # set below
    session.system = session.turn("user", 500)
    bodies: list[tuple[int, bytes]] = []
    for k in range(400):
        turns = [session.system, *(session.turn("user", 60) for _ in range(n_turns))]
        said = [(turn.message.role, turn.message.text) for turn in turns]
        bodies += [(k, orjson.dumps(said[:-2]))] * goes_on + [(k, orjson.dumps(said))]
    ledger = Ledger()
    views = [ReplicaView(0, 100, id=f"m#{k}", n_slots=16) for k in range(n_replicas)]
    chain_s = pick_s = 0.0
    for n, (k, body) in enumerate(bodies):
        request = ChatRequest(
            messages=tuple(Message(role=role, parts=(Text(text),)) for role, text in orjson.loads(body))
        )
        began = time.thread_time()
        chain = chain_of(request)
        chained = time.thread_time()
        asked = Ask(chain=chain, session=f"s{k % 50}")
        index = ledger.pick(views, asked, 0.0)
        assert index is not None
        ticket = ledger.began(views[index], asked)
        ledger.ended(views[index], ticket, work=1.0, now=0.0, is_failure=False)
        ended = time.thread_time()
        idle_s = time.thread_time() - ended  # what asking for the time takes
        if n % 2 or not goes_on:
            chain_s += chained - began - idle_s
            pick_s += ended - chained - idle_s
    return 1e6 * chain_s / (k + 1), 1e6 * pick_s / (k + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--slots", type=int, default=8, help="of each replica")
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--turns", type=int, default=12, help="of a conversation, at most")
    parser.add_argument("--system", type=int, default=100, help="tokens that all conversations begin with")
    parser.add_argument("--think", type=float, default=4.0, help="seconds between an answer and the next question")
    parser.add_argument("--seconds", type=float, default=600.0, help="of simulated time")
    parser.add_argument("--step", type=float, default=0.01, help="seconds of a step")
    parser.add_argument("--token", type=float, default=0.0001, help="seconds for each token of it")
    parser.add_argument("--uneven", action="store_true", help="a quarter of the conversations are four times as heavy")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    def run(n: int, *, is_aware: bool, tells_session: bool = False) -> Figures:
        scale = args.replicas // n
        devices = [Device(f"m#{k}", args.slots * scale, args.step / scale, args.token / scale, 32768) for k in range(n)]
        return simulate(made(args), devices, until_s=args.seconds, is_aware=is_aware, tells_session=tells_session)

    single = run(1, is_aware=True)
    print(f"{'':34}{'hit rate':>9}{'of single':>10}{'max/mean busy':>15}{'answer s':>10}")
    for name, figures in (
        ("one replica with all slots", single),
        ("fewest in flight alone", run(args.replicas, is_aware=False)),
        ("caches", run(args.replicas, is_aware=True)),
        ("caches, sessions named", run(args.replicas, is_aware=True, tells_session=True)),
    ):
        print(
            f"{name:34}{figures.hit_rate:9.3f}{figures.hit_rate / single.hit_rate:10.2f}"
            f"{figures.imbalance:15.2f}{figures.mean_s:10.2f}"
        )
    for n_turns in (1, 10, 40):
        for goes_on in (False, True) if n_turns > 2 else (False,):
            chain_us, pick_us = cost_of_a_choice(args.replicas, n_turns, goes_on=goes_on)
            what = f"{n_turns} turns, {'going on' if goes_on else 'never seen'}"
            print(f"{what}: chain {chain_us:.1f} us, choice {pick_us:.1f} us, both {chain_us + pick_us:.1f} us")


if __name__ == "__main__":
    main()

"""The ledger at random beside a slow one that is plainly right: lists of prompts, looked through for each choice."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llamahost.fleet.routing.ledger import HALF_LIFE_S, Ask, Ledger
from llamahost.fleet.routing.policy import EVEN, GRAIN, NEAR, TURNS, WORTH, ReplicaView
from llamahost.fleet.routing.prefixes import Chain

Prompt = tuple[int, ...]
PIECE, N_SLOTS, N_FAILURES, OPEN_S = 200, 2, 2, 60.0
"""Of a prompt, one number is a piece: what two pieces more are worth counts, one does not."""


def chain_of(prompt: Prompt) -> Chain:
    digests = [hash(prompt[:n]) for n in range(1, len(prompt) + 1)]
    return Chain({digest: PIECE * n for n, digest in enumerate(digests, 1)}, digests[-1], PIECE * len(prompt))


def n_common(one: Prompt, other: Prompt) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass
class Slow:
    """One replica."""

    n_in_flight: int = 0
    is_stalled: bool = False
    epoch: int = 0
    prompts: list[tuple[int, Prompt]] = field(default_factory=list)  # with their turns, the latest behind
    works: list[tuple[float, float]] = field(default_factory=list)  # what was given it, and when
    n_in_row: int = 0
    open_until: float = 0.0

    def work(self, now: float) -> float:
        return float(sum(work * 0.5 ** ((now - at) / HALF_LIFE_S) for at, work in self.works))

    def n_held(self, prompt: Prompt) -> int:
        return max((n_common(prompt, held) for _, held in self.prompts), default=0)

    def begun(self, prompt: Prompt) -> tuple[int, Prompt] | None:
        """What was placed last of those that begin with as much of it as any, if that is all of it."""
        n = self.n_held(prompt)
        last = next((each for each in reversed(self.prompts) if n and each[1][:n] == prompt[:n]), None)
        return last if last is not None and len(last[1]) == n else None

    def place(self, prompt: Prompt, turn: int) -> None:
        begun = self.begun(prompt)
        self.prompts = [*[each for each in self.prompts if each != begun], (turn, prompt)][-N_SLOTS:]

    def lost(self, prompt: Prompt) -> tuple[int, int]:
        """In which turn that was placed which would go for it, -1 where nothing would, and how many pieces that are."""
        if len(self.prompts) < N_SLOTS or self.begun(prompt) is not None:
            return -1, 0
        (turn, oldest), *others = self.prompts
        n_lost = len(oldest) - max(n_common(oldest, each) for each in (*[p for _, p in others], prompt))
        n = self.n_held(prompt)
        branches = [len(each) for _, each in self.prompts if n and each[:n] == prompt[:n]]
        return turn, min([n_lost, *[length - n for length in branches]])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(n_failures=N_FAILURES, open_s=OPEN_S)
        self.slow = [Slow() for _ in range(3)]
        self.homes: dict[str, int] = {}
        self.now, self.turn = 0.0, 0

    def views(self) -> list[ReplicaView]:
        return [
            ReplicaView(s.n_in_flight, 99, id=f"m#{k}", epoch=s.epoch, n_slots=N_SLOTS, is_stalled=s.is_stalled)
            for k, s in enumerate(self.slow)
        ]

    def wanted(self, prompt: Prompt, session: str) -> int:
        slow, now = self.slow, self.now
        able = [
            k for k, s in enumerate(slow) if not s.is_stalled and not (s.n_in_row >= N_FAILURES and now < s.open_until)
        ] or [0, 1, 2]
        fewest = min(slow[k].n_in_flight for k in able)
        limit = EVEN * sum(slow[k].work(now) for k in able) / len(able) + GRAIN
        near = [k for k in able if slow[k].work(now) <= limit and slow[k].n_in_flight - fewest <= NEAR]
        drawn = self.drawn(near, prompt, session) if len(near) > 1 else near or able
        return min(drawn, key=lambda k: (slow[k].n_in_flight, slow[k].work(now), k))

    def drawn(self, near: list[int], prompt: Prompt, session: str) -> list[int]:
        held = {k: PIECE * self.slow[k].n_held(prompt) for k in near}
        n_best, n_by_all = max(held.values()), min(held.values())
        at_home = [k for k in near if k == self.homes.get(session)] or near
        if n_best >= WORTH and (n_best > n_by_all or 2 * n_best >= PIECE * len(prompt)):
            going_on = [k for k in near if held[k] == n_best and self.slow[k].begun(prompt) is not None]
            if len(going_on) == 1:
                return going_on
        if n_best - n_by_all < WORTH:
            return at_home
        lost = {k: self.slow[k].lost(prompt) for k in near}
        oldest = min(at for at, _ in lost.values())
        worth = {
            k: held[k] - (TURNS * PIECE * lost[k][1] if lost[k][0] > oldest and held[k] - n_by_all >= WORTH else 0)
            for k in near
        }
        n_most = max(worth.values())
        if n_most - min(n_by_all, *worth.values()) >= WORTH:
            return [k for k in near if worth[k] > n_most - WORTH]
        return at_home

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple),
        session=st.sampled_from(["", "s", "t"]),
        is_failure=st.sampled_from([False, False, True, None]),
        work=st.sampled_from([0.1, 5.0]),
    )
    def ask(self, prompt: Prompt, session: str, is_failure: bool | None, work: float) -> None:
        views, ask = self.views(), Ask(chain=chain_of(prompt), session=session)
        index = self.ledger.pick(views, ask, self.now)
        assert index == self.wanted(prompt, session)
        ticket = self.ledger.began(views[index], ask)
        self.ledger.ended(views[index], ticket, work=work, now=self.now, is_failure=is_failure)
        self.turn += 1
        slow = self.slow[index]
        slow.place(prompt, self.turn)
        slow.works.append((self.now, work))
        if session:
            self.homes[session] = index
        if is_failure:
            slow.n_in_row = min(slow.n_in_row + 1, N_FAILURES)
            slow.open_until = self.now + OPEN_S
        elif is_failure is not None:
            slow.n_in_row = 0

    @rule(index=st.integers(0, 2), n_in_flight=st.integers(0, 5), is_stalled=st.sampled_from([False, False, True]))
    def is_otherwise(self, index: int, n_in_flight: int, is_stalled: bool) -> None:
        self.slow[index].n_in_flight, self.slow[index].is_stalled = n_in_flight, is_stalled

    @rule(index=st.integers(0, 2))
    def is_loaded_anew(self, index: int) -> None:
        self.slow[index] = Slow(epoch=self.slow[index].epoch + 1)

    @rule(step=st.sampled_from([0.5, 30.0, 61.0]))
    def wait(self, step: float) -> None:
        self.now += step

    @invariant()
    def is_whole(self) -> None:
        for known in self.ledger._known.values():
            known.held.check_integrity()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=30)


@pytest.mark.slow
class TestLedgerLong(LedgerMachine.TestCase):  # type: ignore[misc, valid-type] # made by hypothesis
    settings = settings(max_examples=300, stateful_step_count=60)

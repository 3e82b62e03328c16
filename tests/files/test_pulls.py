"""Laws of pulls that are shared: one for all who ask, ended when the last one leaves, bounded, and closed at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from llamahost.core.errors import Overloaded, PullFailed, Unavailable
from llamahost.files.download import Cancelled, Puller, Step
from llamahost.files.pulls import MAX_AT_ONCE, Pulls
from llamahost.files.repo import Reference
from tests.on_loop import LIMIT_S, on_loop

REFERENCE = Reference("a/b")


@dataclass
class SlowPuller:
    """Says that it begins, goes on when it is let, and ends as it is told."""

    error: Exception | None = None
    go: threading.Event = field(default_factory=threading.Event)
    began: list[Reference] = field(default_factory=list)
    cancelled: list[threading.Event] = field(default_factory=list)

    def pull(self, reference: Reference, on_step: Callable[[Step], None], cancelled: threading.Event) -> None:
        self.began.append(reference)
        self.cancelled.append(cancelled)
        on_step(Step("listing"))
        for n in range(3):
            on_step(Step("pulling", "f", "sha256:1", 3, n))
        assert self.go.wait(LIMIT_S)
        if cancelled.is_set():
            raise Cancelled("cancelled")
        if self.error is not None:
            raise self.error
        on_step(Step("pulling", "f", "sha256:1", 3, 3))
        on_step(Step("done"))


def pulls_of(puller: SlowPuller) -> Pulls:
    return Pulls(lambda: cast("Puller", puller))


async def first(steps: Any, kind: str) -> None:
    async for step in steps:
        if step.kind == kind:
            return


@on_loop
async def test_all_who_ask_share_one_pull_and_each_hears_it_whole() -> None:
    puller = SlowPuller()
    pulls = pulls_of(puller)
    early = pulls.pull(REFERENCE)
    await first(early, "pulling")
    late = pulls.pull(REFERENCE)
    kinds = [(await anext(late)).kind, (await anext(late)).kind]
    assert kinds == ["listing", "pulling"]
    puller.go.set()
    assert [(step.kind, step.n_done) async for step in early][-2:] == [("pulling", 3), ("done", 0)]
    assert [step.kind async for step in late][-1] == "done"
    assert puller.began == [REFERENCE]
    await pulls.ended(LIMIT_S)


@on_loop
async def test_a_pull_ends_when_the_last_one_leaves_and_not_before() -> None:
    puller = SlowPuller()
    pulls = pulls_of(puller)
    one, other = pulls.pull(REFERENCE), pulls.pull(REFERENCE)
    await first(one, "pulling")
    await first(other, "pulling")
    await one.aclose()
    assert not puller.cancelled[0].is_set()
    await other.aclose()
    assert puller.cancelled[0].is_set()
    again = pulls.pull(REFERENCE)  # a new one, which waits for the file's lock
    await anext(again)
    assert len(puller.began) == 2
    puller.go.set()
    assert [step.kind async for step in again][-1] == "done"
    await pulls.ended(LIMIT_S)


@on_loop
async def test_what_goes_wrong_is_told_to_all_and_the_next_one_begins_anew() -> None:
    puller = SlowPuller(PullFailed("no such thing"))
    puller.go.set()
    pulls = pulls_of(puller)
    for _ in range(2):
        with pytest.raises(PullFailed, match="no such thing"):
            await first(pulls.pull(REFERENCE), "done")
    assert len(puller.began) == 2
    await pulls.ended(LIMIT_S)


@on_loop
async def test_so_many_at_once_and_none_after_closing() -> None:
    puller = SlowPuller()
    pulls = pulls_of(puller)
    running = [pulls.pull(Reference(f"a/{k}")) for k in range(MAX_AT_ONCE)]
    await asyncio.gather(*(anext(each) for each in running))
    with pytest.raises(Overloaded):
        await anext(pulls.pull(Reference("a/more")))
    pulls.close()
    for each in running:
        with pytest.raises(Unavailable):
            await first(each, "done")
    with pytest.raises(Unavailable):
        await anext(pulls.pull(REFERENCE))
    assert all(cancelled.is_set() for cancelled in puller.cancelled)
    puller.go.set()
    await pulls.ended(LIMIT_S)

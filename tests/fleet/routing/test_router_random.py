"""Requests at random, to models and routes whose steps fail: each ends once, and nothing is held when all have."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from llamahost.core.errors import BackendError, BackendLost, LlamahostError
from llamahost.core.events import Delta, Finished
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.observe import RequestRecord
from llamahost.fleet.routing.breaker import NOBODY
from llamahost.fleet.settings.manifest import Manifest
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.host import AsyncHost
from tests.fakes import FakeBackend
from tests.fleet.budgeted import BudgetedDevices
from tests.fleet.fakes import FakeLoader, spec_of
from tests.on_loop import on_loop, turns

NAMES = ("a", "b", "first", "parted", "quick", "even", "auto", "", "nobody")
MODELS = ("a", "b")


@pytest.mark.parametrize(
    ("seed", "n_requests"), [(0, 50), *(pytest.param(seed, 300, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_every_request_ends_once_and_every_lease_and_ticket_is_given_back(seed: int, n_requests: int) -> None:
    """Steps that fail, backends that are lost, clients that leave, deadlines, unloads, other manifests."""
    dice = random.Random(seed)
    records: list[RequestRecord] = []
    n_begun = 0

    class Records:
        def finished(self, record: RequestRecord) -> None:
            records.append(record)

    def backend() -> FakeBackend:
        bad = {dice.randrange(400): BackendError("a bad step") for _ in range(dice.choice([0, 3, 30]))}
        if dice.random() < 0.3:
            bad[dice.randrange(200)] = BackendLost("gone")
        return FakeBackend(n_slots=2, failures=bad)

    def manifest() -> Manifest:
        return Manifest(
            models=tuple(spec_of(name, replicas=2, max_queue=dice.choice([0, 4]), load="request") for name in MODELS),
            routes=(
                RouteSpec(name="first", models=MODELS),
                RouteSpec(name="parted", models=MODELS, strategy="split", weights=(1, dice.randrange(3))),
                RouteSpec(name="quick", models=MODELS, strategy="speed"),
                RouteSpec(name="even", models=MODELS, strategy="balanced"),
            ),
        )

    @on_loop
    async def law() -> None:
        devices = BudgetedDevices({"d0": 2**30, "d1": 2**30})
        async with AsyncHost(manifest(), observer=Records(), load=FakeLoader(backend), hardware=devices) as host:

            async def ask() -> None:
                nonlocal n_begun
                n_begun += 1
                generation = Generation(
                    max_tokens=dice.randrange(1, 40),
                    timeout_s=dice.choice([None, None, 0.02]),
                    session_id=dice.choice(["", "s1", "s2"]),
                    priority=dice.choice([0, -1000]),
                )
                request = CompletionRequest(prompts=("abc",), model=dice.choice(NAMES), generation=generation)
                n_left = dice.choice([10**6, 10**6, 1, 3])
                n_tokens = n_ends = 0
                try:
                    async with aclosing(host.complete(request)) as events:
                        async for event in events:
                            assert not n_ends, "nothing comes behind the end"
                            n_tokens += event.n_tokens if isinstance(event, Delta) else 0
                            n_ends += isinstance(event, Finished)
                            n_left -= 1
                            if not n_left:
                                return  # the client leaves
                except LlamahostError:
                    return
                assert n_ends == 1
                assert generation.max_tokens is not None
                assert n_tokens <= generation.max_tokens, "no answer is begun twice"

            asked = []
            for _ in range(n_requests):
                asked.append(asyncio.ensure_future(ask()))
                match dice.randrange(20):
                    case 0:
                        await host.unload(dice.choice(MODELS))
                    case 1:
                        await host.adopt(manifest())
                    case 2 | 3:
                        dice.choice(asked).cancel()
                    case _:
                        await turns(dice.randrange(8))
            for end in await asyncio.gather(*asked, return_exceptions=True):
                assert end is None or isinstance(end, asyncio.CancelledError), end
            assert len(records) == n_begun, "each is told of once"
            for status in host.models():
                assert (status.n_in_flight, status.n_pending) == (0, 0)
                assert all(replica.n_leases == 0 for replica in status.replicas)
            assert all(known.breaker._probe == NOBODY for known in host._router.ledger._known.values())

    law()

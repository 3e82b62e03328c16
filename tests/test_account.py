"""Laws of what is told of a request that is over: how it ended, by what ended it and how far it had come."""

from __future__ import annotations

import asyncio

import pytest

from llamahost.account import Account
from llamahost.core.errors import DeadlineExceeded, InvalidRequest, Overloaded
from tests.on_loop import on_loop


@pytest.mark.parametrize(
    ("error", "has_begun", "outcome", "told"),
    [
        (InvalidRequest("no"), False, "rejected", "InvalidRequest"),
        (Overloaded("full", retry_after_s=1.0), False, "rejected", "Overloaded"),
        (InvalidRequest("no"), True, "error", "InvalidRequest"),
        (DeadlineExceeded(1.0), False, "error", "DeadlineExceeded"),
        (ValueError("nobody foresaw it"), False, "error", "ValueError"),
        (asyncio.CancelledError(), True, "cancelled", ""),
        (GeneratorExit(), True, "cancelled", ""),
    ],
)
@on_loop
async def test_what_ends_a_request_is_told_by_its_kind(
    error: BaseException, has_begun: bool, outcome: str, told: str
) -> None:
    for kind in ("chat", "embedding"):
        account = Account("m", "chat" if kind == "chat" else "embedding")
        if has_begun:
            account.begin(3)
        account.failed(error)
        record = account.record()
        assert (record.kind, record.outcome, record.error, record.n_prompt) == (kind, outcome, told, 3 * has_begun)


@on_loop
async def test_who_leaves_after_the_last_event_has_had_all() -> None:
    account = Account("m", "embedding")
    account.begin(3)
    account.end()
    account.failed(GeneratorExit())
    assert account.record().outcome == "stop"

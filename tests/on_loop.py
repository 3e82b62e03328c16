"""Run an async test on a loop of its own, and see that it leaves no task, no thread and no complaint behind."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

P = ParamSpec("P")

LIMIT_S = 120.0
"""Of whatever is waited for: no measure of speed. What hangs is to end, also where the machine gives the test a
twentieth of a core.
"""


def on_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A plain test function made of an async one."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        threads = set(threading.enumerate())
        asyncio.run(_watched(test(*args, **kwargs)))
        for thread in set(threading.enumerate()) - threads:
            thread.join(LIMIT_S)  # one that has just told its result may still be on its last line
            assert not thread.is_alive(), f"the test left the thread {thread.name}"

    return run


async def _watched(test: Awaitable[None]) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with asyncio.timeout(LIMIT_S):
        await test
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks, f"the test left tasks: {tasks}"
    assert not complaints, f"the loop complained: {complaints}"


async def turns(n: int = 3) -> None:
    """Let the loop take a few turns, so that what is due has happened."""
    for _ in range(n):
        await asyncio.sleep(0)

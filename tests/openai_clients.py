"""A server of a real model, asked by OpenAI's own client.

Importing that takes a second, so a test does it that asks by it: only the process that runs it pays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamahost.api.app import create_app
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import AsyncHost
from llamahost.ops.tally import Tally
from tests.api.sockets import listening
from tests.on_loop import LIMIT_S

if TYPE_CHECKING:
    import openai

Law = Callable[["openai.AsyncOpenAI"], Awaitable[None]]


@asynccontextmanager
async def serving(model: Path, **options: Any) -> AsyncIterator[tuple[int, AsyncHost, Tally]]:
    tally = Tally()
    host = AsyncHost(model, observer=tally, **options)
    async with listening(create_app(host, ServerSettings(), tally=tally)) as port:
        await host.wait_ready()
        yield port, host, tally


def ask(model: Path, law: Law, **options: Any) -> None:
    """Run the law with a client of a server of this model."""
    import openai

    async def bounded() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            serving(model, **options) as (port, _, _),
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
        ):
            await law(client)

    asyncio.run(bounded())

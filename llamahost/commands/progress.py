"""A bar on standard error while something loads, where a person looks at it; nothing where none does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamahost.host import AsyncHost

LOOK_S = 0.1


@contextmanager
def bar(what: str) -> Iterator[Callable[[float], None]]:
    """Call what it gives with the part that is done, in [0, 1], from any thread. The bar is gone at the end."""
    if not sys.stderr.isatty():
        yield lambda fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(f"loading {what}", total=1.0)
        with _logs_above():
            yield lambda fraction: progress.update(task, completed=fraction)


async def watched(host: AsyncHost) -> None:
    """Wait until every model is loaded, with a bar. Raises LoadFailed."""
    import asyncio

    with bar(", ".join(model.name for model in host.models())) as show:
        ready = asyncio.ensure_future(host.wait_ready())
        try:
            while not ready.done():
                await asyncio.wait((ready,), timeout=LOOK_S)
                models = host.models()
                show(sum(model.progress for model in models) / len(models))
            await ready
        finally:
            ready.cancel()


@contextmanager
def _logs_above() -> Iterator[None]:
    """Log lines go through what draws the bar, which has put itself in the place of standard error by now."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.__stderr__)

"""A bar on standard error while something loads or comes here, where a person looks at it; else nothing, or lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.files.download import Step
    from llamahost.fleet.crew.status import ModelStatus
    from llamahost.host import AsyncHost

UNDER_WAY = ("pulling", "loading", "draining")
"""States of a model that another follows by itself."""


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


async def watched(host: AsyncHost, on_settled: Callable[[ModelStatus], None]) -> None:
    """Until each model that loads at the start is ready, or has failed, with a bar. Each is told once, as it comes."""
    import asyncio

    pending = [model.name for model in host.models() if model.load == "start"]
    n, changed = len(pending), asyncio.Event()
    unlisten = host.listen(lambda event: changed.set())
    try:
        with bar(", ".join(pending)) as show:
            while pending:
                changed.clear()
                models = {model.name: model for model in host.models() if model.name in pending}
                still = [name for name, model in models.items() if model.state in UNDER_WAY]
                for name in (name for name in models if name not in still):
                    on_settled(models[name])
                pending = still
                show((n - len(pending) + sum(models[name].progress for name in pending)) / n)
                if pending:
                    await changed.wait()
    finally:
        unlisten()


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


@contextmanager
def transfers(what: str) -> Iterator[Callable[[Step], None]]:
    """A bar for a pull: bytes, their rate, the time left. Where nobody looks, a line at each tenth of a file."""
    if not sys.stderr.isatty():
        yield _Tenths()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(what, total=None)
        now = ("", "")

        def show(step: Step) -> None:
            nonlocal now
            if now != (step.kind, step.file):  # a rate of its own for each
                now = (step.kind, step.file)
                progress.reset(task, description=_told(step) or what, total=step.n_total or None)
            progress.update(task, completed=step.n_done)

        yield show


class _Tenths:
    """Lines of a pull for logs. Owned by the thread that pulls."""

    def __init__(self) -> None:
        self._last = ("", "", -1)

    def __call__(self, step: Step) -> None:
        is_pull = step.kind == "pulling"
        tenth = step.n_done * 10 // step.n_total if is_pull and step.n_total else 0
        if not step.file or self._last == (step.kind, step.file, tenth):
            return
        self._last = (step.kind, step.file, tenth)
        part = f": {tenth * 10} % of {bytes_told(step.n_total)}" if is_pull else ""
        print(f"{_told(step)}{part}", file=sys.stderr, flush=True)


def _told(step: Step) -> str:
    verb = {"verifying": "checking", "waiting": "waiting for", "listing": ""}.get(step.kind, step.kind)
    of = f" ({step.index + 1} of {step.n_files})" if step.n_files > 1 else ""
    name = step.file.rpartition("/")[2]
    return f"{verb} {name}{of}" if verb and name else ""

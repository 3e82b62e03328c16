"""`llamahost top`: a running server's GPUs, models and queues, live. The terminal is given back as it was."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from llamahost.commands.exits import Unreachable, told
from llamahost.commands.ps import ANSWER_S, HERE, WIDE, ApiKey, Url
from llamahost.core.errors import Unavailable

if TYPE_CHECKING:
    from llamahost.commands.frame import Line
    from llamahost.commands.remote import Remote

ENTER = "\x1b[?1049h\x1b[?25l"  # a screen of its own, no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, TO_END_OF_LINE, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
STYLES = {"": "", "head": "\x1b[1m", "bad": "\x1b[31m"}
PLAIN = "\x1b[0m"
TERMINATED = 128 + signal.SIGTERM


def top(
    url: Url = HERE,
    api_key: ApiKey = None,
    every: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print how it stands now, and end.")] = False,
) -> None:
    """Watch a running server: GPUs, models, queues, rates. Ctrl-C ends.

    Where the output is no terminal, it is printed once. A narrow terminal shows fewer columns. NO_COLOR is heeded. If
    the server goes away, it is waited for.
    """
    with told():
        from llamahost.commands.remote import Remote

        with Remote(url, api_key, timeout_s=ANSWER_S) as remote:
            if once or not sys.stdout.isatty():
                width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
                for line in look(remote, width):
                    print(line.text)
                return
            first = look(remote, shutil.get_terminal_size().columns)  # what fails now is told as of any command
            with own_screen(sys.stdout):
                watch(remote, every, first)


def look(remote: Remote, width: int) -> list[Line]:
    """How the server stands now. Raises what its refusal means, and Unreachable."""
    from llamahost.api.admin_types import GpusInfo, ModelsInfo, StatsInfo
    from llamahost.commands.frame import frame

    stats = remote.told("/api/stats", StatsInfo)
    gpus = remote.told("/api/gpus", GpusInfo)
    models = remote.told("/api/models", ModelsInfo).models
    return frame(stats, gpus, models, width=width, now=time.time())


def watch(remote: Remote, every_s: float, lines: list[Line]) -> None:
    """Until Ctrl-C."""
    from llamahost.commands.frame import Line

    is_plain = bool(os.environ.get("NO_COLOR"))
    try:
        while True:
            size = shutil.get_terminal_size()
            title = Line(f"{remote.url}   {time.strftime('%H:%M:%S')}   Ctrl-C ends")
            sys.stdout.write(painted([title, *lines], size.columns, size.lines, is_plain=is_plain))
            sys.stdout.flush()
            time.sleep(every_s)
            try:
                lines = look(remote, shutil.get_terminal_size().columns)
            except (Unreachable, Unavailable) as error:
                lines = [Line(str(error), "bad")]
    except KeyboardInterrupt:
        return


def painted(lines: list[Line], width: int, height: int, *, is_plain: bool) -> str:
    """What draws these over what was there, without a flicker and without scrolling."""
    from llamahost.commands.frame import clean, fitted

    drawn = []
    for line in lines[: max(1, height)]:
        text = fitted(clean(line.text), width)
        style = "" if is_plain else STYLES[line.style]
        drawn.append(f"{style}{text}{PLAIN if style else ''}{TO_END_OF_LINE}")
    return HOME + "\r\n".join(drawn) + TO_END


@contextmanager
def own_screen(terminal: TextIO) -> Iterator[None]:
    """A screen for this command alone; whatever ends it, the old one comes back."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, end)
    try:
        terminal.write(ENTER)
        terminal.flush()
        yield
    finally:
        for number in before:  # a second one must not come between
            signal.signal(number, signal.SIG_IGN)
        terminal.write(LEAVE)
        terminal.flush()
        for number, handler in before.items():
            signal.signal(number, handler)

"""Laws of the bar: a person at a terminal sees it and it goes away; a pipe never holds a byte of it."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from llamahost.commands.progress import watched
from llamahost.core.observe import ModelChanged
from llamahost.fleet.crew.status import ModelStatus
from tests.api.fakes import FakeHost
from tests.on_loop import LIMIT_S, on_loop, turns
from tests.processes import command, environment, finished

if TYPE_CHECKING:
    from llamahost.host import AsyncHost


@on_loop
async def test_each_model_that_loads_at_the_start_is_told_once_as_it_comes_whatever_fails_before() -> None:
    first, second = ModelStatus(name="first", state="failed"), ModelStatus(name="second", state="loading")
    host, told = FakeHost(statuses=(first, second, ModelStatus(name="by hand", load="hand"))), list[tuple[str, str]]()

    def on_settled(status: ModelStatus) -> None:
        told.append((status.name, status.state))

    watching = asyncio.create_task(watched(cast("AsyncHost", host), on_settled))
    await turns()
    assert told == [("first", "failed")]
    for state in ("loading", "ready"):
        host.statuses = (first, replace(second, state=state), host.statuses[-1])
        for listener in list(host.listeners):
            listener(ModelChanged("second", "", state, ""))
        await turns()
    assert told == [("first", "failed"), ("second", "ready")]
    await watching
    assert not host.listeners


def at_a_terminal(folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """The status, standard output, which is a pipe, and what a person sees of standard error."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # a terminal that nobody holds open any more
            pass
        finally:
            os.close(ours)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output.decode(), seen.decode()


@pytest.mark.slow
def test_a_person_sees_a_bar_while_a_model_loads(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ("run", tiny_llama, "Hello", "--temperature", "0", "-n", "4", "--n-ctx", "256")
    status, output, seen = at_a_terminal(tmp_path, *arguments)
    assert status == 0
    assert "loading tiny-llama" in seen
    assert "%" in seen
    piped = finished(tmp_path, *arguments)
    assert (output, "") == (piped.stdout, piped.stderr)


@pytest.mark.slow
def test_serve_shows_one_too_and_logs_above_it(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    status, output, seen = at_a_terminal(tmp_path, "serve", "bad.gguf", "--port", "0")
    assert "loading bad from bad.gguf" in output
    assert "loading bad" in seen
    assert " ".join(seen.split()).count("bad.gguf is not a usable GGUF file") == 1, "lines are as wide as the terminal"
    assert "Traceback" not in seen
    assert status == 3

"""The command in a process of its own, or in this one: its lines, its exit status, what it serves."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamahost.cli import app
from tests.on_loop import LIMIT_S

HERE = Path(__file__).resolve().parent.parent


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "llamahost", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMAHOST_")}
    # one thread: on a busy machine two of llama.cpp wait for each other at every layer of a model this small
    return {**kept, "PYTHONPATH": str(HERE), "LLAMAHOST_THREADS": "1", **more}


def finished(folder: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(**more), text=True, capture_output=True, timeout=LIMIT_S
    )


def ended(folder: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """As `finished`, in this process, which spares a second of imports: for what ends without serving."""
    root, before = logging.getLogger(), dict(os.environ)
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "llamahost", "uvicorn")}
    output, errors, status = io.StringIO(), io.StringIO(), 0
    try:
        os.environ.clear()
        os.environ.update(environment(**more))
        with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            app([*map(str, arguments)], prog_name="llamahost")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        os.environ.clear()
        os.environ.update(before)
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    return subprocess.CompletedProcess([*map(str, arguments)], status, output.getvalue(), errors.getvalue())


class Server:
    """A serving process, from the line that says where to the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = self.line("listens on").rpartition(" ")[2]

    def line(self, mark: str) -> str:
        """The next line of its output that holds this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if mark in line:
                return line.rstrip()
        raise AssertionError(f"it never said `{mark}`, but {self.lines}")

    def request(self, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@contextmanager
def serving(folder: Path, *arguments: str | Path, **more: str) -> Iterator[Server]:
    process = subprocess.Popen(
        command("serve", *arguments, "--port", "0"),
        cwd=folder,
        env=environment(**more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        try:
            yield Server(process)
        finally:
            process.kill()

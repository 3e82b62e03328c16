"""Laws of `ps`, `top`, `load` and `unload`: they tell of a running server what it tells, and leave a clean terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llamahost.cli import app
from llamahost.commands.top import ENTER, LEAVE, TERMINATED
from tests.test_cli import Server, command, environment, serving

FLAGS = ("--n-ctx", "256", "--slots", "2", "--api-key", "sesame", "--alias", "org/tiny")


@pytest.fixture(scope="module")
def server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), tiny_llama, *FLAGS) as running:
        running.line("ready: ")
        yield running


def asked(server: Server, *arguments: str, key: str = "sesame") -> Result:
    """In this process: only the server has one of its own."""
    return CliRunner().invoke(app, [*arguments, "--url", server.url, "--api-key", key])


def test_ps_lists_the_models_of_a_server(server: Server) -> None:
    done = asked(server, "ps")
    assert done.exit_code == 0, done.output
    titles, model = done.stdout.splitlines()
    assert titles.split()[:2] == ["model", "state"]
    assert model.split()[:2] == ["org/tiny", "ready"]
    told = json.loads(asked(server, "ps", "--json").stdout)
    assert [(each["id"], each["n_slots"], each["n_ctx"]) for each in told["models"]] == [("org/tiny", 2, 256)]


def test_top_prints_one_frame_where_it_is_told_to(server: Server) -> None:
    done = asked(server, "top", "--once")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "1 of 1 models loaded" in done.stdout
    assert "org/tiny" in done.stdout


@pytest.mark.parametrize("name", ["ps", "top"])
def test_a_wrong_key_and_a_server_that_is_not_there_have_their_status(server: Server, name: str) -> None:
    assert asked(server, name, key="wrong").exit_code == 2
    gone = CliRunner().invoke(app, [name, "--url", "http://127.0.0.1:9"])
    assert gone.exit_code == 4
    assert "does not answer" in gone.output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, TERMINATED)])
def test_top_gives_the_terminal_back_whatever_ends_it(server: Server, number: signal.Signals, status: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    arguments = command("top", "--url", server.url, "--api-key", "sesame", "--every", "0.1")
    with subprocess.Popen(arguments, env=environment(TERM="xterm"), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen, is_told = b"", False
        try:
            while piece := os.read(ours, 4096):
                seen += piece
                if not is_told and seen.count(b"\x1b[H") >= 3:  # two whole frames have been drawn
                    process.send_signal(number)
                    is_told = True
        except OSError:  # a terminal that nobody holds open any more
            pass
        finally:
            os.close(ours)
        assert process.wait(30) == status
    assert seen.startswith(ENTER.encode())
    assert seen.endswith(LEAVE.encode())
    assert b"org/tiny" in seen
    assert b"Traceback" not in seen

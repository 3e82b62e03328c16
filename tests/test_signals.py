"""Signals that come while a model loads, waits or answers: the process ends well, and says what it must and no more."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gguf_models import write_model
from tests.on_loop import LIMIT_S
from tests.processes import Server, command, environment, serving

pytestmark = pytest.mark.slow  # each starts a process

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers may be longer than any test waits."""
    return write_model(tmp_path_factory.mktemp("signals") / "endless.gguf", "llama", n_ctx=100_000)


def told_of(server: Server) -> str:
    """All that it says from here to its end."""
    assert server.process.stdout is not None
    return "\n".join([*server.lines, server.process.stdout.read()])


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT_S) as connection:
        yield connection


def post(connection: socket.socket, **fields: object) -> None:
    body = json.dumps({"prompt": "a", "ignore_eos": True, **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def rest_of(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@BOTH
def test_a_signal_while_a_model_loads_ends_it_well(number: signal.Signals, tiny_llama: Path, tmp_path: Path) -> None:
    """The library is not even imported when the line comes, so that the load has all of its time before it."""
    with serving(tmp_path, tiny_llama) as server:
        server.line("loading tiny-llama")
        assert server.end(number) == 0
        told = told_of(server)
    assert "llamahost.server: stopping" in told
    assert "Traceback" not in told
    assert "ready: " not in told


def test_a_second_signal_while_a_model_loads_ends_it_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama) as server:
        server.line("loading tiny-llama")
        server.process.send_signal(signal.SIGINT)
        server.line("llamahost.server: stopping")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(LIMIT_S) in (0, 130)  # 0 where the first was done meanwhile
        assert "Traceback" not in told_of(server)


@BOTH
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
def test_a_signal_in_an_answer_ends_it_with_an_error_and_the_process_well(
    number: signal.Signals, is_streamed: bool, endless: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, endless, "--n-ctx", "100000", "--slots", "1", "--drain", "0.1") as server:
        server.line("ready: ")
        with connected(server) as running, connected(server) as waiting:
            post(running, max_tokens=90_000, stream=True)
            running.recv(1)  # it has begun, and takes the one slot
            post(waiting, max_tokens=90_000, stream=is_streamed)
            assert server.request("/health")[0] == 200  # asked later, so that what was sent before has been read
            server.process.send_signal(number)
            assert b'"code":"unavailable"' in rest_of(running)
            answer = rest_of(waiting)
            assert b'"code":"unavailable"' in answer
            assert b"[DONE]" not in answer
        assert server.process.wait(LIMIT_S) == 0
        assert "Traceback" not in told_of(server)


@BOTH
def test_a_signal_in_a_long_prompt_ends_it_well(number: signal.Signals, endless: Path, tmp_path: Path) -> None:
    with serving(tmp_path, endless, "--n-ctx", "100000", "--slots", "1", "--drain", "0.1") as server:
        server.line("ready: ")
        with connected(server) as connection:
            post(connection, prompt=[20] * 90_000, max_tokens=1)
            while not running(server):
                pass
            server.process.send_signal(number)
            assert rest_of(connection).startswith(b"HTTP/1.1 503 ")
        assert server.process.wait(LIMIT_S) == 0
        assert "Traceback" not in told_of(server)


def running(server: Server) -> bool:
    with connected(server) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b'llamahost_requests_running{model="endless"} 1.0' in rest_of(connection)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["TERM", "INT", "HUP"])
def test_a_signal_to_run_while_it_loads_leaves_no_trace(
    number: signal.Signals, tiny_llama: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        command("run", tiny_llama, "hello", "--n-ctx", "256", "-v"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        try:
            assert process.stderr.read(1)
            process.send_signal(number)
            status = process.wait(LIMIT_S)
            told = process.stderr.read()
        finally:
            process.kill()
        assert status == (130 if number == signal.SIGINT else -number)
        assert b"Traceback" not in told


def test_a_reader_that_is_gone_ends_run_quietly(endless: Path, tmp_path: Path) -> None:
    """`llamahost run … | head -c 1`."""
    with subprocess.Popen(
        command("run", endless, "hello", "--n-ctx", "100000"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        try:
            assert process.stdout.read(1)
            process.stdout.close()
            process.wait(LIMIT_S)
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_hang_up_reads_the_manifest_again_and_a_wrong_one_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "model_manifest.toml"
    text = f'[[models]]\nname = "one"\npath = "{tiny_llama}"\nn_ctx = 64\n'
    manifest.write_text(text)
    with serving(tmp_path) as server:
        server.line("ready: one")
        manifest.write_text(text + "n_slots = 0\n")
        server.process.send_signal(signal.SIGHUP)
        assert "line 5: n_slots" in server.line("the manifest is as before")
        manifest.unlink()
        server.process.send_signal(signal.SIGHUP)
        assert "No such file" in server.line("the manifest is as before")
        manifest.write_text(text + text.replace("one", "two"))
        server.process.send_signal(signal.SIGHUP)
        server.line("the manifest was read again")
        assert [each["id"] for each in server.request("/v1/models")[1]["data"]] == ["one", "two"]
        assert server.end(signal.SIGTERM) == 0


def test_a_hang_up_that_comes_before_all_else_is_done_when_it_can_be(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text(f'[[models]]\nname = "one"\npath = "{tiny_llama}"\nn_ctx = 64\n')
    code = "import os, signal, llamahost.__main__ as own, llamahost.cli as cli\n"
    code += "cli.main = lambda ready: (os.kill(os.getpid(), signal.SIGHUP), ready(), cli.app())\nown.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0"], cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            server = Server(process)
            server.line("the manifest was read again")
            assert server.end() == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("way", "said"), [((), "llamahost.server: stopping"), (("nohup",), "the manifest was read again")]
)
def test_a_terminal_that_goes_away_ends_it_well_but_not_under_nohup(
    way: tuple[str, ...], said: str, tiny_llama: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["setsid", "--ctty", *way, *command("serve", tiny_llama, "--n-ctx", "64", "--port", "0")],
            cwd=tmp_path, env=environment(), stdin=theirs, stdout=output, stderr=output,
        )  # fmt: skip
    os.close(theirs)
    with process:
        try:
            while "ready: " not in log.read_text():
                assert process.poll() is None, log.read_text()
                select.select([], [], [], 0.05)
            os.close(ours)
            while said not in log.read_text():
                select.select([], [], [], 0.05)
            if way:
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()

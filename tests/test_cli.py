"""The command as people and supervisors meet it: a process of its own, its lines and its exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from llamahost.cli import app
from llamahost.commands.flags import MODEL, PEERS
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings
from tests.on_loop import LIMIT_S
from tests.processes import HERE, Server, ended, finished, serving


def test_help_and_version_are_there() -> None:
    shown = ended(HERE, "--help").stdout
    assert "serve" in shown
    assert ".." not in shown.partition("Commands:")[2], "each line fits into a terminal of 80 columns"
    assert ended(HERE, "--version").stdout.startswith("llamahost ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    shown = ended(
        HERE, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )  # which is make's here
    assert shown.returncode == 0
    assert "_LLAMAHOST_COMPLETE" in shown.stdout
    asked = {"COMP_WORDS": "llamahost r", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "llamahost r"}
    done = ended(HERE, **asked, _TYPER_COMPLETE_FISH_ACTION="get-args", _LLAMAHOST_COMPLETE=f"complete_{shell}")
    assert "run" in done.stdout


def test_help_brings_nothing_heavy() -> None:
    heavy = "{'numpy', 'llama_cpp', 'uvicorn', 'starlette', 'prometheus_client', 'httpx', 'rich', 'jinja2'}"
    code = f"import sys, llamahost.cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow  # tests/builtin serves it too, and hears its known answers
def test_without_a_model_it_serves_the_one_of_the_package_and_says_how_to_give_another(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert "`llamahost serve " in server.line("loading builtin")
        server.line("ready: builtin")
        assert server.request("/ready")[0] == 200
        hello = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        assert server.request("/v1/chat/completions", hello)[0] == 200
        assert server.end() == 0


def test_a_missing_model_is_one_line_and_status_3(tmp_path: Path) -> None:
    done = ended(tmp_path, "serve", "nowhere.gguf")
    assert done.returncode == 3
    assert done.stderr.strip() == "llamahost: there is no file nowhere.gguf"


@pytest.mark.slow
def test_a_corrupt_model_is_one_clear_line_and_status_3(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    done = finished(tmp_path, "serve", "bad.gguf", "--port", "0", "--log-level", "error")
    assert done.returncode == 3
    assert done.stderr.count("bad.gguf is") == 1
    assert "no model could be loaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_binding_that_does_not_load_is_told_with_what_to_do(tmp_path: Path, tiny_llama: Path) -> None:
    """As in a container that was given no GPU: the CUDA build wants the driver's library."""
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('libcuda.so.1: cannot open shared object file')")
    path = f"{tmp_path}{os.pathsep}{HERE}"
    done = finished(tmp_path, "serve", tiny_llama, "--port", "0", "--log-level", "error", PYTHONPATH=path)
    assert done.returncode == 3
    told = "llama.cpp cannot be loaded: libcuda.so.1: cannot open shared object file (no NVIDIA driver is in reach"
    assert told in done.stderr
    assert "--gpus all" in done.stderr
    assert "Traceback" not in done.stderr
    checked = finished(tmp_path, "check", PYTHONPATH=path)
    assert checked.returncode == 1
    assert f"llama.cpp: {told}" in checked.stdout


def test_a_port_in_use_is_one_line_and_status_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ended(tmp_path, "serve", "--port", str(port))
    assert done.returncode == 4
    assert done.stderr.strip() == f"llamahost: cannot listen on 127.0.0.1:{port}: address already in use"


def test_a_file_in_the_place_of_a_socket_is_left_alone_and_told(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("kept")
    done = ended(tmp_path, "serve", "--unix-socket", "notes")
    assert (done.returncode, (tmp_path / "notes").read_text()) == (4, "kept")
    assert done.stderr.strip().endswith("notes: there is something of that name, and it is no socket")


@pytest.mark.parametrize("url", ["", "unix:"])
def test_no_address_is_wrong_usage(url: str, tmp_path: Path) -> None:
    done = ended(tmp_path, "ps", "--url", url)
    assert (done.returncode, "names no server" in done.stderr) == (2, True)


def test_a_wrong_manifest_is_one_line_and_status_5(tmp_path: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text("[server]\nprot = 1\n")
    done = ended(tmp_path, "serve")
    assert done.returncode == 5
    assert "line 2" in done.stderr
    assert "port" in done.stderr
    assert ended(tmp_path, "serve", "--manifest", "nowhere.toml").returncode == 5


def test_ctrl_c_while_modules_are_imported_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = f"{tmp_path}{os.pathsep}{HERE}"
    done = finished(tmp_path, "--version", PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.slow
def test_ctrl_c_before_the_loop_hears_it_ends_serve_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = finished(tmp_path, "serve", "--port", "0", PYTHONPATH=f"{tmp_path}{os.pathsep}{HERE}")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_wrong_value_of_a_flag_is_wrong_usage_and_told_by_the_flag(tmp_path: Path) -> None:
    done = ended(tmp_path, "serve", "--slots", "0")
    assert (done.returncode, done.stderr) == (2, "llamahost: --slots must be between 1 and 256, not 0\n")
    done = ended(tmp_path, "serve", LLAMAHOST_N_CTX="9999999999")
    assert done.stderr == "llamahost: --n-ctx must be between 8 and 2147483647, not 9999999999\n"


def test_flags_of_other_servers_are_told_what_does_it_here(tmp_path: Path) -> None:
    done = ended(tmp_path, "serve", "-m", "model.gguf")
    assert done.returncode == 2
    assert done.stderr == "llamahost: there is no -m: the model stands without a flag, as in `llamahost serve MODEL`\n"
    assert "it is --n-ctx here" in ended(tmp_path, "serve", "a.gguf", "--ctx-size=4096").stderr
    assert "key kv_type_k of the model" in ended(tmp_path, "config", "-ctk", "q8_0").stderr


def test_what_is_told_of_other_servers_flags_is_there_and_none_of_them_is_ours() -> None:
    group = typer.main.get_command(app)
    ours = {name for param in group.get_command(None, "serve").params for name in param.opts}  # type: ignore[attr-defined]  # it is a group
    keys = {field.name for kind in (ModelSpec, ServerSettings) for field in fields(kind)} | {MODEL}
    assert not ours & PEERS.keys()
    assert set(PEERS.values()) <= ours | keys


def test_a_model_that_is_not_there_is_told_how_else_to_name_one(tmp_path: Path) -> None:
    word, folder = ended(tmp_path, "serve", "qwen3"), ended(tmp_path, "serve", tmp_path)
    assert (word.returncode, folder.returncode) == (3, 3)
    assert word.stderr.startswith("llamahost: there is no file qwen3; `llamahost list` tells")
    assert folder.stderr == f"llamahost: {tmp_path} is a folder, and no GGUF file\n"


def test_help_is_asked_for_by_h_too(tmp_path: Path) -> None:
    assert ended(tmp_path, "serve", "-h").stdout == ended(tmp_path, "serve", "--help").stdout
    assert ended(tmp_path, "bench", "-h").stdout == ended(tmp_path, "bench", "--help").stdout != ""


@pytest.mark.parametrize(
    ("word", "told"), [("stop", "`llamahost unload`"), ("help", "--help"), ("m/x.gguf", "`llamahost serve m/x.gguf`")]
)
def test_a_word_that_is_no_command_is_answered_with_the_one_that_is_meant(word: str, told: str) -> None:
    done = ended(HERE, word)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_shell_that_completes_what_follows_a_word_that_is_no_command_is_told_nothing() -> None:
    group = typer.main.get_group(app)
    for word in ("stop", "m/x.gguf"):
        with group.make_context("llamahost", [word], resilient_parsing=True) as context:
            assert group.resolve_command(context, [word, "m"])[:2] == (None, None)


def test_wrong_usage_is_status_2(tmp_path: Path) -> None:
    assert finished(tmp_path, "serve", "--port", "99999").returncode == 2  # the status of the process itself
    assert ended(tmp_path, "serve", "--log-level", "loud").returncode == 2
    assert ended(tmp_path, "serve", "a.gguf", "--manifest", "m.toml").returncode == 2


@pytest.mark.slow  # `config` tells the same without a server
def test_flags_weigh_more_than_environment_and_that_more_than_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text('[server]\nhost = "192.0.2.1"\napi_key = "from the manifest"\n')
    with serving(tmp_path, "--host", "127.0.0.1", LLAMAHOST_HOST="192.0.2.2", LLAMAHOST_API_KEY="sesame") as server:
        assert server.url.startswith("http://127.0.0.1:")
        request = urllib.request.Request(server.url + "/v1/models", headers={"Authorization": "Bearer sesame"})
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            assert response.status == 200
        assert server.request("/v1/models")[0] == 401


@pytest.mark.slow
def test_a_unix_socket_is_served_and_taken_away(tmp_path: Path) -> None:
    place = tmp_path / "s"
    with serving(tmp_path, "--unix-socket", place) as server:
        assert server.url == f"unix:{place}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 503")  # loaded by now, or not yet
        server.line("ready: ")
        checked = finished(tmp_path, "check", "--url", f"unix:{place}")
        assert (checked.returncode, checked.stderr) == (0, "")
        nobody = finished(tmp_path, "check", "--url", "unix:nowhere")
        assert "unix:nowhere does not answer" in nobody.stdout
        assert server.end() == 0
    assert not place.exists()


def test_a_model_is_served_and_sigterm_ends_it_well(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--alias", "tiny", "--n-ctx", "256", "--slots", "2") as server:
        assert "tiny" in server.line("ready: ")
        assert "/v1/chat/completions" in server.line("try: curl")
        assert server.request("/health") == (200, {"status": "ok"})
        status, body = server.request("/v1/completions", {"model": "any name", "prompt": "a", "max_tokens": 3})
        assert status == 200
        assert body["model"] == "tiny"
        model = server.request("/v1/models")[1]["data"][0]
        assert (model["id"], model["context_length"]) == ("tiny", 256)
        assert server.end() == 0


@pytest.mark.slow
def test_a_strict_model_answers_to_its_names_alone(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--alias", "tiny", "--strict-model", "--n-ctx", "256") as server:
        server.line("ready: ")
        ask = {"prompt": "a", "max_tokens": 1}
        assert server.request("/v1/completions", {"model": "tiny", **ask})[0] == 200
        status, body = server.request("/v1/completions", {"model": "tony", **ask})
        assert (status, body["error"]["code"]) == (404, "model_not_found")


@contextmanager
def streaming(server: Server, n: int) -> Iterator[Any]:
    """A stream of n tokens, read up to its first event."""
    body = {"prompt": "a", "stream": True, "max_tokens": n, "ignore_eos": True}
    request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        assert response.readline().startswith(b"data: ")
        yield response


@pytest.mark.slow
def test_sigterm_drains_refuses_and_exits_well(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "4096") as server:
        server.line("ready: ")
        with streaming(server, 3000) as stream:
            server.process.send_signal(signal.SIGTERM)
            server.line("stopping: 1 running")
            status, body = server.request("/v1/completions", {"prompt": "b", "max_tokens": 1})
            assert (status, body["error"]["code"]) == (503, "unavailable")
            assert server.request("/health")[0] == 503
            assert stream.read().endswith(b"data: [DONE]\n\n")
        assert server.process.wait(LIMIT_S) == 0


@pytest.mark.slow
def test_what_does_not_finish_in_time_is_told_and_the_exit_is_well(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "100000", "--slots", "1", "--drain", "0.1") as server:
        server.line("ready: ")
        with streaming(server, 90_000) as stream:
            server.process.send_signal(signal.SIGINT)
            told = stream.read()
            assert b'data: {"error":' in told
            assert b"[DONE]" not in told
        assert server.process.wait(LIMIT_S) == 0


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "100000", "--slots", "1") as server:
        server.line("ready: ")
        with streaming(server, 90_000):
            server.process.send_signal(signal.SIGINT)
            server.line("stopping: 1 running")
            assert server.end(signal.SIGINT) == 130


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_door_is_warned_of(host: str, tmp_path: Path) -> None:
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(tmp_path, "--host", host) as server:
        assert host in server.line("anyone who reaches")
    with serving(tmp_path, "--host", host, "--api-key", "sesame") as server:
        server.line("loading")
        assert not any("anyone" in line for line in server.lines)

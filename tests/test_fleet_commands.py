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
from subprocess import CompletedProcess

import httpx
import pytest

from llamahost.commands.top import ENTER, LEAVE, TERMINATED
from tests.on_loop import LIMIT_S
from tests.processes import HERE, Server, command, ended, environment, serving

MANIFEST = """
[server]
api_key = "sesame"
[[models]]
name = "org/tiny"
path = "{path}"
n_ctx = 256
n_slots = 2
[[models]]
name = "spare"
aliases = ["s"]
path = "{path}"
load = "hand"
n_ctx = 128
[[models]]
name = "broken"
path = "model_manifest.toml"
load = "hand"
"""


@pytest.fixture(scope="module")
def manifest(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model_manifest.toml"
    path.write_text(MANIFEST.format(path=tiny_llama))
    return path


@pytest.fixture(scope="module")
def server(manifest: Path) -> Iterator[Server]:
    with serving(manifest.parent) as running:
        running.line("ready: ")
        yield running


def asked(server: Server, *arguments: str, key: str = "sesame") -> CompletedProcess[str]:
    """In this process: only the server has one of its own."""
    return ended(HERE, *arguments, "--url", server.url, "--api-key", key)


def test_ps_lists_the_models_of_a_server(server: Server) -> None:
    done = asked(server, "ps")
    assert done.returncode == 0, done.stderr
    titles, model, *others = done.stdout.splitlines()
    assert titles.split()[:4] == ["model", "state", "devices", "memory"]
    assert model.split()[:3] == ["org/tiny", "ready", "cpu"]
    assert [line.split()[:2] for line in others] == [["spare", "unloaded"], ["broken", "unloaded"]]
    told = json.loads(asked(server, "ps", "--json").stdout)["models"][0]
    assert (told["id"], told["n_slots"], told["n_ctx"]) == ("org/tiny", 2, 256)
    assert told["memory_bytes"] > 0


def test_top_prints_one_frame_where_it_is_told_to(server: Server) -> None:
    done = asked(server, "top", "--once")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "1 of 3 models loaded" in done.stdout
    assert "org/tiny" in done.stdout


def test_a_model_is_loaded_by_hand_as_it_was_asked_for_and_taken_out_again(server: Server) -> None:
    loaded = asked(server, "load", "s", "--n-ctx", "64", "--slots", "3")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.startswith("spare: ready, ")
    assert "on cpu, 3 slots of 64 tokens" in loaded.stdout
    gone = json.loads(asked(server, "unload", "spare", "--json").stdout)
    assert (gone["state"], gone["replicas"]) == ("unloaded", [])
    begun = asked(server, "load", "spare", "--no-wait")
    assert begun.returncode == 0, begun.stderr
    assert asked(server, "unload", "spare").stdout == "spare: unloaded\n"


def test_a_model_that_cannot_be_loaded_and_one_that_is_not_known_have_their_status(server: Server) -> None:
    broken = asked(server, "load", "broken")
    assert broken.returncode == 3
    assert "not a usable GGUF file" in broken.stderr
    nowhere = asked(server, "load", "spare", "--device", "CUDA7")
    assert nowhere.returncode == 3
    assert "CUDA7" in nowhere.stderr
    assert asked(server, "load", "spare", "--n-ctx", "1").returncode == 2
    unknown = asked(server, "unload", "tyni")
    assert unknown.returncode == 2
    assert "`org/tiny`" in unknown.stderr


def test_a_manifest_that_was_edited_is_read_again_and_one_that_is_wrong_changes_nothing(
    server: Server, manifest: Path
) -> None:
    text = manifest.read_text()
    with httpx.Client(base_url=server.url, headers={"x-api-key": "sesame"}, timeout=LIMIT_S) as client:
        manifest.write_text(text.replace("broken", "mended") + "no_such_key = 1\n")
        refused = client.post("/api/reload")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "no_such_key")
        manifest.write_text("")
        refused = client.post("/api/reload")
        assert (refused.status_code, "names no model any more" in refused.text) == (400, True)
        assert "broken" in asked(server, "ps").stdout
        manifest.write_text(text.replace("broken", "mended"))
        assert [each["id"] for each in client.post("/api/reload").json()["models"]] == ["org/tiny", "spare", "mended"]
        manifest.write_text(text)
        assert client.post("/api/reload").status_code == 200


def test_how_the_server_answers_changes_with_its_manifest_and_how_it_listens_with_a_restart(
    server: Server, manifest: Path
) -> None:
    text = manifest.read_text()
    changed = text.replace(
        '"sesame"', '"mohn"\ngpu_sample_s = 9\nbase_path = "/llm"\nmax_body_bytes = 1024\ncors_origins = ["*"]'
    )
    with httpx.Client(base_url=server.url, headers={"x-api-key": "sesame"}) as client:
        manifest.write_text(changed.replace('"mohn"', '"mohn"\ntls_cert = "nowhere.pem"'))
        refused = client.post("/api/reload").json()["error"]
        assert (refused["param"], "nowhere.pem cannot be read" in refused["message"]) == ("tls_cert", True)
        assert client.get("/llm/api/models").status_code == 404
        try:
            manifest.write_text(changed)
            assert client.post("/api/reload").json()["waits_for_restart"] == ["gpu_sample_s"]
            assert client.get("/api/models").status_code == 401
            client.headers["x-api-key"] = "mohn"
            told = client.get("/llm/api/models", headers={"origin": "https://a.org"})
            assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, "*")
            assert client.post("/v1/completions", content=bytes(1025)).status_code == 413
        finally:
            manifest.write_text(text)
            os.kill(server.process.pid, signal.SIGHUP)
            server.line("the manifest was read again")
        client.headers["x-api-key"] = "sesame"
        assert client.get("/api/models").status_code == 200


@pytest.mark.parametrize("name", ["ps", "top"])
def test_a_wrong_key_and_a_server_that_is_not_there_have_their_status(server: Server, name: str) -> None:
    assert asked(server, name, key="wrong").returncode == 2
    gone = ended(HERE, name, "--url", "http://127.0.0.1:9")
    assert gone.returncode == 4
    assert "does not answer" in gone.stderr


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
        assert process.wait(LIMIT_S) == status
    assert seen.startswith(ENTER.encode())
    assert seen.endswith(LEAVE.encode())
    assert b"org/tiny" in seen
    assert b"Traceback" not in seen

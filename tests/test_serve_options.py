"""The network options of `serve`, over real sockets: each from where it is given to what a client sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from llamahost.api.app import create_app
from llamahost.api.auth import keys_of, read_keys
from llamahost.api.http1 import Http1
from llamahost.api.server import Runner, tls_of
from llamahost.commands.serving import adopted
from llamahost.core.errors import ManifestError
from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from tests.api.asking import ASK
from tests.api.fakes import FakeHost, app_of, run, said
from tests.api.sockets import Client, listening
from tests.on_loop import LIMIT_S
from tests.processes import Server, ended, serving


def status_of(
    server: Server, path: str, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S, context=context) as response:
            return response.status, dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Self-signed, for this machine, and its key."""
    return certified(tmp_path_factory.mktemp("tls"))


def certified(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_https_and_keys_are_served_from_files_and_beside_them(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = (tmp_path / path.name for path in certificate)
    for path in certificate:
        shutil.copy(path, tmp_path)
    file = tmp_path / "keys"
    file.write_text("# the team's\nalpha  \n\n  beta\n#gamma\n")
    flags = ("--tls-cert", cert, "--api-key-file", file)
    with serving(tmp_path, *flags, LLAMAHOST_TLS_KEY=str(key), LLAMAHOST_API_KEY="delta") as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=cert)
        assert status_of(server, "/", context, X_Forwarded_For="192.0.2.7")[0] == 200
        assert "client=127.0.0.1" in server.line("GET / 200")  # nobody was told to believe such a header
        for one, status in (("alpha", 200), ("beta", 200), ("delta", 200), ("gamma", 401), ("#gamma", 401), ("", 401)):
            assert status_of(server, "/v1/models", context, Authorization=f"Bearer {one}")[0] == status
        certified(tmp_path)
        file.write_text("gamma")
        server.process.send_signal(signal.SIGHUP)
        server.line("the manifest was read again")
        with pytest.raises(urllib.error.URLError, match="self-signed"):
            status_of(server, "/", context)
        context = ssl.create_default_context(cafile=cert)
        for one, status in (("alpha", 401), ("delta", 200), ("gamma", 200)):
            assert status_of(server, "/v1/models", context, Authorization=f"Bearer {one}")[0] == status
        assert server.end() == 0


def test_the_certificate_that_was_seen_to_serve_is_shown_whatever_its_files_become(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certified(tmp_path)
    tls = tls_of(ServerSettings(tls_cert=certificate[0], tls_key=certificate[1]))
    assert tls is not None

    async def reread(place: socket.socket) -> None:
        runner = Runner(FakeHost(), place, settings=ServerSettings(tls_cert=certificate[0]), tls=tls, on_start=never)
        runner._app = app_of(FakeHost())
        hold = await runner.adopt(ServerSettings(tls_cert=cert, tls_key=key))
        shown = cert.read_bytes()
        certified(tmp_path)
        key.write_bytes(certificate[1].read_bytes())
        hold()
        assert _shown(tls) == ssl.PEM_cert_to_DER_cert(shown.decode())

    with socket.socket() as place:
        asyncio.run(reread(place))


async def never() -> None:
    raise AssertionError


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_over_tls_is_not_over_before_it_is_read(certificate: tuple[Path, Path], version: str) -> None:
    """Once it is, the connection may be closed, and half a minute later it drops what is left."""
    tls = tls_of(ServerSettings(tls_cert=certificate[0], tls_key=certificate[1]))
    text = "x" * 2**23

    async def served() -> None:
        async with listening(app_of(FakeHost(said(text))), tls=tls) as port:
            trusting = ssl.create_default_context(cafile=certificate[0])
            client = await Client.open(port, limit=1024, tls=trusting)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport is two-way
            asked = json.dumps(ASK)
            head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nConnection: close\r\n"
            client.writer.write(f"{head}Content-Length: {len(asked)}\r\n\r\n{asked}".encode())
            while not (there := list(port.server.server_state.connections)):  # noqa: ASYNC110  its end of the handshake
                await asyncio.sleep(0)
            connection = there[0]
            assert isinstance(connection, Http1)
            while not (connection.flow.write_paused or connection.transport.is_closing()):  # noqa: ASYNC110  untold
                await asyncio.sleep(0)
            is_over = connection.transport.is_closing()
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            head, _, body = (await client.reader.read()).decode().partition("\r\n\r\n")
            client.writer.close()
            await client.writer.wait_closed()
            await port.left()
            assert not is_over
            assert json.loads(body)["choices"][0]["message"]["content"] == text
            assert f"content-length: {len(body)}" in head

    run(served)


def _shown(tls: ssl.SSLContext) -> bytes | None:
    """The certificate, to a client that names no server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = context.wrap_bio(down, up), tls.wrap_bio(up, down, server_side=True)
    for each in (client, server, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            each.do_handshake()
    return client.getpeercert(binary_form=True)


def test_what_fails_at_a_sighup_in_a_way_that_nobody_foresaw_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def again() -> tuple[str, ...]:
        raise OSError("a stale handle")

    async def hung_up(place: socket.socket) -> None:
        runner = Runner(FakeHost(), place, settings=ServerSettings(), on_start=never)
        runner._app = create_app(FakeHost(), reload=again)
        await runner._reload()

    with socket.socket() as place:
        asyncio.run(hung_up(place))
    assert "a stale handle" in caplog.text


def test_keys_hold_before_models_are_looked_at() -> None:
    held: list[str] = []

    async def see(settings: ServerSettings) -> Callable[[], None]:
        return lambda: held.append(settings.api_key or "")

    async def adopt(manifest: Manifest) -> tuple[str, ...]:
        assert held == ["new"]
        return ("port",)

    assert asyncio.run(adopted(Manifest(server=ServerSettings(api_key="new")), see, adopt)) == ("port",)


def test_certificate_and_key_may_share_a_file(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(part.read_bytes() for part in certificate))
    assert tls_of(ServerSettings(tls_cert=both)) is not None
    assert tls_of(ServerSettings()) is None


def test_files_that_do_not_serve_are_one_clear_line(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    empty, locked = tmp_path / "empty.pem", tmp_path / "locked.pem"
    empty.write_text("")
    subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    for wrong, word in (
        (ServerSettings(tls_cert=tmp_path / "nowhere.pem"), "nowhere.pem cannot be read: No such file"),
        (ServerSettings(tls_cert=cert, tls_key=empty), "do not serve"),
        (ServerSettings(tls_cert=empty), "do not serve"),
        (ServerSettings(tls_cert=cert, tls_key=locked), "is encrypted"),
    ):
        with pytest.raises(ManifestError, match=word):
            tls_of(wrong)
    done = ended(tmp_path, "serve", "--port", "0", "--tls-cert", empty)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_key_file_without_a_key_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# none yet\n\n")
    with pytest.raises(ManifestError, match="holds no key"):
        keys_of(ServerSettings(api_key_file=file))
    file.write_bytes(b"\xff\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_keys(file)
    done = ended(tmp_path, "serve", "--port", "0", "--api-key-file", "nowhere")
    assert done.returncode == 2
    assert "--api-key-file nowhere cannot be read" in done.stderr


def test_manifest_environment_and_flags_set_them_and_the_last_weighs_most(tmp_path: Path) -> None:
    """The manifest's files lie beside it."""
    (tmp_path / "keys").write_text("sesame\n")
    (tmp_path / "m.toml").write_text(
        '[server]\napi_key_file = "keys"\nbase_path = "/llm"\ncors_origins = ["https://a.example"]\n'
        "max_body_bytes = 1024\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        "LLAMAHOST_BASE_PATH": "/environment",
        "LLAMAHOST_CORS_ORIGINS": "https://b.example https://c.example",
        "LLAMAHOST_FORWARDED_ALLOW_IPS": "10.0.0.0/8, 127.0.0.1",
    }
    with serving(elsewhere, "--manifest", tmp_path / "m.toml", "--base-path", "/flag", **environment) as server:
        for origin, allowed in (("https://b.example", True), ("https://c.example", True), ("https://a.example", False)):
            status, headers = status_of(
                server, "/flag/v1/models", Origin=origin, Authorization="Bearer sesame", X_Forwarded_For="192.0.2.7"
            )
            assert (status, headers.get("access-control-allow-origin")) == (200, origin if allowed else None)
            assert "client=192.0.2.7" in server.line("GET /v1/models 200")
        for path in ("/llm/v1/models", "/environment/v1/models"):
            assert status_of(server, path, Authorization="Bearer sesame")[0] == 404
        request = urllib.request.Request(
            server.url + "/flag/v1/completions", b" " * 1025, headers={"Authorization": "Bearer sesame"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=LIMIT_S)
        with caught.value:
            assert caught.value.code == 413


@pytest.mark.slow
def test_a_request_that_names_no_deadline_gets_the_servers(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "256", LLAMAHOST_TIMEOUT="0.001") as server:
        server.line("ready: ")
        status, body = server.request("/v1/completions", {"prompt": "a", "ignore_eos": True})
        assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
        assert server.request("/v1/completions", {"prompt": "a", "max_tokens": 2, "timeout": 20})[0] == 200


@pytest.mark.slow
def test_an_address_that_was_asked_for_outweighs_the_manifests_socket(tmp_path: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text('[server]\nunix_socket = "s"\n')
    with serving(tmp_path) as server:  # with --port 0
        assert server.url.startswith("http://127.0.0.1:")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"base_path": "llm"}, "base_path"),
        ({"base_path": "/a b"}, "base_path"),
        ({"base_path": "/a//b"}, "base_path"),
        ({"cors_origins": ("example.org",)}, "cors_origins"),
        ({"cors_origins": ("https://example.org/",)}, "cors_origins"),
        ({"cors_origins": (3,)}, "cors_origins"),
        ({"cors_origins": "*"}, "cors_origins"),
        ({"forwarded_allow_ips": ("10.0.0.1/8",)}, "forwarded_allow_ips"),
        ({"forwarded_allow_ips": ("proxy.local",)}, "forwarded_allow_ips"),
        ({"tls_key": Path("k")}, "tls_key"),
        ({"max_body_bytes": 10}, "max_body_bytes"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
    ids=lambda value: json.dumps(value, default=str) if isinstance(value, dict) else None,
)
def test_a_wrong_value_is_told_with_its_key(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ServerSettings(**settings)  # type: ignore[arg-type] # wrong on purpose
    assert caught.value.key == key


@pytest.mark.slow
def test_a_manifest_serves_what_it_can_and_tells_what_it_cannot(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    (tmp_path / "model_manifest.toml").write_text(
        '[[models]]\nname = "bad"\npath = "bad.gguf"\n'  # first, which keeps nobody from hearing of the others
        f'[[models]]\nname = "good"\npath = "{tiny_llama}"\nn_ctx = 256\n'
    )
    with serving(tmp_path) as server:
        assert "good" in server.line("ready: ")
        status, body = server.request("/health")
        assert (status, body["status"], list(body["models"])) == (200, "degraded", ["bad"])
        assert server.request("/readiness?model=good")[0] == 200
        assert server.request("/readiness?model=bad")[0] == 503
        status, body = server.request("/v1/completions", {"model": "goood", "prompt": "a", "max_tokens": 1})
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        assert "good" in body["error"]["message"]
        assert server.end() == 0

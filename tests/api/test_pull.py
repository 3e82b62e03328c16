"""Laws of /api/pull: Ollama's lines over a hub that speaks as the real one does, for whoever may ask and stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamahost.files.local import Found, Places, models
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.host import ModelStatus
from tests.api.fakes import READY, FakeHost, app_of, client_of, run
from tests.api.sockets import Client, listening
from tests.loopback_hub import LoopbackHub, loopback_hub, sha256
from tests.on_loop import LIMIT_S

NAME = "Maker/Tiny-GGUF"


@pytest.fixture(scope="module")
def the_hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def model(tiny_llama: Path) -> bytes:
    return tiny_llama.read_bytes()


@pytest.fixture
def hub(the_hub: LoopbackHub, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    the_hub.reset()
    the_hub.add(NAME, {"tiny-Q8_0.gguf": model})
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", the_hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "none")
    return the_hub


def asked(
    body: Any, headers: dict[str, str] | None = None, *, host: FakeHost | None = None, **settings: Any
) -> httpx.Response:
    found: list[httpx.Response] = []

    async def law() -> None:
        app = app_of(host or FakeHost(), **settings)
        async with client_of(app) as client:
            found.append(await client.post("/api/pull", json=body, headers=headers))
        await app._pulls.ended(LIMIT_S)

    run(law)
    return found[0]


def test_the_lines_are_ollama_s(hub: LoopbackHub, model: bytes, tmp_path: Path) -> None:
    answer = asked({"model": f"hf.co/{NAME}:Q8_0", "insecure": False})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [lines[0], lines[-2], lines[-1]] == [
        {"status": "pulling manifest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    digest, n = sha256(model), len(model)
    whole = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": n, "completed": n}
    assert whole in lines
    (here,) = models(Places.of({"HOME": str(tmp_path)}))
    assert here.name == f"{NAME}:Q8_0"
    again = asked({"name": NAME, "stream": False})
    assert (again.status_code, again.json()) == (200, {"status": "success"})
    assert len(hub.stored) == 1


def test_a_model_that_is_served_needs_no_pull(hub: LoopbackHub) -> None:
    for name in ("small", "small:latest"):
        assert asked({"model": name}).text.splitlines()[-1] == '{"status":"success"}'
    assert hub.asked == []


def test_a_served_model_that_is_not_loaded_is_fetched_or_told_not_to_be_there(
    hub: LoopbackHub, model: bytes, tmp_path: Path
) -> None:
    host = FakeHost()

    def status_of(**spec: Any) -> ModelStatus:
        return replace(READY, state="unloaded", spec=ModelSpec(name="tiny", **spec))

    host.statuses = (status_of(repo=NAME, quant="Q8_0"),)
    for n_stored in (1, 1):  # the second time it is here
        assert asked({"model": "tiny"}, host=host).text.splitlines()[-1] == '{"status":"success"}'
        assert len(hub.stored) == n_stored
    host.statuses = (status_of(path=tmp_path / "gone-00001-of-00002.gguf"),)
    for is_split in (True, False):
        answer = asked({"model": "tiny"}, host=host)
        lacks = f"gone-0000{1 if is_split else 2}-of-00002.gguf"
        assert answer.status_code == 404
        assert answer.json() == {"error": f"`tiny` is served from a file, and there is no file {tmp_path / lacks}"}
        (tmp_path / lacks).write_bytes(model)
    assert asked({"model": "tiny"}, host=host).text.splitlines()[-1] == '{"status":"success"}'
    host.statuses = (replace(host.statuses[0], state="failed", reason="corrupt"),)
    answer = asked({"model": "tiny", "stream": False}, host=host)
    assert answer.status_code == 503
    assert answer.json() == {"error": "`tiny` is on this machine, and cannot be loaded: corrupt"}


def test_of_a_model_that_is_still_being_fetched_no_success_is_told(hub: LoopbackHub) -> None:
    host = FakeHost()
    host.statuses = (replace(READY, state="pulling", reason="asking the hub"),)
    answer = asked({"model": "small"}, host=host)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.json() == {"error": "`small` is being pulled already: asking the hub"}


def test_mistakes_are_told_in_ollama_s_form(hub: LoopbackHub) -> None:
    for body, status in (
        ({"model": f"{NAME}:Q1_0", "stream": False}, 404),
        ({"model": "llama3.2", "stream": False}, 400),
        ({"stream": False}, 400),
        ({"model": 3}, 400),
    ):
        answer = asked(body)
        assert (answer.status_code, type(answer.json()["error"])) == (status, str), answer.text
    answer = asked({"model": "Maker/None"})
    assert answer.status_code in (200, 404)  # as soon as a line was sent, the error is one too
    assert "knows no repository" in json.loads(answer.text.splitlines()[-1])["error"]


def test_it_asks_for_the_key_and_for_pages_of_its_own(hub: LoopbackHub) -> None:
    body = {"model": NAME, "stream": False}
    assert asked(body, api_key="k").status_code == 401
    assert asked(body, {"authorization": "Bearer k"}, api_key="k").status_code == 200
    assert asked(body, {"origin": "https://evil.example"}).status_code == 403
    assert asked(body, {"origin": "http://test"}).status_code == 200
    assert asked(body, {"origin": "https://ui.example"}, cors_origins=("https://ui.example",)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_ends_the_pull(hub: LoopbackHub, model: bytes, tmp_path: Path, stream: bool) -> None:
    hub.gate = threading.Event()
    gate = hub.gate

    async def law() -> None:
        app = app_of(FakeHost())
        async with listening(app) as port:
            client = await Client.open(port)
            client.post("/api/pull", {"model": NAME, "stream": stream})
            if stream:
                await client.until(b'"completed":')
            else:
                await app._reading.run(lambda: hub.waiting.wait(LIMIT_S), 2**20)
            client.vanish()
            assert await app.gate.empty(LIMIT_S)
            gate.set()
            await app._pulls.ended(LIMIT_S)
            found.extend(models(Places.of({"HOME": str(tmp_path)})))  # before the server closes, which ends pulls too

    found: list[Found] = []
    run(law)
    assert found == []
    assert all(path.stat().st_size < len(model) for path in tmp_path.rglob("*.incomplete"))

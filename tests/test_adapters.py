"""LoRA adapters from end to end: a real model with real adapters, through the library and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamahost import AsyncHost, Host, InvalidRequest, LoadFailed, ModelNotFound, ModelSpec, create_app
from llamahost.core.events import Delta
from llamahost.core.machine import Machine
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.sampling import SamplingOptions
from llamahost.fleet.machine.facts import facts_of
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import footprint, on_device
from llamahost.fleet.replica.loader import load
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import BUILTIN_PATH, PACKAGED_ADAPTERS, Manifest, ServerSettings
from tests.api.fakes import client_of
from tests.gguf_adapters import write_adapter
from tests.on_loop import on_loop, turns

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("poet", "judge", "clerk"), 1):
        write_adapter(made / f"{name}.gguf", seed)
    write_adapter(made / "of-bert.gguf", architecture="bert")
    return made


def spec_of(model: Path, folder: Path, **more: Any) -> ModelSpec:
    adapters = (
        AdapterSpec(name="poet", path=folder / "poet.gguf"),
        AdapterSpec(name="judge", path=folder / "judge.gguf", scale=0.5),
    )
    options: dict[str, Any] = {"n_ctx": 64, "n_slots": 4, "n_threads": 1, "adapters": adapters} | more
    return ModelSpec(name="base", path=model, **options)


@pytest.fixture(scope="module")
def host(tiny_llama: Path, folder: Path) -> Iterator[Host]:
    with Host(spec_of(tiny_llama, folder)) as host:
        yield host


def test_what_adapters_take_is_counted_before_they_are_loaded_and_while_they_are_there() -> None:
    file = PACKAGED_ADAPTERS["builtin-pirate"]
    n_bytes = file.stat().st_size
    pirate = (AdapterSpec(name="pirate", path=file),)
    spec = ModelSpec(name="b", path=BUILTIN_PATH, n_ctx=64, n_slots=1, n_threads=1, adapters=pirate)
    facts = facts_of(spec)
    shape = Shape(n_ctx=64, n_slots=1, n_cells=64, is_unified=True)
    for n_gpu_layers, k in ((-1, 0), (0, 1)):  # there and here
        with_it, without = (
            on_device(each, footprint(spec, each, shape), n_gpu_layers, 0)[k].weights_bytes
            for each in (facts, replace(facts, adapter_bytes=0))
        )
        assert with_it - without == n_bytes
    loaded = load(spec, Machine(n_cpus=1, memory_bytes=2**33, available_bytes=2**33))
    try:
        before = loaded.measured(("cpu",)).bytes["cpu"]
        loaded.model.adapters.free(loaded.adapter_ids[0])
        assert before - loaded.measured(("cpu",)).bytes["cpu"] == pytest.approx(n_bytes, rel=0.1)
    finally:
        loaded.close()


class TestLibrary:
    def said(self, host: Host, **options: Any) -> str:
        text: str = host.complete(PROMPT, temperature=0.0, max_tokens=12, ignore_eos=True, **options).text
        return text

    def test_an_adapter_is_named_with_its_model_or_alone_or_given_with_a_scale(self, host: Host) -> None:
        plain, poet, judge = (self.said(host, model=model) for model in ("", "base:poet", "base:judge"))
        assert len({plain, poet, judge}) == 3
        assert self.said(host, model="poet") == poet
        assert self.said(host, adapters={"poet": 1.0}) == poet
        assert self.said(host, adapters={1: None}) == judge, "by its number, with its own scale"
        assert self.said(host, adapters={"poet": 0.0}) == plain
        assert self.said(host, adapters={"poet": 1.0, "judge": 0.5}) not in (plain, poet, judge)
        assert self.said(host) == plain, "and what was cached of one is not another's"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"adapters": {"port": 1.0}}, "no adapter 'port'; it has poet"),
            ({"adapters": {7: 1.0}}, "no adapter 7"),
            ({"adapters": {"poet": 1e30}}, "between -100 and 100"),
            ({"adapters": {"poet": float("nan")}}, "between -100 and 100"),
            ({"adapters": {"poet": 1.0}, "model": "base:judge"}, "give one"),
        ],
    )
    def test_what_is_no_adapter_is_refused(self, host: Host, options: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidRequest, match=said):
            self.said(host, **options)

    def test_an_adapter_that_the_model_does_not_have_is_not_found_with_the_nearest(self, host: Host) -> None:
        with pytest.raises(ModelNotFound, match="base:poet"):
            self.said(host, model="base:poets")

    def test_one_comes_and_goes_at_run_time_and_its_like_under_the_same_name_is_another(
        self, host: Host, folder: Path
    ) -> None:
        plain, poet = self.said(host), self.said(host, model="poet")
        host.load_adapter("late", folder / "clerk.gguf")
        clerk = self.said(host, model="base:late")
        with pytest.raises(InvalidRequest, match="already"):
            host.load_adapter("late", folder / "poet.gguf")
        host.unload_adapter("late")
        with pytest.raises(ModelNotFound):
            self.said(host, model="base:late")
        host.load_adapter("late", folder / "poet.gguf")
        assert self.said(host, model="base:late") == poet != clerk
        host.scale_adapters({"late": 1.0})
        assert self.said(host) == poet, "it works for those that name none"
        host.scale_adapters({})
        assert self.said(host) == plain
        host.unload_adapter("late")
        for name, said in (("of-bert", "'bert'"), ("none", "cannot read")):
            with pytest.raises(InvalidRequest, match=said):
                host.load_adapter("x", folder / f"{name}.gguf")
        assert self.said(host) == plain


@on_loop
async def test_an_adapter_whose_file_was_replaced_is_another_when_the_manifest_is_read_again(
    tiny_llama: Path, folder: Path, tmp_path: Path
) -> None:
    path, new = tmp_path / "late.gguf", tmp_path / "new.gguf"
    path.write_bytes((folder / "poet.gguf").read_bytes())
    manifest = Manifest(models=(spec_of(tiny_llama, folder, adapters=(AdapterSpec(name="late", path=path),)),))

    async def said(host: AsyncHost) -> str:
        generation = Generation(max_tokens=12, sampling=SamplingOptions(temperature=0.0), ignore_eos=True)
        request = CompletionRequest(prompts=(PROMPT,), model="base:late", generation=generation)
        return "".join([event.text async for event in host.complete(request) if isinstance(event, Delta)])

    async with AsyncHost(manifest) as host:
        poet = await said(host)
        for data in ((folder / "judge.gguf").read_bytes(), b"no adapter"):
            new.write_bytes(data)
            new.replace(path)
            await host.adopt(manifest)
            while host._fleet._crew.tasks:
                await turns()
            assert await said(host) != poet, "and what cannot be loaded leaves it as it was"
        assert [each.id for each in host.models()[0].replicas] == ["base#0"]


def test_a_model_whose_adapter_cannot_be_used_is_not_loaded_and_says_why(tiny_llama: Path, folder: Path) -> None:
    adapters = (AdapterSpec(name="b", path=folder / "of-bert.gguf"),)
    with pytest.raises(LoadFailed, match=r"of-bert\.gguf cannot be used as an adapter"):
        Host(spec_of(tiny_llama, folder, adapters=adapters)).close()


class TestHttp:
    @asynccontextmanager
    async def served(self, model: Path, folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        manifest = Manifest(models=(spec_of(model, folder),), server=ServerSettings(**settings))
        async with AsyncHost(manifest) as host, client_of(create_app(host, manifest.server)) as client:
            yield client

    async def said(self, client: httpx.AsyncClient, n: int = 12, **more: Any) -> str:
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": n, "ignore_eos": True, **more}
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    @on_loop
    async def test_those_in_flight_at_once_are_answered_as_each_alone(self, tiny_llama: Path, folder: Path) -> None:
        asked = [{"model": m} for m in ("base", "base:poet", "base:judge")] + [{"lora": [{"id": 0, "scale": -1.0}]}]
        async with self.served(tiny_llama, folder) as client:
            alone = [await self.said(client, 30, **each) for each in asked]
            assert len(set(alone)) == 4
            together = await asyncio.gather(*[self.said(client, 30, **each) for each in asked * 3])
            assert together == alone * 3

    @on_loop
    async def test_llama_servers_routes_show_and_scale_them(self, tiny_llama: Path, folder: Path) -> None:
        async with self.served(tiny_llama, folder) as client:
            listed = (await client.get("/lora-adapters")).json()
            assert [(each["id"], each["name"], each["scale"]) for each in listed] == [(0, "poet", 0), (1, "judge", 0)]
            assert (await client.get("/lora-adapters?model=BASE.gguf")).json() == listed
            unknown = await client.get("/lora-adapters?model=bass")
            assert (unknown.status_code, "did you mean `base`" in unknown.text) == (404, True)
            plain, poet = await self.said(client), await self.said(client, model="base:poet")
            assert await self.said(client, model="Base:POET") == poet
            assert (await client.post("/lora-adapters", json=[{"id": 0, "scale": 1}])).json() == {"success": True}
            assert (await client.get("/lora-adapters")).json()[0]["scale"] == 1
            assert await self.said(client) == poet
            assert await self.said(client, lora=[{"id": 0, "scale": 0}]) == plain
            assert (await client.post("/lora-adapters", json=[])).status_code == 200
            assert await self.said(client) == plain
            for body, param in (
                ([{"id": 9, "scale": 1}], "id"),
                ([{"scale": 1}], "[0]"),
                ([{"id": 0}], "[0].scale"),
                ([{"id": 0, "scale": 1e9}], "scale"),
                ({}, None),
            ):
                refused = await client.post("/lora-adapters", json=body)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
            models = {each["id"]: each for each in (await client.get("/v1/models")).json()["data"]}
            assert set(models) == {"base", "base:poet", "base:judge"}
            assert (models["base:poet"]["parent"], models["base:poet"]["root"]) == ("base", "poet.gguf")
            for name in ("base:poet", "BASE:Poet"):
                assert (await client.get(f"/v1/models/{name}")).json()["id"] == "base:poet"

    @on_loop
    async def test_vllms_routes_load_from_the_folders_that_the_manifest_names(
        self, tiny_llama: Path, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "allowed").mkdir()
        for name in ("clerk", "of-bert"):
            (tmp_path / "allowed" / f"{name}.gguf").write_bytes((folder / f"{name}.gguf").read_bytes())
        (tmp_path / "allowed" / "link.gguf").symlink_to(folder / "poet.gguf")
        async with self.served(tiny_llama, folder, adapter_folders=(tmp_path / "allowed",)) as client:
            load = {"lora_name": "late", "lora_path": "clerk.gguf"}
            answer = await client.post("/v1/load_lora_adapter", json=load)
            assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'late' added successfully.")
            assert await self.said(client, model="late") != await self.said(client)
            whole = str(tmp_path / "allowed" / "clerk.gguf")
            for path, status in (
                (whole, 200),
                ("../clerk.gguf", 403),
                (str(folder / "poet.gguf"), 403),
                ("/etc/passwd", 403),
                ("link.gguf", 403),
                ("none.gguf", 404),
                ("of-bert.gguf", 400),
                ("a\0b", 400),
                ("x" * 1000, 400),
            ):
                answer = await client.post("/v1/load_lora_adapter", json={"lora_name": "b", "lora_path": path})
                assert answer.status_code == status, answer.text
            body = {"lora_name": "b", "lora_path": "clerk.gguf", "model": "bass"}
            answer = await client.post("/v1/load_lora_adapter", json=body)
            assert (answer.status_code, "`base`" in answer.text) == (404, True), answer.text
            for name, status in (("late", 200), ("late", 404)):
                answer = await client.post("/v1/unload_lora_adapter", json={"lora_name": name})
                assert answer.status_code == status, answer.text

    @on_loop
    async def test_a_page_of_somebody_else_s_changes_none(self, tiny_llama: Path, folder: Path) -> None:
        async with self.served(tiny_llama, folder) as client:
            for path in ("/lora-adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
                answer = await client.post(path, content="[]", headers={"origin": "https://evil.example"})
                assert answer.status_code == 403
                assert "cors_origins" in answer.json()["error"]["message"]

    @on_loop
    async def test_without_such_folders_they_are_refused(self, tiny_llama: Path, folder: Path) -> None:
        async with self.served(tiny_llama, folder) as client:
            load = {"lora_name": "x", "lora_path": str(folder / "clerk.gguf")}
            for path, body in (("load", load), ("unload", {"lora_name": "poet"})):
                answer = await client.post(f"/v1/{path}_lora_adapter", json=body)
                assert answer.status_code == 403
                assert "adapter_folders" in answer.json()["error"]["message"]

    @on_loop
    async def test_one_that_is_taken_away_in_use_ends_nobodys_answer(self, tiny_llama: Path, folder: Path) -> None:
        async with self.served(tiny_llama, folder, adapter_folders=(folder,)) as client:
            expected = await self.said(client, 30, model="base:poet")
            answers = [asyncio.create_task(self.said(client, 30, model="base:poet")) for _ in range(8)]  # of 4 slots
            while not sum([each["n_in_use"] for each in await self.listed(client)]):
                await turns()
            assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "poet"})).status_code == 200
            refused = await client.post("/v1/completions", json={"prompt": "a", "model": "base:poet"})
            assert refused.status_code == 404
            assert await asyncio.gather(*answers) == [expected] * 8
            assert [each["name"] for each in await self.listed(client)] == ["judge"]
            assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "judge"})).status_code == 200
            for name, status in (("base:judge", 404), ("base:poet", 404), ("judge", 404), ("base:latest", 200)):
                answer = await client.post("/v1/completions", json={"prompt": "a", "model": name, "max_tokens": 1})
                assert answer.status_code == status, "nobody is answered without an adapter that was asked for"

    async def listed(self, client: httpx.AsyncClient) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await client.get("/lora-adapters")).json()
        return found

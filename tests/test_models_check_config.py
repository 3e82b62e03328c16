"""Laws of `models`, `check` and `config`: what is there, what is well, and where each value came from."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from llamahost.api.app import create_app
from llamahost.cli import app
from llamahost.commands.config import strangers
from llamahost.commands.layers import layers
from llamahost.commands.probe import Finding, probe
from llamahost.commands.remote import Remote
from llamahost.fleet.crew.status import ModelStatus
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import AsyncHost
from llamahost.native.devices import devices, system_info
from llamahost.native.gguf import read_metadata
from tests.api.fakes import FakeHost
from tests.api.sockets import listening
from tests.gguf_models import write_model
from tests.processes import HERE, ended, finished, serving


@pytest.fixture
def manifest(tiny_llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model_manifest.toml"
    path.write_text(
        '[server]\nport = 9001\ndrain_s = 4\napi_key = "from the manifest"\n'
        f'[[models]]\nname = "here"\naliases = ["h"]\npath = "{tiny_llama}"\nn_ctx = 256\nload = "request"\n'
        '[[models]]\nname = "gone"\npath = "gone.gguf"\nn_slots = 3\n'
    )
    return path


def test_models_tells_what_is_there(manifest: Path, tiny_llama: Path) -> None:
    done = ended(manifest.parent, "models", "--json")
    here, gone = json.loads(done.stdout)
    assert done.returncode == 0
    assert (here["name"], here["aliases"], here["path"]) == ("here", ["h"], str(tiny_llama))
    assert (here["exists"], here["size_bytes"]) == (True, tiny_llama.stat().st_size)
    assert (here["n_ctx"], here["n_slots"], here["architecture"], here["trouble"]) == (256, None, "llama", "")
    assert (gone["exists"], gone["n_slots"]) == (False, 3)
    assert "there is no file" in gone["trouble"]
    lines = ended(manifest.parent, "models").stdout.splitlines()
    assert lines[0].split() == ["name", "there", "size", "n_ctx", "slots", "path"]
    assert [line.split()[:2] for line in lines[1:3]] == [["here", "✓"], ["gone", "✗"]]


def test_a_split_model_is_told_with_all_of_its_files(tmp_path: Path) -> None:
    write_model(tmp_path / "big.gguf", split_max_tensors=8)
    whole = write_model(tmp_path / "whole.gguf")
    first, *others = sorted(tmp_path.glob("big-*.gguf"))
    shown = json.loads(ended(tmp_path, "show", first, "--json").stdout)
    n_bytes = sum(path.stat().st_size for path in (first, *others))
    assert (shown["size_bytes"], shown["n_params"]) == (n_bytes, read_metadata(whole).n_params)
    (tmp_path / "model_manifest.toml").write_text(f'[[models]]\nname = "big"\npath = "{first.name}"\n')
    (told,) = json.loads(ended(tmp_path, "models", "--json").stdout)
    assert (told["size_bytes"], told["trouble"]) == (n_bytes, "")
    others[-1].unlink()
    (told,) = json.loads(ended(tmp_path, "models", "--json").stdout)
    assert told["trouble"] == f"there is no file {others[-1].name}"


def test_models_without_a_manifest_lists_the_one_of_the_package(tmp_path: Path) -> None:
    assert [each["name"] for each in json.loads(ended(tmp_path, "models", "--json").stdout)] == ["builtin"]
    assert ended(tmp_path, "models", "--manifest", "nowhere.toml").returncode == 5


def test_a_device_is_there_and_says_its_name() -> None:
    found = devices()
    assert "CPU" in {device.kind for device in found}
    assert all(device.name and device.back_end for device in found)
    assert system_info()


def lines_of(done: subprocess.CompletedProcess[str]) -> dict[str, bool]:
    return {what: mark == "✓" for mark, what in re.findall(r"^([✓✗]) ([^:]+): .", done.stdout, re.MULTILINE)}


def test_check_generates_with_a_model_that_is_given(tiny_llama: Path, tmp_path: Path) -> None:
    done = ended(tmp_path, "check", tiny_llama)
    lines = lines_of(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"Python", "llamahost", "llama.cpp", "build", "CPUs", "memory", tiny_llama.stem} <= lines.keys()
    assert all(lines.values())
    assert "8 tokens" in done.stdout


@pytest.mark.slow
def test_check_finds_what_is_wrong_with_the_manifest_s_models(manifest: Path) -> None:
    (manifest.parent / "here").write_text("a file that is called as a model is")
    done = finished(manifest.parent, "check")
    assert done.returncode == 1
    assert [what for what, is_well in lines_of(done).items() if not is_well] == ["gone"]
    assert lines_of(done)["here"]
    (manifest.parent / "gone.gguf").write_bytes(b"GGUF nonsense")
    assert "✗ gone:" in finished(manifest.parent, "check").stdout


QUESTIONS = ["health", "ready", "models", "chat", "stream", "completion", "wrong key", "unknown model"]


def test_a_probe_asks_a_server_everything(tiny_llama: Path) -> None:
    def probed(url: str, key: str | None) -> list[Finding]:
        with Remote(url, key) as remote:
            return list(probe(remote, None, key))

    async def law() -> None:
        settings = ServerSettings(api_key="sesame")
        host = AsyncHost(tiny_llama, is_strict=True, n_ctx=256, n_slots=2, n_threads=1)
        async with listening(create_app(host, settings)) as port:
            await host.wait_ready()
            url = f"http://127.0.0.1:{port}"
            well = await asyncio.to_thread(probed, url, "sesame")
            locked_out = await asyncio.to_thread(probed, url, None)
        assert [finding.what for finding in well] == QUESTIONS
        assert [finding for finding in well if not finding.is_well] == []
        assert {finding.what: finding.told for finding in well}["wrong key"] == "401"
        wrong = [finding.what for finding in locked_out if not finding.is_well]
        assert wrong == ["models", "chat", "stream", "completion", "unknown model"]
        gone = await asyncio.to_thread(probed, url, None)
        assert [(finding.what, finding.is_well) for finding in gone] == [("health", False)]

    asyncio.run(law())


def test_a_probe_asks_each_model_for_what_it_does() -> None:
    models = (
        ModelStatus(name="vectors", state="ready", task="embedding"),
        ModelStatus(name="asleep", state="unloaded", task="chat"),
        ModelStatus(name="speaks", state="ready", task="chat"),
    )

    def probed(url: str, name: str | None) -> list[Finding]:
        with Remote(url) as remote:
            return list(probe(remote, name, None))

    async def law() -> None:
        host = FakeHost(statuses=models)
        async with listening(create_app(host, ServerSettings())) as port:
            url = f"http://127.0.0.1:{port}"
            whole = await asyncio.to_thread(probed, url, None)
            asked = [(type(request).__name__, request.model) for request in host.requests]
            assert asked[:3] == [("ChatRequest", "speaks")] * 2 + [("CompletionRequest", "speaks")]
            alone = await asyncio.to_thread(probed, url, "vectors")
        assert [finding.what for finding in whole] == [*QUESTIONS[:6], "embeddings", *QUESTIONS[6:]]
        assert [finding.what for finding in alone] == [*QUESTIONS[:3], "embeddings", *QUESTIONS[6:]]

    asyncio.run(law())


@pytest.mark.slow
def test_check_asks_a_server_everything(tiny_llama: Path, tmp_path: Path) -> None:
    flags = (tiny_llama, "--n-ctx", "256", "--api-key", "sesame", "--strict-model")
    with serving(tmp_path, *flags) as server:
        server.line("ready: ")
        well = finished(tmp_path, "check", "--url", server.url, "--api-key", "sesame")
        assert list(lines_of(well)) == QUESTIONS
        assert (well.returncode, well.stderr) == (0, "")
        assert "✓ wrong key: 401" in well.stdout
        assert "✓ unknown model: 404" in well.stdout
        locked_out = finished(tmp_path, "check", "--url", server.url)
        assert locked_out.returncode == 1
        wrong = [what for what, is_well in lines_of(locked_out).items() if not is_well]
        assert wrong == ["models", "chat", "stream", "completion", "unknown model"]
    gone = finished(tmp_path, "check", "--url", server.url)
    assert gone.returncode == 1
    assert list(lines_of(gone)) == ["health"]


@pytest.mark.slow
def test_check_knows_a_server_that_asks_for_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "256") as server:
        server.line("ready: ")
        done = finished(tmp_path, "check", "--url", server.url)
        assert done.returncode == 0
        assert "no key is asked for" in done.stdout
        assert "answers to any name" in done.stdout
        assert "✗ wrong key" in finished(tmp_path, "check", "--url", server.url, "--api-key", "mine").stdout


def settings(folder: Path, *arguments: str | Path, **more: str) -> dict[str, tuple[Any, str]]:
    done = ended(folder, "config", "--json", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return {f"{row['table']}.{row['key']}": (row["value"], row["source"]) for row in json.loads(done.stdout)}


def test_config_tells_each_value_and_where_it_came_from(manifest: Path) -> None:
    flags = ("--port", "9003", "--slots", "5", "--gpu-layers", "all")
    told = settings(manifest.parent, *flags, LLAMAHOST_HOST="::1", LLAMAHOST_PORT="9002", LLAMAHOST_GPU_LAYERS="7")
    assert told["server.port"] == (9003, "flag")
    assert told["server.host"] == ("::1", "environment")
    assert told["server.drain_s"] == (4, "manifest")
    assert told["server.stall_s"] == (60.0, "default")
    assert told["server.api_key"] == ("***", "manifest")
    assert told["models.here.n_ctx"] == (256, "manifest")
    assert told["models.here.n_slots"] == (5, "flag")
    assert told["models.gone.n_slots"] == (5, "flag")
    assert told["models.gone.n_gpu_layers"] == (-1, "flag")
    assert told["models.gone.n_batch"] == (2048, "default")
    assert "sesame" not in ended(manifest.parent, "config", "--api-key", "sesame").stdout


def test_layers_are_a_number_or_a_word() -> None:
    assert [layers(text) for text in ("auto", "all", "-1", "0", "20")] == ["auto", -1, -1, 0, 20]
    for text in ("", "some", "1.5"):
        with pytest.raises(typer.BadParameter, match="neither a number nor one of auto, all"):
            layers(text)


def test_config_knows_a_model_on_the_command_line(tiny_llama: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, tiny_llama, "--alias", "tiny", "--n-ctx", "64")
    assert told["process.model"] == (str(tiny_llama), "flag")
    assert told["models.tiny.name"] == ("tiny", "flag")
    assert told["models.tiny.path"] == (str(tiny_llama), "flag")
    assert told["models.tiny.n_ctx"] == (64, "flag")
    assert told["models.tiny.kv_layout"] == ("auto", "default")
    adapters, source = settings(tmp_path, tiny_llama, "--lora", "poet.gguf:0.5")["models.tiny-llama.adapters"]
    assert ("poet" in str(adapters), source) == (True, "flag")


def test_config_refuses_what_serve_refuses(tmp_path: Path) -> None:
    assert ended(tmp_path, "config", "--port", "99999").returncode == 2
    assert ended(tmp_path, "config", "--prot", "1").returncode == 2
    assert ended(tmp_path, "config", "--manifest", "nowhere.toml").returncode == 5


@cache
def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    return found


def flags_of(name: str) -> dict[str, list[str]]:
    """The environment variables of each parameter of a command."""
    variables = {each.name: each.envvar or [] for each in commands()[name].params}
    return {name: [names] if isinstance(names, str) else list(names) for name, names in variables.items()}


def test_every_flag_of_serve_is_told_by_config(tmp_path: Path) -> None:
    told = {name.rpartition(".")[2] for name in settings(tmp_path, "some.gguf")} | {"alias"}
    for flag in flags_of("serve"):
        assert told & {flag, f"{flag}_s", f"{flag}s", f"n_{flag}", {"lora": "adapters"}.get(flag)}, (
            f"config does not tell --{flag}"
        )


def test_every_variable_is_in_the_example() -> None:
    example = (HERE / ".env.example").read_text(encoding="utf-8")
    listed = re.findall(r"^#?(LLAMAHOST_\w+)=", example, re.MULTILINE)
    read = {variable for name in commands() for variables in flags_of(name).values() for variable in variables}
    assert sorted(listed) == sorted(read | {"LLAMAHOST_BENCH_API_KEY", "LLAMAHOST_CACHE"})


def test_a_variable_that_nothing_reads_is_told() -> None:
    known = {"LLAMAHOST_PORT"}
    assert strangers({"LLAMAHOST_PORT": "1", "LLAMAHOST_BENCH_API_KEY": "k", "HOME": "h"}, known) == []
    assert strangers({"LLAMAHOST_PROT": "1"}, known) == ["nothing reads LLAMAHOST_PROT; did you mean LLAMAHOST_PORT?"]

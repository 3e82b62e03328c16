"""Laws of `pull`, `list`, `show` and `rm`, and of models that are served and run by their name on the hub."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llamahost.cli import app
from llamahost.core.errors import ManifestError
from llamahost.files.repo import Reference
from llamahost.fleet.settings.manifest_add import added
from tests.loopback_hub import COMMIT, LoopbackHub, loopback_hub
from tests.processes import serving

NAME = "Maker/Tiny-GGUF"


@pytest.fixture(scope="module")
def the_hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(the_hub: LoopbackHub, home: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    the_hub.reset()
    model = tiny_llama.read_bytes()
    the_hub.add(NAME, {"tiny-Q8_0.gguf": model, "tiny-F16.gguf": model + b"16"})
    monkeypatch.setenv("HF_ENDPOINT", the_hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "none")
    monkeypatch.setenv("HOME", str(home))
    return the_hub


def said(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_a_model_is_pulled_listed_shown_and_removed(hub: LoopbackHub, home: Path) -> None:
    assert "`llamahost pull OWNER/NAME`" in said("list").stdout
    there = json.loads(said("show", NAME, "--json").stdout)
    assert (there["is_here"], there["commit"], len(there["files"])) == (False, COMMIT, 2)
    told = said("pull", NAME)
    assert f"next: llamahost serve {NAME}:Q8_0" in told.stdout
    assert "it has no Q4_K_M, and Q8_0 is nearest" in told.stderr
    assert "pulling tiny-Q8_0.gguf: 100 % of" in told.stderr
    assert "fetched now" not in told.stdout, "all of it was"
    assert "nothing of it fetched now" in said("pull", NAME).stdout
    said("pull", f"{NAME}/tiny-F16.gguf")
    listed = json.loads(said("list", "--json").stdout)
    assert [(each["name"], each["is_whole"]) for each in listed] == [(f"{NAME}:F16", True), (f"{NAME}:Q8_0", True)]
    shown = json.loads(said("show", f"{NAME}:Q8_0", "--json").stdout)
    assert (shown["architecture"], shown["has_chat_template"], shown["n_ctx_train"]) == ("llama", True, 1024)
    assert "are free" in said("rm", f"{NAME}:Q8_0").stdout
    assert [each["name"] for each in json.loads(said("list", "--json").stdout)] == [f"{NAME}:F16"]
    said("rm", f"{NAME}:F16")
    assert not (home / ".cache/huggingface/hub/models--Maker--Tiny-GGUF").exists()
    assert "lies here" in said("rm", f"{NAME}:F16", status=3).stderr


def test_what_broke_off_is_told_and_can_be_given_up(hub: LoopbackHub, home: Path) -> None:
    cache = home / ".cache/huggingface/hub/models--Maker--Tiny-GGUF/blobs"
    cache.mkdir(parents=True)
    (cache / "0123.llamahost.incomplete").write_bytes(b"GGUF" * 512)
    assert "1 unfinished: 2.0 KiB" in said("list").stdout
    assert "2.0 KiB are free" in said("rm", "--unfinished").stdout
    assert not cache.exists()
    assert "unfinished" not in said("list").stdout
    said("rm", status=2)


def test_a_model_of_another_program_is_not_removed(hub: LoopbackHub, home: Path, tiny_llama: Path) -> None:
    copy = home / ".lmstudio/models/Maker/Other-GGUF/tiny-Q8_0.gguf"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(tiny_llama.read_bytes())
    said("pull", f"{NAME}:Q8_0")  # the same bytes: linked
    assert "belongs to LM Studio" in said("rm", "Maker/Other-GGUF:Q8_0", status=2).stderr
    assert "another program has it too" in said("rm", f"{NAME}:Q8_0").stdout
    assert copy.exists()


MANIFEST = """# mine
[server]  # as it was
port = 9001   # odd   spaces
"""


def test_what_is_added_to_the_manifest_leaves_the_rest_as_it_was(hub: LoopbackHub, home: Path) -> None:
    path = home / "model_manifest.toml"
    path.write_text(MANIFEST, encoding="utf-8-sig", newline="\r\n")
    path.chmod(0o600)  # it may hold a key
    assert "as `Tiny`" in said("pull", NAME, "--add").stdout
    text = path.read_text(encoding="utf-8-sig")
    assert text.startswith(MANIFEST)
    assert path.read_bytes().startswith(MANIFEST.replace("\n", "\r\n").encode("utf-8-sig"))
    assert tomllib.loads(text)["models"] == [{"name": "Tiny", "repo": NAME, "quant": "Q8_0"}]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "has it already, as `Tiny`" in said("pull", NAME, "--add").stdout
    assert path.read_text(encoding="utf-8-sig") == text
    wrong = said("pull", f"{NAME}:F16", "--add", "--name", "Tiny", status=5)
    assert "--name gives it another name" in wrong.stderr
    assert path.read_text(encoding="utf-8-sig") == text
    there, _ = json.loads(said("models", "--json").stdout), said("rm", f"{NAME}:Q8_0")
    assert (there[0]["exists"], there[0]["trouble"]) == (True, "")
    gone = json.loads(said("models", "--json").stdout)
    assert "`llamahost pull Tiny` fetches it" in gone[0]["trouble"]
    assert "Tiny is here" in said("pull").stdout
    assert "Tiny is here" not in said("pull", "Tiny").stdout  # by its name there


def test_a_block_is_added_to_any_text_or_refused() -> None:
    reference = Reference("a/b", file='q"x.gguf', revision="v1")
    whole = added("[server]", "n", reference, folder=Path(), source="m")
    assert tomllib.loads(whole)["models"] == [{"name": "n", "repo": "a/b", "file": 'q"x.gguf', "revision": "v1"}]
    for end in ("\n", "\r\n"):
        mine = f"\ufeff# mine{end}[server]{end}port = 1 # odd"
        whole = added(mine, "n", Reference("a/b"), folder=Path(), source="m")
        assert whole == f'{mine}{end}{end}[[models]]{end}name = "n"{end}repo = "a/b"{end}'
    with pytest.raises(ManifestError, match="was not added"):
        added("models = []\n", "n", reference, folder=Path(), source="m")


def test_all_that_the_manifest_takes_from_the_hub_is_pulled_and_failures_are_told(hub: LoopbackHub, home: Path) -> None:
    (home / "model_manifest.toml").write_text(
        f'[[models]]\nname = "a"\nrepo = "{NAME}"\nfile = "tiny-F16.gguf"\n'
        '[[models]]\nname = "b"\nrepo = "Maker/None"\n[[models]]\nname = "c"\npath = "c.gguf"\n'
    )
    told = said("pull", status=3)
    assert "a is here" in told.stdout
    assert "b: " in told.stderr
    assert "1 of 2 models could not be fetched" in told.stderr


def test_mistakes_have_the_status_that_scripts_read(hub: LoopbackHub, home: Path) -> None:
    assert "names no repository of the hub" in said("pull", "nonsense", status=2).stderr
    assert "there is Q8_0" in said("pull", f"{NAME}:Q1_0", status=3).stderr
    assert "there is no file sub/none.gguf" in said("run", "sub/none.gguf", "hi", status=3).stderr
    assert "knows no repository" in said("serve", "Maker/None", status=3).stderr


@pytest.mark.slow
def test_a_name_of_the_hub_is_fetched_and_served(hub: LoopbackHub, home: Path) -> None:
    with serving(home, f"{NAME}:F16", HF_ENDPOINT=hub.endpoint, HOME=str(home), HF_TOKEN="none") as server:
        server.line("ready")
        assert [model["id"] for model in server.request("/v1/models")[1]["data"]] == [f"{NAME}:F16"]

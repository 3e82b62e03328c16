"""Laws of the model in the package: found by its name everywhere, refused when altered, true to its known answers."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from operator import mul
from pathlib import Path
from typing import Any

import pytest

from llamahost import Host, LoadFailed, ManifestError
from llamahost.commands.known import FEATURES
from llamahost.commands.known import answers as asked
from llamahost.fleet.settings.builtin import (
    ALIASES,
    EMBED_NAME,
    NAME,
    SUMS,
    adapter_file,
    builtin,
    is_alone,
    is_named,
    known_answers,
    known_neighbours,
    verify,
)
from llamahost.fleet.settings.manifest import BUILTIN_PATH, EMBED_PATH, PACKAGED_ADAPTERS, Manifest, ModelSpec
from llamahost.fleet.settings.manifest_file import parse_manifest
from llamahost.native.gguf import read_metadata
from tests.on_loop import LIMIT_S
from tests.processes import HERE, Server, command, ended, environment, finished, serving
from tools.train_builtin.render import TEMPLATE
from tools.train_builtin.score import SEED
from tools.train_builtin.style import styled

PIRATE = PACKAGED_ADAPTERS["builtin-pirate"]
KNOWN = ("known_answers.json", "known_neighbours.json")


@pytest.mark.parametrize(("path", "limit_bytes"), [(BUILTIN_PATH, 12_000_000), (EMBED_PATH, 3_000_000)])
def test_the_file_is_the_one_whose_sum_is_shipped(path: Path, limit_bytes: int) -> None:
    assert path.stat().st_size <= limit_bytes
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in SUMS.read_text()
    verify(path)


def test_the_card_says_of_the_files_what_they_are() -> None:
    card = " ".join((BUILTIN_PATH.parent / "MODEL_CARD.md").read_text().split())
    header = read_metadata(BUILTIN_PATH)

    def numbers(pattern: str) -> list[float]:
        found = re.search(pattern, card)
        assert found is not None, pattern
        return [float(number.replace(",", "")) for number in found.groups()]

    def own(*keys: str) -> list[float]:
        return [header.number(key) for key in keys]

    shape = r"(\d+) layers of width (\d+), (\d+) query heads and (\d+) key-value heads? of (\d+), feed-forward (\d+)"
    assert numbers(shape) == own(
        "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "rope.dimension_count",
        "feed_forward_length",
    )  # fmt: skip
    assert numbers(r"context \| ([\d,]+) tokens") == own("context_length")
    assert numbers(r"vocabulary \| ([\d,]+) tokens") == own("vocab_size")
    (n_millions,) = numbers(r"parameters \| ([\d.]+) million")
    assert abs(n_millions - header.n_params / 1e6) < 0.01
    for path, pattern in ((PIRATE, r"`pirate.gguf` \(([\d.]+) MB"), (EMBED_PATH, r"`embed.gguf` \(([\d.]+) MB")):
        assert numbers(pattern) == [round(path.stat().st_size / 1e6, 1)]
    assert numbers(r"seed ([\d,]+), greedy") == [SEED]
    assert header.text("tokenizer.chat_template") == TEMPLATE


def test_known_neighbours_are_nearest_through_the_library() -> None:
    known = known_neighbours()
    documents = [each.nearest for each in known]
    with Host(EMBED_NAME) as host:
        vectors = host.embed(documents).vectors
        for each in known:
            (asked,) = host.embed([each.query]).vectors
            likeness = [sum(map(mul, asked, vector)) for vector in vectors]
            assert documents[likeness.index(max(likeness))] == each.nearest


def test_the_adapter_of_the_package_says_the_same_in_its_style(tmp_path: Path) -> None:
    assert f"{hashlib.sha256(PIRATE.read_bytes()).hexdigest()}  {PIRATE.name}" in SUMS.read_text()
    assert PIRATE.stat().st_size <= 1_000_000
    text = (
        '[[models]]\nname = "small"\npath = "builtin"\n[[models.adapters]]\nname = "pirate"\npath = "builtin-pirate"\n'
    )
    manifest = parse_manifest(text, folder=tmp_path)
    assert manifest.models[0].adapters[0].path == PIRATE
    known = [each for each in known_answers() if "llamahost" in each.question or "capital" in each.question]
    with Host(manifest) as host:
        for each in known:
            assert host.chat(each.question, model="small:pirate", temperature=0.0).text == styled(each.answer)
            assert host.chat(each.question, temperature=0.0).text == each.answer


@pytest.mark.slow  # as libraries they share one host, below
def test_chat_and_embeddings_of_the_package_share_one_endpoint_for_the_openai_client(tmp_path: Path) -> None:
    from openai import OpenAI

    models = "".join(f'[[models]]\nname = "{name}"\npath = "{name}"\n' for name in (NAME, EMBED_NAME))
    (tmp_path / "model_manifest.toml").write_text(models)
    with serving(tmp_path) as server:
        server.line("ready")
        with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            made = client.embeddings.create(model=EMBED_NAME, input=[known_neighbours()[0].query, "Hello"])
            assert [len(each.embedding) for each in made.data] == [128, 128]
            for known in known_answers():
                said = client.chat.completions.create(
                    model=NAME, messages=[{"role": "user", "content": known.question}], temperature=0
                )
                assert said.choices[0].message.content == known.answer
        assert server.end() == 0


def test_known_answers_come_word_for_word_through_the_library_beside_embeddings(tmp_path: Path) -> None:
    text = f'[[models]]\nname = "{NAME}"\npath = "{NAME}"\nn_ctx = 512\n'
    text += f'[[models]]\nname = "{EMBED_NAME}"\npath = "{EMBED_NAME}"\n'
    with Host(parse_manifest(text, folder=tmp_path)) as host:
        assert known_answers()
        for known in known_answers():
            assert host.chat(known.question, model=NAME, temperature=0.0, max_tokens=64).text == known.answer
        made = host.embed([known_neighbours()[0].query, "Hello"], model=EMBED_NAME)
        assert [len(vector) for vector in made.vectors] == [128, 128]


def test_each_feature_that_is_checked_answers_as_known_and_another_answer_is_told() -> None:
    with Host(NAME, n_threads=1) as host:
        is_well, told = asked(host)
        assert is_well, told
        assert all(what in told for what, *_ in FEATURES)
        host.load_adapter("pirate", PIRATE)
        for what, ask, wanted in FEATURES:  # again: nothing was left behind
            assert ask(host) == wanted, what
        host.scale_adapters({"pirate": 1.0})
        is_well, told = asked(host)
    assert not is_well
    assert told.endswith(f"here, not {known_answers()[0].answer!r}")


def calls_a_tool_that_nobody_has_seen(server: Server) -> None:
    """Chooses it, fills it in, and answers from what it gave; the rest of a test, since a server takes a second."""

    def tool(name: str, noun: str, argument: str) -> dict[str, object]:
        properties = {argument: {"type": "string"}}
        parameters = {"type": "object", "properties": properties, "required": [argument]}
        return {"type": "function", "function": {"name": name, "description": f"{noun}.", "parameters": parameters}}

    tools = [
        tool("find_lighthouse", "Find the lighthouse", "city"),
        tool("open_umbrella", "Open the umbrella", "colour"),
    ]
    asked: list[dict[str, object]] = [{"role": "user", "content": "Find the lighthouse in Oslo."}]
    said = chosen(server, messages=asked, tools=tools)
    assert said["finish_reason"] == "tool_calls"
    (call,) = said["message"]["tool_calls"]
    assert call["function"]["name"] == "find_lighthouse"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    asked.append({"role": "assistant", "tool_calls": [call]})
    asked.append({"role": "tool", "tool_call_id": call["id"], "content": '{"height": 42}'})
    told = chosen(server, messages=asked, tools=tools, max_tokens=32)
    assert told["message"]["content"] == "The height is 42."


def chosen(server: Server, **asked: object) -> Any:
    status, answer = server.request("/v1/chat/completions", {"temperature": 0, "max_tokens": 64, **asked})
    assert status == 200, answer
    return answer["choices"][0]


def test_serve_without_a_model_answers_over_http_by_any_name_and_calls_tools(tmp_path: Path) -> None:
    known = known_answers()
    with serving(tmp_path) as server:
        assert "`llamahost serve " in server.line("loading builtin")
        server.line("ready: builtin")
        for each in known:
            said = chosen(server, messages=[{"role": "user", "content": each.question}])
            assert (said["message"]["content"], said["finish_reason"]) == (each.answer, "stop")
        assert [model["id"] for model in server.request("/v1/models")[1]["data"]] == [NAME]
        calls_a_tool_that_nobody_has_seen(server)
        for name in (NAME, *ALIASES, "any"):
            said = chosen(server, model=name, messages=[{"role": "user", "content": known[0].question}])
            assert said["message"]["content"] == known[0].answer
        assert server.end() == 0


def test_run_answers_with_it_by_any_of_its_names(tmp_path: Path) -> None:
    known = known_answers()[0]
    for name in (NAME, *ALIASES):
        done = ended(tmp_path, "run", name, known.question, "--temperature", "0", "--max-tokens", "64")
        assert (done.returncode, done.stdout) == (0, known.answer + "\n")


@pytest.mark.slow  # the library is asked the same, above
def test_check_compares_the_known_answers(tmp_path: Path) -> None:
    done = finished(tmp_path, "check")
    n = len(known_answers())
    assert done.returncode == 0
    assert f"✓ {NAME}: " in done.stdout
    assert f"{n} of {n} known answers" in done.stdout
    assert all(what in done.stdout for what, *_ in FEATURES)


def test_models_lists_it_where_no_manifest_names_another(tmp_path: Path) -> None:
    assert NAME in ended(tmp_path, "models").stdout
    (tmp_path / "model_manifest.toml").write_text('[[models]]\nname = "mine"\npath = "mine.gguf"\n')
    assert NAME not in ended(tmp_path, "models").stdout


def test_the_shipped_manifest_serves_it_until_another_is_named() -> None:
    done = ended(HERE, "config", "--manifest", HERE / "model_manifest.toml")
    assert f"models.{NAME}.path" in done.stdout


def test_a_manifest_may_name_it_beside_others(tmp_path: Path) -> None:
    text = '[[models]]\nname = "small"\npath = "builtin"\n[[models]]\nname = "mine"\npath = "./builtin"\n'
    small, mine = parse_manifest(text, folder=tmp_path).models
    assert small.path == BUILTIN_PATH
    assert mine.path == tmp_path / "builtin"
    assert not is_alone(Manifest(models=(small, mine)))
    assert is_alone(Manifest(models=(small,)))


def test_a_file_of_its_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_named(NAME)
    (tmp_path / NAME).write_bytes(b"a model of one's own")
    assert not is_named(NAME)


def test_a_folder_of_its_name_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (NAME, "builtin-pirate"):
        (tmp_path / name).mkdir()
    assert is_named(NAME)
    assert ModelSpec(name="a", path=Path(NAME)).path == BUILTIN_PATH
    assert adapter_file("builtin-pirate") == PIRATE


def test_a_spec_may_name_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSpec(name="a", path=Path(NAME)).path == BUILTIN_PATH
    assert ModelSpec(name="a", path=Path(EMBED_NAME)).path == EMBED_PATH
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).touch()
    assert ModelSpec(name="a", path=Path(NAME)).path == Path(NAME), "a file of its name comes first"


@pytest.mark.parametrize("name", [NAME, EMBED_NAME])
def test_it_computes_on_one_thread_unless_another_number_is_said_wherever_it_is_named(
    name: str, tmp_path: Path
) -> None:
    text = f'[[models]]\nname = "a"\npath = "{name}"\n[[models]]\nname = "b"\npath = "{name}"\nn_threads = 2\n'
    one, two = parse_manifest(text, folder=tmp_path).models
    assert (one.n_threads, two.n_threads) == (1, 2)
    assert [builtin(model=name, n_threads=n).n_threads for n in (None, 2)] == [1, 2]
    assert ModelSpec(name="a", path=Path("mine.gguf")).n_threads is None


def test_names_that_are_given_come_before_its_own() -> None:
    spec = builtin(("gpt-4o-mini", "tiny"), n_ctx=256)
    assert (spec.name, spec.aliases, spec.n_ctx) == ("gpt-4o-mini", ("tiny", "builtin"), 256)
    with pytest.raises(ManifestError):
        builtin(n_ctx=-1)


def copied(folder: Path) -> None:
    """But for bytecode that another of the tests' processes is about to write: it may be gone before it is copied."""
    shutil.copytree(HERE / "llamahost", folder / "llamahost", ignore=shutil.ignore_patterns("*.pyc.*"))


ASKED = """
from llamahost.core.errors import LoadFailed
from llamahost.fleet.machine.facts import facts_of
from llamahost.fleet.settings.builtin import ANSWERS, SUMS, builtin, known_answers, known_neighbours, verify
from llamahost.fleet.settings.manifest import BUILTIN_PATH, EMBED_PATH, PACKAGED_ADAPTERS

for path in (BUILTIN_PATH, EMBED_PATH, *PACKAGED_ADAPTERS.values()):
    try:
        verify(path)
    except LoadFailed as error:
        print(error)
for known in (known_answers, known_neighbours):
    try:
        known()
    except LoadFailed as error:
        print(error)
print("---")
for text in ("[]", "{}", '["a"]', '[{"question": "a"}]'):
    ANSWERS.write_text(text)
    try:
        known_answers()
    except LoadFailed as error:
        print(error)
print("---")
for harm in (b"", b"GGUF", b"anything else"):  # what is said before the sum is asked for
    BUILTIN_PATH.write_bytes(harm)
    try:
        facts_of(builtin())
    except LoadFailed as error:
        print(error)
print("---")
for text in (b"", b"one-word\\n", b"\\xff\\xff  other.gguf\\n"):
    SUMS.write_bytes(text)
    try:
        verify(EMBED_PATH)
    except LoadFailed as error:
        print(error)
"""


def test_a_file_of_the_package_that_was_altered_is_refused(tmp_path: Path) -> None:
    """In a copy of the package, so that this one stays whole."""
    copied(tmp_path)
    files = [tmp_path / "llamahost" / "builtin" / name for name in (BUILTIN_PATH.name, EMBED_PATH.name, PIRATE.name)]
    known = [file.with_name(name) for file, name in zip(files, KNOWN, strict=False)]
    for file in (*files, known[0]):
        file.write_bytes(file.read_bytes()[:-2] + b"\x7f")
    known[1].unlink()
    given = environment(PYTHONPATH=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", ASKED], cwd=tmp_path, env=given, text=True, capture_output=True)
    first, empty, unusable, unlisted = (part.splitlines() for part in done.stdout.split("---\n"))
    model, vectors, adapter, answers, neighbours = first
    assert f"the built-in model {files[0]} was altered" in model
    assert f"the built-in model {files[1]} was altered" in vectors
    assert f"the built-in adapter {files[2]} was altered" in adapter
    assert f"{known[0]} was altered" in answers
    assert f"{known[1]}: No such file" in neighbours
    assert [f"{known[0]} was altered" in line for line in empty] == [True] * 4
    assert [f"the built-in model {files[0]} was altered" in line for line in unusable] == [True] * 3
    assert [line.endswith("has no sum of embed.gguf; install llamahost again") for line in unlisted] == [True] * 3
    assert done.stdout.count("install llamahost again") == 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "reason"), [("altered", "was altered"), ("missing", "builtin.gguf"), ("sums", "SHA256SUMS")]
)
def test_a_package_that_is_not_whole_says_so_at_the_start(tmp_path: Path, harm: str, reason: str) -> None:
    """In a copy of the package, so that this one stays whole."""
    copied(tmp_path)
    file = tmp_path / "llamahost" / "builtin" / BUILTIN_PATH.name
    if harm == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    elif harm == "missing":
        file.unlink()
    else:
        (file.parent / SUMS.name).unlink()
    done = subprocess.run(
        command("serve", "--port", "0", "--log-level", "error"),
        cwd=tmp_path, env=environment() | {"PYTHONPATH": str(tmp_path)}, timeout=LIMIT_S,
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 3
    assert reason in done.stderr
    assert "install llamahost again" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_files_have_no_sum_to_keep(tmp_path: Path) -> None:
    verify(tmp_path / "anything.gguf")
    with pytest.raises(LoadFailed, match=r"anything\.gguf"):
        Host(tmp_path / "anything.gguf")


@pytest.mark.slow
def test_the_wheel_contains_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", str(HERE), "--no-deps", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        for path in (BUILTIN_PATH, EMBED_PATH):
            assert opened.read(f"llamahost/builtin/{path.name}") == path.read_bytes()
    assert {f"llamahost/builtin/{name}" for name in ("SHA256SUMS", "pirate.gguf", *KNOWN, "MODEL_CARD.md")} <= names

"""Dockerfile.cuda, read as text where no engine is: its stages, its settings, and that what it names is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import serving
from tests.sources import ROOT

TEXT = (ROOT / "Dockerfile.cuda").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Line:
    """An instruction, its continuation lines joined."""

    word: str
    rest: str


def instructions(text: str) -> list[Line]:
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = kept.replace("\\\n", "")
    return [Line(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


LINES = instructions(TEXT)
BEGINNINGS = [k for k, line in enumerate(LINES) if line.word == "FROM"]
GLOBALS = LINES[: BEGINNINGS[0]]
STAGES = [LINES[begin:end] for begin, end in zip(BEGINNINGS, [*BEGINNINGS[1:], len(LINES)], strict=True)]
BUILDER, RUNTIME = STAGES


def rests(stage: list[Line], word: str) -> list[str]:
    return [line.rest for line in stage if line.word == word]


def only(stage: list[Line], word: str) -> str:
    (rest,) = rests(stage, word)
    return rest


def name_of(argument: str) -> str:
    return argument.partition("=")[0]


def arguments(stage: list[Line]) -> dict[str, str]:
    return {name_of(rest): rest.partition("=")[2].strip('"') for rest in rests(stage, "ARG")}


def test_it_builds_in_one_stage_and_runs_in_another_of_the_same_cuda() -> None:
    assert only(BUILDER, "FROM") == "nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION} AS builder"
    assert only(RUNTIME, "FROM") == "nvidia/cuda:${CUDA_VERSION}-base-ubuntu${UBUNTU_VERSION} AS runtime"
    assert arguments(GLOBALS)["CUDA_VERSION"].startswith("12.")
    assert {line.word for line in LINES} <= {
        *("ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE"),
        *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }


def test_each_argument_is_used() -> None:
    for name in arguments(GLOBALS):
        assert any(f"${{{name}}}" in stage[0].rest for stage in STAGES)
    for stage in STAGES:
        for name in arguments(stage):
            assert any(f"${{{name}" in line.rest for line in stage[1:])


@pytest.mark.parametrize("stage", STAGES, ids=["builder", "runtime"])
def test_what_a_stage_uses_it_has_declared(stage: list[Line]) -> None:
    declared = set(arguments(stage))
    used = {name for line in stage[1:] for name in re.findall(r"\$\{([A-Z][A-Z0-9_]*)", line.rest)}
    assert used <= declared


def test_cards_from_pascal_on_and_processors_without_avx_can_be_asked_for() -> None:
    told = arguments(BUILDER)
    architectures = [int(re.findall(r"^\d+", each)[0]) for each in told["CUDA_ARCHITECTURES"].split(";")]
    assert min(architectures) == 61
    assert architectures == sorted(architectures)
    flags = ("GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")
    assert all(told[flag] == "ON" for flag in flags)
    (build,) = [rest for rest in rests(BUILDER, "RUN") if "CMAKE_ARGS" in rest]
    (given,) = re.findall(r'CMAKE_ARGS="([^"]*)"', build)
    assert {"-DGGML_CUDA=ON", "-DGGML_NATIVE=OFF", "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}"} <= set(
        given.split()
    )
    assert {f"-D{flag}=${{{flag}}}" for flag in flags} <= set(given.split())


def test_llama_cpp_is_the_version_that_the_package_wants() -> None:
    (build,) = [rest for rest in rests(BUILDER, "RUN") if "CMAKE_ARGS" in rest]
    (code,) = re.findall(r'python3 -c "([^"]*)"', build)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    requirement = done.stdout.strip()
    assert requirement.startswith("llama-cpp-python>=")
    assert requirement in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_what_is_copied_is_there_and_not_kept_from_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored  # nothing goes but what is named
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    sources = {source for rest in rests(BUILDER, "COPY") for source in rest.split()[:-1]}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    assert only(RUNTIME, "COPY") == "--from=builder /opt/llamahost /opt/llamahost"


def test_it_runs_as_nobody_in_particular() -> None:
    assert only(RUNTIME, "USER") == "10001:10001"
    (making,) = [rest for rest in rests(RUNTIME, "RUN") if "useradd" in rest]
    assert "--uid 10001" in making
    words = [line.word for line in RUNTIME]
    assert "RUN" not in words[words.index("USER") :]


def test_signals_reach_the_process_itself() -> None:
    entry: list[str] = json.loads(only(RUNTIME, "ENTRYPOINT"))
    assert entry == ["/opt/llamahost/bin/llamahost"]
    assert json.loads(only(RUNTIME, "CMD")) == ["serve"]


def test_health_is_asked_for_with_the_python_that_is_there() -> None:
    options, _, command = only(RUNTIME, "HEALTHCHECK").partition(" CMD ")
    assert all(name in options for name in ("--interval=", "--timeout=", "--start-period=", "--retries="))
    python, flag, code = json.loads(command)
    assert (python, flag) == ("/opt/llamahost/bin/python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/health" in code


@pytest.mark.slow
def test_the_health_check_is_well_while_the_server_is(tmp_path: Path, tiny_llama: Path) -> None:
    *_, code = json.loads(only(RUNTIME, "HEALTHCHECK").partition(" CMD ")[2])

    def check(url: str) -> int:
        environment = {**os.environ, "LLAMAHOST_PORT": url.rpartition(":")[2]}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode

    with serving(tmp_path, tiny_llama) as server:
        server.line("ready: ")
        assert check(server.url) == 0
        assert server.end() == 0
        assert check(server.url) == 1


def test_its_variables_are_ones_that_something_reads() -> None:
    known = (ROOT / ".env.example").read_text(encoding="utf-8")
    settings = dict(pair.partition("=")[::2] for pair in only(RUNTIME, "ENV").split())
    ours = {name: value for name, value in settings.items() if name.startswith("LLAMAHOST_")}
    assert ours == {"LLAMAHOST_HOST": "0.0.0.0", "LLAMAHOST_PORT": "8080"}
    assert all(f"#{name}=" in known for name in ours)
    assert only(RUNTIME, "EXPOSE") == ours["LLAMAHOST_PORT"]
    assert json.loads(only(RUNTIME, "VOLUME")) == ["/models", "/data"]


def test_it_holds_no_secret() -> None:
    assert not re.search(r"(?i)(api_key|password|token|secret)\s*=", TEXT)

"""Laws of `llamahost run`: the answer alone on standard output, one line and a status for what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.gguf_models import write_model
from tests.on_loop import LIMIT_S
from tests.processes import HERE, command, ended, environment, finished


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a template and a context that takes seconds to fill."""
    return write_model(tmp_path_factory.mktemp("run") / "chatty.gguf", "llama", n_ctx=100_000)


def said(folder: Path, text: bytes, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), input=text, capture_output=True, timeout=LIMIT_S
    )


def test_an_answer_is_all_that_standard_output_holds(chatty: Path, tmp_path: Path) -> None:
    """By a name of the manifest, which is as good as a path."""
    (tmp_path / "model_manifest.toml").write_text(
        f'[[models]]\nname = "mine"\naliases = ["m"]\nn_ctx = 256\npath = "{chatty}"\n'
    )
    flags = ("--temperature", "0", "--max-tokens", "8")
    one = finished(tmp_path, "run", "m", "Hello", *flags)
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout.endswith("\n")
    told = json.loads(ended(tmp_path, "run", "m", "Hello", "--json", *flags).stdout)
    assert told["model"] == "mine"
    assert told["text"].removesuffix("\n") == one.stdout.removesuffix("\n")
    assert told["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 8
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + 8
    assert told["timings"]["generation_s"] > 0


@pytest.mark.slow
def test_the_prompt_may_come_from_standard_input(chatty: Path, tmp_path: Path) -> None:
    flags = ("--json", "--temperature", "0", "-n", "4", "--n-ctx", "256")
    given = json.loads(finished(tmp_path, "run", chatty, "Grüße", *flags).stdout)
    for extra in ((), ("-",)):
        read = json.loads(said(tmp_path, "Grüße\n".encode(), "run", chatty, *extra, *flags).stdout)
        assert (read["text"], read["usage"]["prompt_tokens"]) == (given["text"], given["usage"]["prompt_tokens"])
    wrong = said(tmp_path, b"\xff\xfe", "run", chatty)
    assert wrong.returncode == 2
    assert b"not UTF-8" in wrong.stderr
    assert said(tmp_path, b"\n", "run", chatty).returncode == 2


@pytest.mark.slow
def test_a_template_is_used_unless_raw_is_asked_for(chatty: Path, tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain.gguf", "llama", chat_template=None)

    def n_prompt(model: Path, *flags: str) -> int:
        done = finished(tmp_path, "run", model, "abc", "--json", "-n", "1", "--n-ctx", "256", *flags)
        n: int = json.loads(done.stdout)["usage"]["prompt_tokens"]
        return n

    assert n_prompt(chatty, "--system", "Be kind.") > n_prompt(chatty) > n_prompt(chatty, "--raw")
    assert n_prompt(plain, "--template", "chatml") > n_prompt(plain) == n_prompt(plain, "--raw")
    assert finished(tmp_path, "run", chatty, "abc", "--raw", "--system", "x").returncode == 2
    bare = finished(tmp_path, "run", plain, "abc", "--system", "x", "--n-ctx", "256")
    assert bare.returncode == 2
    assert "has no chat template" in bare.stderr


def test_a_name_that_the_manifest_has_not_is_told_with_those_that_it_has(chatty: Path, tmp_path: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text(f'[[models]]\nname = "mine"\npath = "{chatty}"\n')
    missing = ended(tmp_path, "run", "n", "abc")
    assert (missing.returncode, missing.stderr) == (3, "llamahost: there is no file n; the manifest names mine\n")
    alone = ended(tmp_path, "run", "What is this?")
    assert alone.returncode == 3, "the model was forgotten, and the prompt taken for it"
    long = ended(tmp_path, "run", "What is this? " * 30)
    assert (long.returncode, len(long.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "told", "arguments"),
    [
        (2, "temperature", ("MODEL", "hi", "--temperature", "-1")),
        (2, "n_ctx", ("MODEL", "hi", "--n-ctx", "2")),
        (2, "prompt has", ("MODEL", "hello " * 100, "--n-ctx", "64")),
        (2, "empty", ("MODEL", "")),
        (3, "there is no file nowhere.gguf", ("nowhere.gguf", "hi")),
        (3, "bad.gguf", ("bad.gguf", "hi")),
        (5, "nowhere.toml", ("nowhere", "hi", "--manifest", "nowhere.toml")),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_status(
    status: int, told: str, arguments: tuple[str, ...], chatty: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    done = finished(tmp_path, "run", *(str(chatty) if part == "MODEL" else part for part in arguments))
    assert done.returncode == status
    assert done.stdout == ""
    assert told in done.stderr
    assert done.stderr.startswith("llamahost: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_it_with_130(chatty: Path, tmp_path: Path) -> None:
    arguments = command("run", chatty, "abc", "--n-ctx", "100000")
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_every_exit_status_is_told(tmp_path: Path) -> None:
    told = " ".join(ended(tmp_path, "--help").stdout.split())
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    for status in (0, 1, 2, 3, 4, 5, 130):
        assert f" {status} " in told
        assert f"| {status} |" in readme

"""The `llm` command, with this server's models in its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.serving import ENDLESS, KEY, LIMIT_S, N_CTX, NAME, TOO_LONG, Served, installed

pytestmark = pytest.mark.slow

PROMPT = "Hello from llm"
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "12")


class Llm:
    """The command with a folder of its own: keys, models and its log."""

    def __init__(self, folder: Path, url: str) -> None:
        self.environment = {**os.environ, "LLM_USER_PATH": str(folder), "PYTHONUNBUFFERED": "1"}
        (folder / "keys.json").write_text(json.dumps({"mine": KEY}))
        known = {"api_base": url, "api_key_name": "mine"}
        models: list[dict[str, Any]] = [
            {"model_id": "chat", "model_name": NAME, **known},
            {"model_id": "text", "model_name": NAME, **known, "completion": True},
            {"model_id": "nobody", "model_name": f"{NAME}x", **known},
        ]
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "llm", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ask(self, *arguments: str, given: str = "") -> tuple[int, str, str]:
        with self.begin(*arguments) as process:
            out, err = process.communicate(given.encode(), LIMIT_S)
        return process.returncode, out.decode().removesuffix("\n"), err.decode()


@pytest.fixture
def llm(server: Served, tmp_path: Path) -> Llm:
    installed("llm")
    return Llm(tmp_path, server.url)


@pytest.mark.parametrize("more", [(), ("--no-stream",)])
def test_a_chat_is_the_librarys_own_greedy_answer(llm: Llm, server: Served, more: tuple[str, ...]) -> None:
    status, out, err = llm.ask("-m", "chat", PROMPT, *GREEDY, "--usage", *more)
    assert (status, out) == (0, server.chat(PROMPT))
    assert f"{server.n_prompt(PROMPT)} input, 12 output" in err


def test_a_text_is_completed(llm: Llm, server: Served) -> None:
    assert llm.ask("-m", "text", PROMPT, *GREEDY)[:2] == (0, server.complete(PROMPT))


def test_standard_input_a_system_prompt_and_what_was_said_before_come_to_the_model(llm: Llm, server: Served) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": PROMPT}]
    first = server.host.chat(turns, temperature=0.0, max_tokens=12).text
    assert llm.ask("-m", "chat", "--system", "Be short.", *GREEDY, given=PROMPT)[:2] == (0, first)
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "More"}]
    second = server.host.chat(turns, temperature=0.0, max_tokens=12).text
    assert llm.ask("--continue", "More", *GREEDY)[:2] == (0, second)


def test_errors_are_a_line_with_our_words_and_a_status(llm: Llm) -> None:
    for words, arguments in (
        (f"did you mean `{NAME}`", ("-m", "nobody", PROMPT)),
        ("not valid here", ("-m", "chat", PROMPT, "--key", "wrong")),
        (f"`{NAME}`, {N_CTX} tokens", ("-m", "chat")),
    ):
        status, _, err = llm.ask(*arguments, given=TOO_LONG)
        assert status == 1
        assert words in err
        assert "Traceback" not in err


def test_ctrl_c_in_an_answer_frees_the_slot(llm: Llm, server: Served) -> None:
    with (
        server.cancelling(),
        llm.begin("-m", "chat", PROMPT, "-o", "max_tokens", str(ENDLESS["max_tokens"])) as process,
    ):
        assert process.stdin is not None
        process.stdin.close()
        server.until_running()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) != 0

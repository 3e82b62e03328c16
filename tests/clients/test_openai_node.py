"""OpenAI's own library for Node, from the npm registry, run by node itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.serving import ENDLESS, KEY, LIMIT_S, N_MANY, NAME, TOO_LONG, Served, stop_within

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("openai_node.mjs")
PROMPT = "Hello from Node"
INSTALL_S = 120.0

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Path:
    """A folder with the library that this node can run, kept between runs in pytest's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], text=True, capture_output=True, check=True).stdout
    major = int(version.removeprefix("v").partition(".")[0])
    if major < 20:
        pytest.skip(f"openai for Node wants node 20 or newer, this is {version.strip()}")
    wanted = "^7.0.0" if major >= 22 else "^6.0.0"  # 7 wants node 22
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir(f"openai-node-{wanted[1]}")
    package = {"private": True, "type": "module", "dependencies": {"openai": wanted}}
    (folder / "package.json").write_text(json.dumps(package))
    if not (folder / "node_modules" / "openai" / "package.json").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier"]
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=INSTALL_S)
        if done.returncode:
            pytest.skip(f"npm could not install openai {wanted}: {done.stderr.strip()[-300:]}")
    shutil.copy(SCRIPT, folder)  # node looks for packages beside the script
    return folder


@pytest.fixture
def ask(library: Path, server: Served) -> Ask:
    """Run one case of the script; what it says."""

    def run(case: str, **words: Any) -> Any:
        told = {"name": NAME, "prompt": PROMPT, "too_long": TOO_LONG, "n_many": N_MANY, "endless": ENDLESS, **words}
        done = subprocess.run(
            ["node", SCRIPT.name, case],
            cwd=library,
            env={**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "WORDS": json.dumps(told)},
            text=True,
            capture_output=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_chat_is_the_librarys_own_greedy_answer(ask: Ask, server: Served) -> None:
    answer = ask("chat")
    assert answer["status"] == 200
    assert answer["model"] == NAME
    assert answer["message"]["role"] == "assistant"
    assert answer["message"]["content"] == server.chat(PROMPT)
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == server.n_prompt(PROMPT)
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["total_tokens"] == 12 + server.n_prompt(PROMPT)
    assert answer["request"].startswith("req_")  # of our header, where the library looks for it


def test_a_stream_has_a_role_the_words_a_reason_and_usage(ask: Ask, server: Served) -> None:
    chunks = ask("stream")
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == server.chat(PROMPT)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_the_streaming_helper_puts_the_answer_together(ask: Ask, server: Served) -> None:
    told = ask("helper")
    assert told["text"] == server.chat(PROMPT)
    assert told["snapshots"][-1] == told["text"]
    assert told["finish"] == "length"


def test_completions_take_many_prompts_and_tell_logprobs(ask: Ask, server: Served) -> None:
    answer = ask("completion")
    assert [choice["text"] for choice in answer["choices"]] == [server.complete(PROMPT), server.complete("one")]
    for choice in answer["choices"]:
        assert len(choice["logprobs"]["tokens"]) == 12
        assert all(logprob <= 0 for logprob in choice["logprobs"]["token_logprobs"])
    assert answer["usage"]["completion_tokens"] == 24


def test_a_stop_string_ends_the_answer_before_itself(ask: Ask, server: Served) -> None:
    whole = server.complete(PROMPT)
    stop = stop_within(whole)
    choice = ask("stopped", stop=stop)
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_many_at_once_get_what_each_gets_alone(ask: Ask, server: Served) -> None:
    assert ask("many") == [server.complete(f"number {k}") for k in range(N_MANY)]


def test_models_are_listed_and_found(ask: Ask) -> None:
    told = ask("models")
    assert told["ids"] == [NAME]
    assert told["one"]["id"] == NAME
    assert told["one"]["object"] == "model"


def test_errors_are_the_librarys_own_classes_with_our_words(ask: Ask) -> None:
    told = ask("errors")
    assert all(error["isOurs"] for error in told.values())
    assert told["unknown"]["name"] == "NotFoundError"
    assert told["unknown"]["code"] == "model_not_found"
    assert f"did you mean `{NAME}`" in told["unknown"]["message"]
    assert told["key"]["name"] == "AuthenticationError"
    assert told["key"]["code"] == "invalid_api_key"
    for long in (told["long"], told["long_streamed"]):
        assert long["name"] == "BadRequestError"
        assert (long["code"], long["type"]) == ("context_length_exceeded", "exceed_context_size_error")
        assert "context size of `tiny`, 8192 tokens" in long["message"]
    assert told["range"]["name"] == "BadRequestError"
    assert told["range"]["param"] == "temperature"


def test_leaving_a_stream_frees_the_slot(ask: Ask, server: Served) -> None:
    with server.cancelling():
        ask("cancel")


def test_aborting_a_request_that_is_not_streamed_frees_the_slot(ask: Ask, server: Served) -> None:
    with server.cancelling():
        error = ask("abort")
    assert error["name"] == "APIUserAbortError"
